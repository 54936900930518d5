"""Which loss curves a job is offered, and from which earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.orm import Session

from models.database import Database
from models.deletion import delete_job
from models.job import Job
from models.jobs import create_job, get_job, request_cancel
from models.trial import Trial
from models.uploads import create_dataset, create_network
from search.spec import JobSpec
from worker.levels import known_curves

LOSSES = [[0.5, 0.25, 0.0], [1.0, 0.0]]
GROUPS = [{"name": "first", "channels": 3}, {"name": "second", "channels": 2}]
CHOICES = [[1, 2, 3], [1, 2]]
COARSE = [[2, 3], [2]]


@pytest.fixture
def files(database: Database) -> dict[str, str]:
    """Ids of two networks and two datasets."""
    with database.transaction() as session:
        given: dict[str, Any] = {"size_bytes": 1, "description": {}}
        made = {}
        for place, name in enumerate(("network", "other network")):
            row = create_network(session, name=name, digest=f"{place}" * 64, **given)
            made[name] = row.id
        for place, name in enumerate(("dataset", "other dataset")):
            data = create_dataset(session, name=name, digest=f"{place + 2}" * 64, **given)
            made[name] = data.id
        return made


def submitted(session: Session, files: dict[str, str], **changes: Any) -> Job:
    spec = {
        "network": files["network"],
        "dataset": files["dataset"],
        "budget": {"macs": "50%"},
        "strategy": {"name": "allocate"},
        **changes,
    }
    return create_job(session, JobSpec.model_validate(spec).model_dump(mode="json")).job


def measured(
    session: Session,
    job: Job,
    losses: Sequence[list[float] | None] = LOSSES,
    finished: bool = True,
    **prepared: Any,
) -> None:
    """Its levels are measured by its own trials; `None` for one that failed."""
    job.prepared = {"groups": GROUPS, "choices": CHOICES, "levels": None, **prepared}
    for group, found in enumerate(losses):
        session.add(
            Trial(
                job_id=job.id, number=group, plan=[1, 1], tuning_steps=0, tags={}, levels_of=group,
                losses=found, finished_at=1.0 if finished else None,
            )
        )  # fmt: skip
    session.flush()


def offered(session: Session, files: dict[str, str], **changes: Any) -> list[Any]:
    """The losses that a new job is offered."""
    return [
        curves["losses"] for curves in known_curves(session, submitted(session, files, **changes))
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": {"params": 1000}},
        {"strategy": {"name": "allocate", "trials": 5, "points": 3}},
        {"criterion": "obs"},
        {"evaluation": {"metric": "agreement", "racing": True, "allow_chance": True}},
        {"finetune": {"epochs": 0}, "name": "another"},
        {"rounding": {"multiple": 2}},
    ],
)
def test_a_job_that_agrees_is_offered_them(
    database: Database, files: dict[str, str], changes: dict[str, Any]
) -> None:
    with database.transaction() as session:
        measured(session, submitted(session, files))
        assert offered(session, files, **changes) == [LOSSES]


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "other network"},
        {"dataset": "other dataset"},
        {"seed": 1},
        {"criterion": "l1"},
        {"evaluation": {"calibration": 100}},
        {"evaluation": {"holdout": 100}},
        {"evaluation": {"reconstruction": "sequential"}},
        {"version": 1},
        {"strategy": {"name": "uniform"}},
    ],
)
def test_a_job_that_differs_does_not(
    database: Database, files: dict[str, str], changes: dict[str, Any]
) -> None:
    changes = {key: files.get(str(value), value) for key, value in changes.items()}
    with database.transaction() as session:
        measured(session, submitted(session, files))
        assert offered(session, files, **changes) == []


def test_what_was_taken_over_is_handed_on(database: Database, files: dict[str, str]) -> None:
    with database.transaction() as session:
        submitted(session, files).prepared = {"groups": GROUPS, "levels": LOSSES}
        assert offered(session, files) == [LOSSES]


def test_each_set_of_allowed_widths_has_its_own_and_the_newest_is_offered(
    database: Database, files: dict[str, str]
) -> None:
    older, coarse = ([[x * scale for x in row] for row in LOSSES] for scale in (2, 3))
    with database.transaction() as session:
        measured(session, submitted(session, files), older)
        measured(session, submitted(session, files), coarse, choices=COARSE)
        measured(session, submitted(session, files, rounding={"multiple": 2}))
        found = known_curves(session, submitted(session, files))
    assert [(each["choices"], each["losses"]) for each in found] == [
        (CHOICES, LOSSES),
        (COARSE, coarse),
    ]


def test_of_jobs_from_before_the_widths_were_stored_the_rounding_is_told(
    database: Database, files: dict[str, str]
) -> None:
    """`search.engine.prepare` finds out which widths those were."""
    with database.transaction() as session:
        for multiple in (1, 1, 2):
            job = submitted(session, files, rounding={"multiple": multiple})
            measured(session, job)
            job.prepared = {"groups": GROUPS, "levels": None}
        found = known_curves(session, submitted(session, files))
    assert [(each["choices"], each["rounding"]["multiple"]) for each in found] == [
        (None, 2),
        (None, 1),
    ]


@pytest.mark.parametrize("losses", [[LOSSES[0]], [LOSSES[0], None]])
def test_levels_that_are_not_all_there_are_measured_anew(
    database: Database, files: dict[str, str], losses: list[list[float] | None]
) -> None:
    """One trial has not come back, or failed: an older job may have them all."""
    with database.transaction() as session:
        older = submitted(session, files)
        measured(session, submitted(session, files), losses)
        assert offered(session, files) == []
        measured(session, older)
        assert offered(session, files) == [LOSSES]


def test_a_job_that_is_running_or_was_canceled_has_them_too(
    database: Database, files: dict[str, str]
) -> None:
    with database.transaction() as session:
        first = submitted(session, files)
        measured(session, first, finished=False)
        assert offered(session, files) == []
        for trial in session.query(Trial):
            trial.finished_at = 1.0
        request_cancel(session, first.id)
        assert offered(session, files) == [LOSSES]


def test_a_deleted_job_has_none(database: Database, files: dict[str, str]) -> None:
    with database.transaction() as session:
        first = submitted(session, files).id
        measured(session, get_job(session, first))
        request_cancel(session, first)
    with database.transaction() as session:
        delete_job(session, first)
    with database.transaction() as session:
        assert offered(session, files) == []
