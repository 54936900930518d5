"""Trials of a job: list them, fetch their networks, or all of them as a study of Optuna's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from api.analysis import Analysis, readable
from api.dependencies import Limit, Service, Services
from api.generated import Generated, answer, in_turn
from api.problems import BYTES, Problem, responses
from api.schemas import TrialPage, listed_trial_view
from api.study import write_study
from api.trial_network import write_trial
from espalier.format.package import read_package
from models.job import Job
from models.jobs import get_job, get_trial, kept_trials, trials_of
from models.overview import scored_trials
from models.trial import Trial
from search.space import Kept
from search.spec import JobSpec
from search.strategies.front import front_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MEDIA_TYPE = "application/vnd.espalier.network+zip"
_MADE = responses(
    404, 422, also={200: BYTES, 304: {"description": "Not changed since the given ETag"}}
)
Condition = Annotated[str | None, Header()]
_NAMED = 5  # trials that a message lists


@router.get("/{job}/trials", operation_id="listTrials", responses=responses(404, 422))
def list_all(
    job: str,
    service: Services,
    limit: Limit = 100,
    cursor: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
) -> TrialPage:
    """The plans that were tried, in the order of their numbers."""
    with service.database.transaction(write=False) as session:
        row = get_job(session, job)
        strategy = JobSpec.stored(row.spec).strategy
        ahead = front_of(strategy, scored_trials(session, job))
        rows = trials_of(session, job, limit=limit + 1, after=cursor)
        more = str(rows[limit - 1].number) if len(rows) > limit else None
        items = [listed_trial_view(each, ahead, ended=row.terminal) for each in rows[:limit]]
        return TrialPage(items=items, next_cursor=more)


def _facts(job: Job, trial: Trial) -> dict[str, Any]:
    """What the package says about where it is from.

    Of its `weights`: `original`, cut and nothing else; `tuned` by gradient steps; `solved` for,
    layer after layer; or `scored`, where the job has no weights solved for.
    """
    weights = "tuned"
    if trial.solve is not None:
        weights = "solved" if "solved_on" in (trial.metrics or {}) else "scored"
    return {
        "job": job.id,
        "number": trial.number,
        "strategy": job.strategy,
        "plan": trial.plan,
        "score": trial.score,
        "metrics": trial.metrics,
        "cost": trial.cost,
        "tuning_steps": trial.tuning_steps,
        "weights": "original" if trial.weights is None else weights,
        "finetuned": False,
    }


def _not_kept(job: Job, trial: Trial, kept: list[int]) -> Problem:
    if trial.finished_at is None and job.terminal:
        why = f"was not measured before its job ended as {job.state}: take another one"
    elif trial.finished_at is None:
        why = "is not measured yet: try again when it is done"
    elif trial.score is None:
        why = "failed: take another one"
    else:
        why = "was not chosen to go on from, and its weights are gone: take another one"
    there = ", ".join(map(str, kept[:_NAMED])) or "none"
    if len(kept) > _NAMED:
        there += f" and {len(kept) - _NAMED} more"
    return Problem(
        404,
        "trial.not_kept",
        f"trial {trial.number} of job {trial.job_id} {why} (kept: {there})",
        kept=kept,
    )


def _written(service: Service, job_id: str, number: int, path: Path) -> Generated:
    with service.database.transaction(write=False) as session:
        trial = get_trial(session, job_id, number)
        job = get_job(session, job_id)
        if not trial.fetchable or trial.kept is None:
            raise _not_kept(job, trial, kept_trials(session, job_id))
        network, weights, facts = job.network.digest, trial.weights, _facts(job, trial)
        kept: Kept = tuple(map(tuple, trial.kept))
    with readable(service.blobs, network) as original:
        package = read_package(original)
        analysis = service.analyses.get(network, lambda: Analysis.of(package.graph))
        if weights is None:
            return write_trial(path, package, analysis.space, kept, None, facts)
        with readable(service.blobs, weights) as file:
            return write_trial(path, package, analysis.space, kept, file, facts)


def _network(service: Service, job: str, number: int, if_none_match: str | None) -> Response:
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        network = _written(service, job, number, Path(folder) / "network.espalier")
        return answer(network, f"{job}-trial-{number}.espalier", MEDIA_TYPE, if_none_match)


@router.get(
    "/{job}/trials/{number}/network",
    operation_id="downloadTrial",
    tags=["results"],
    response_class=StreamingResponse,
    responses=_MADE,
)
async def network(
    job: str,
    number: Annotated[int, InPath(ge=0, lt=2**31)],
    request: Request,
    service: Services,
    if_none_match: Condition = None,
) -> Response:
    """A trial's network as a package, not fine-tuned; `weights` in its manifest says what it has.

    `solved`: of `allocate` and `nsga2`, the finalists and the points come with the weights that
    they were scored with, ready for use. `scored`: the same of a job without reconstruction: cut
    and recalibrated. `tuned`: so does, of a search that tunes its trials, the
    winner of each iteration: a family of networks, from the widest to the one within the budget.
    `original`: any other trial that succeeded is the original, cut, with the original's weights and
    batch-norm statistics. It was scored after reconstruction and recalibration, so fine-tune it
    before it is used.
    """
    return await in_turn(request, service, _network, service, job, number, if_none_match)


def _study(service: Service, job: str, if_none_match: str | None) -> Response:
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        path = Path(folder) / "study.db"
        with service.database.transaction(write=False) as session:
            row = get_job(session, job)
            write_study(path, row, trials_of(session, job, limit=None))
        study = Generated.at(path)
        return answer(study, f"{job}-study.db", "application/vnd.sqlite3", if_none_match)


@router.get(
    "/{job}/study",
    operation_id="downloadStudy",
    tags=["results"],
    response_class=StreamingResponse,
    responses=_MADE,
)
async def study(
    job: str, request: Request, service: Services, if_none_match: Condition = None
) -> Response:
    """The job's trials so far as a storage of Optuna's, a SQLite file, for optuna-dashboard.

    Of any strategy: parameters are the keep ratios of the channel groups, values the score or,
    of a search for several objectives, each of them; metrics and costs are user attributes.
    """
    return await in_turn(request, service, _study, service, job, if_none_match)
