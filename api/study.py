"""A job's trials as a study in a storage of Optuna's, a SQLite file for optuna-dashboard."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData

from models.job import Job
from models.trial import Trial
from search.spec import JobSpec
from search.strategies.front import aims_of, directions, values_of
from search.strategy_specs import Objective

Row = dict[str, Any]

_making = threading.Lock()  # Optuna marks the version of its tables with Alembic, which is global


def write_study(path: Path, job: Job, trials: Sequence[Trial]) -> None:
    """Write the storage, with one study that is named after the job.

    Optuna makes the tables. The rows are written here, all at once: through Optuna's own calls a
    trial of 27 groups takes more than a hundred statements, and 200 of them take a minute.

    Args:
        trials: in the order of their numbers, which count from 0.
    """
    import optuna

    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.WARNING)
    spec = JobSpec.stored(job.spec)
    objectives = aims_of(spec.strategy)
    names = [
        f"score ({spec.evaluation.metric})" if name == "score" else name for name in objectives
    ]
    with _making:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        try:
            study = optuna.create_study(
                storage=storage, study_name=job.id, directions=directions(objectives)
            )
            for key, value in _facts(job, spec).items():
                study.set_user_attr(key, value)
            # What `Study.set_metric_names` does, which warns that it is experimental.
            storage.set_study_system_attr(study._study_id, "study:metric_names", names)
            with storage.engine.begin() as connection:
                _fill(connection, study._study_id, job, trials, objectives)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _facts(job: Job, spec: JobSpec) -> Row:
    """About the whole study."""
    return {
        "job": job.name or job.id,
        "strategy": spec.strategy.model_dump(mode="json"),
        "budget": spec.budget.limits(),
        "criterion": spec.ranking,
        "best trial": job.best,
    }


def _moment(seconds: float | None) -> datetime | None:
    """A time in UTC without its time zone, as Optuna stores times."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _attributes(trial: Trial) -> Row:
    given: Mapping[str, Any] = {
        "plan": trial.plan,
        "parent": trial.parent,
        "tuning_steps": trial.tuning_steps,
        **trial.tags,
        **(trial.metrics or {}),
        **(trial.cost or {}),
    }
    return {key: value for key, value in given.items() if value is not None}


def _fill(
    connection: Connection,
    study: int,
    job: Job,
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
) -> None:
    """Write the trials' rows into the tables that Optuna made."""
    from optuna.distributions import FloatDistribution, distribution_to_json

    known = MetaData()
    known.reflect(connection)
    groups = (job.prepared or {}).get("groups", [])
    ratio = distribution_to_json(FloatDistribution(0.0, 1.0))

    def write(table: str, rows: Iterator[Row]) -> None:
        if found := list(rows):
            connection.execute(known.tables[table].insert(), found)

    write(
        "trials",
        (
            {
                "trial_id": trial.number + 1,
                "number": trial.number,
                "study_id": study,
                "state": _state(job, trial),
                "datetime_start": _moment(trial.created_at),
                "datetime_complete": _moment(
                    job.finished_at if trial.finished_at is None else trial.finished_at
                ),
            }
            for trial in trials
        ),
    )
    write(
        "trial_params",
        (
            {
                "trial_id": trial.number + 1,
                "param_name": group["name"],
                "param_value": width / group["channels"],
                "distribution_json": ratio,
            }
            for trial in trials
            for width, group in zip(trial.plan, groups, strict=True)
        ),
    )
    write(
        "trial_values",
        (
            {
                "trial_id": trial.number + 1,
                "objective": index,
                "value": value,
                "value_type": "FINITE",
            }
            for trial in trials
            if trial.score is not None
            for index, value in enumerate(values_of(objectives, trial.score, trial.cost or {}))
        ),
    )
    write(
        "trial_user_attributes",
        (
            {"trial_id": trial.number + 1, "key": key, "value_json": json.dumps(value)}
            for trial in trials
            for key, value in _attributes(trial).items()
        ),
    )


def _state(job: Job, trial: Trial) -> str:
    if trial.finished_at is None and not job.terminal:
        return "RUNNING"
    return "FAIL" if trial.score is None else "COMPLETE"
