"""Trials of a job: list, and fetch the networks of those whose weights are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Header, Query, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from api.analysis import Analysis, readable
from api.conditions import file_headers, matches
from api.dependencies import Limit, Service, Services
from api.family import Written, write_trial
from api.problems import BYTES, Problem, responses
from api.schemas import TrialPage, trial_view
from espalier.format.package import read_package
from models.blobs import CHUNK_BYTES
from models.job import Job
from models.jobs import get_job, get_trial, kept_trials, trials_of
from models.trial import Trial
from search.space import Kept

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MEDIA_TYPE = "application/vnd.espalier.network+zip"


@router.get("/{job}/trials", operation_id="listTrials", responses=responses(404, 422))
def list_all(
    job: str,
    service: Services,
    limit: Limit = 100,
    cursor: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
) -> TrialPage:
    """The plans that were tried, in the order of their numbers."""
    with service.database.transaction(write=False) as session:
        get_job(session, job)
        rows = trials_of(session, job, limit=limit + 1, after=cursor)
        more = str(rows[limit - 1].number) if len(rows) > limit else None
        return TrialPage(items=[trial_view(row) for row in rows[:limit]], next_cursor=more)


def _facts(job: Job, trial: Trial) -> dict[str, Any]:
    """What the package says about where it is from."""
    return {
        "job": job.id,
        "number": trial.number,
        "strategy": job.strategy,
        "plan": trial.plan,
        "score": trial.score,
        "metrics": trial.metrics,
        "cost": trial.cost,
        "tuning_steps": trial.tuning_steps,
        "finetuned": False,
    }


def _not_kept(trial: Trial, kept: list[int]) -> Problem:
    if trial.finished_at is None:
        why = "is not measured yet: try again when it is done"
    elif trial.score is None:
        why = "failed: take another one"
    elif trial.parent is None and trial.tuning_steps == 0:
        why = (
            "was scored without tuning and has no weights of its own: only the winner's network is "
            "kept, among the job's artifacts; submit with strategy.tuning_steps for a family"
        )
    else:
        why = "was not chosen to go on from, and its weights are gone: take another one"
    there = ", ".join(map(str, kept)) or "none"
    return Problem(
        404,
        "trial.not_kept",
        f"trial {trial.number} of job {trial.job_id} {why} (kept: {there})",
        kept=kept,
    )


def _written(service: Service, job_id: str, number: int, path: Path) -> Written:
    with service.database.transaction(write=False) as session:
        trial = get_trial(session, job_id, number)
        if trial.weights is None or trial.kept is None or trial.score is None:
            raise _not_kept(trial, kept_trials(session, job_id))
        job = get_job(session, job_id)
        network, weights, facts = job.network.digest, trial.weights, _facts(job, trial)
        kept: Kept = tuple(map(tuple, trial.kept))
    with readable(service.blobs, network) as file:
        package = read_package(file)
    analysis = service.analyses.get(network, lambda: Analysis.of(package.graph))
    with readable(service.blobs, weights) as file:
        return write_trial(path, package.manifest, analysis.space, kept, file, weights, facts)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


@router.get(
    "/{job}/trials/{number}/network",
    operation_id="downloadTrial",
    tags=["results"],
    response_class=StreamingResponse,
    responses=responses(
        404,
        422,
        also={200: BYTES, 304: {"description": "Not changed since the given ETag"}},
    ),
)
def network(
    job: str,
    number: Annotated[int, InPath(ge=0, lt=2**31)],
    service: Services,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A trial's network as a package, with the weights that it was scored with.

    Of a search that tunes its trials, the winner of each iteration is kept: a family of networks,
    from the widest to the one within the budget. They are not fine-tuned.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        written = _written(service, job, number, Path(folder) / "network.espalier")
        headers = file_headers(f"{job}-trial-{number}.espalier", written.digest)
        headers["Cache-Control"] = "private, no-cache"
        if if_none_match is not None and matches(if_none_match, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        headers["Content-Length"] = str(written.size_bytes)
        file = written.path.open("rb")  # which outlives its name
    return StreamingResponse(_pieces(file), headers=headers, media_type=MEDIA_TYPE)
