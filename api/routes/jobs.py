"""Jobs: validate, create, list, watch, steer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Query, Request, Response
from sqlalchemy.orm import Session

from api.analysis import check_job
from api.dependencies import Cursor, Limit, Service, Services
from api.headers import etag, matches
from api.kept_widths import kept_widths
from api.problems import FieldProblem, Problem, refused, responses
from api.replies import reply
from api.schemas import JobPage, example_spec, job_view, shown
from api.views import JobView, ValidationView
from api.writing import committed, writing
from models.deletion import delete_job
from models.errors import NotFound
from models.job import Job, State
from models.jobs import (
    create_job,
    get_job,
    list_jobs,
    request_cancel,
    request_pause,
    resume,
)
from models.offers import check_known, target_of
from models.overview import best_trials, measured_trials, waiting_for
from models.uploads import get_dataset, get_network
from search.cost import Budget, UnreachableBudget
from search.evaluation.errors import DatasetError
from search.spec import JobSpec

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Spec = Annotated[JobSpec, Body(examples=[example_spec()])]
Filter = Annotated[str | None, Query(max_length=200)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[ -~]+$",  # what a header carries unharmed
        description="the same key and body give the same job, however often they are sent",
    ),
]


def _viewed(session: Session, rows: Sequence[Job]) -> Callable[[Job], JobView]:
    """What makes views of these rows: what they need is looked up for all of them at once."""
    best = best_trials(session, rows)
    counts = measured_trials(session, [row.id for row in rows])
    waiting = waiting_for(session, [row.id for row in rows if not row.terminal])
    return lambda row: job_view(row, best.get(row.id), counts.get(row.id, 0), waiting.get(row.id))


def view(session: Session, row: Job) -> JobView:
    return _viewed(session, [row])(row)


def _checked(service: Service, spec: JobSpec, *, tells: bool = False) -> ValidationView:
    """What the job would do.

    Args:
        tells: the widths that run fast on the target, where they are known.

    Raises:
        Problem: 422 that names the field.
    """
    with service.database.transaction(write=False) as session:
        try:
            network = get_network(session, spec.network)
        except NotFound as error:
            raise refused(error, "network") from error
        try:
            dataset = get_dataset(session, spec.dataset)
        except NotFound as error:
            raise refused(error, "dataset") from error
        try:
            check_known(session, target_of(spec.model_dump(include={"target"})))
        except NotFound as error:
            raise refused(error, "target.device") from error
    analysis = service.analysis(network.digest)
    fast = None
    if tells and spec.rounding.multiple == "auto":
        with service.database.transaction(write=False) as session:
            fast = kept_widths(session, spec, analysis)
    try:
        return check_job(spec, analysis, network.description["classes"], dataset.description, fast)
    except UnreachableBudget as error:
        raise _unreachable(spec, analysis.cost.full, error) from error
    except DatasetError as error:
        raise refused(error, error.field) from error


def _unreachable(spec: JobSpec, full: Mapping[str, int], error: UnreachableBudget) -> Problem:
    """With the least that each limit which is missed would have to be."""
    fields = [
        FieldProblem(
            field=f"budget.{name}",
            message=f"{limit:,} cannot be reached",
            limit=f"at least {error.smallest[name]}",
            way_out=f"raise budget.{name}, or lower rounding.minimum and rounding.multiple",
        )
        for name, limit in Budget.resolve(spec.budget, full).limits.items()
        if limit < error.smallest[name]
    ]
    return Problem(422, error.code, str(error), errors=fields, smallest=error.smallest)


@router.post("/validate", operation_id="validateJob", responses=responses(400, 422))
def validate(spec: Spec, service: Services) -> ValidationView:
    """Check a job without starting it: references, budget in absolute numbers, fit of the data.

    Nothing is measured: which widths run fast on the target is told where earlier jobs have left
    the times of all layers, and else follows when the job is prepared.
    """
    return _checked(service, spec, tells=True)


@router.post(
    "",
    operation_id="createJob",
    status_code=201,
    response_model=JobView,
    responses=responses(
        400, 422, also={200: {"model": JobView, "description": "Made before, with this key"}}
    ),
)
@writing
def create(spec: Spec, service: Services, key: Key = None) -> Response:
    """Start a job. It is safe once this answers: no crash of a process loses it."""
    checked = _checked(service, spec)

    def act(session: Session) -> Response:
        made = create_job(session, checked.spec, idempotency_key=key, request=spec.request)
        headers = {"Location": f"/v1/jobs/{made.job.id}"}
        if made.new:
            return reply(view(session, made.job), 201, headers=headers)
        return reply(view(session, made.job), headers=headers | {"Idempotent-Replay": "true"})

    return committed(service, act)


@router.get("", operation_id="listJobs", responses=responses(422))
def list_all(
    service: Services,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: State | None = None,
    network: Filter = None,
    dataset: Filter = None,
    strategy: Filter = None,
    name: Filter = None,
) -> JobPage:
    """Jobs, the newest first; every filter that is given holds."""
    with service.database.transaction(write=False) as session:
        page = list_jobs(
            session,
            limit=limit,
            cursor=cursor,
            state=state,
            network=network,
            dataset=dataset,
            strategy=strategy,
            name=name,
        )
        return JobPage(
            items=shown(page.items, _viewed(session, page.items)), next_cursor=page.cursor
        )


def _show(service: Service, job: str) -> JobView:
    with service.database.transaction(write=False) as session:
        return view(session, get_job(session, job))


@router.get(
    "/{job}",
    operation_id="getJob",
    response_model=JobView,
    responses=responses(404, 422, also={304: {"description": "Not changed since the given ETag"}}),
)
async def get(
    job: str,
    request: Request,
    service: Services,
    response: Response,
    wait: Annotated[
        float, Query(ge=0, le=60, description="seconds to wait for a change; 0 answers at once")
    ] = 0,
    if_none_match: Annotated[
        str | None, Header(description="ETag of the version that the client knows")
    ] = None,
) -> JobView | Response:
    """A job as it is; with `wait`, as soon as it differs from the version the client knows.

    Without `If-None-Match` the version known is that at the time of the request. A job that is
    terminal is answered at once. When the time is up, the answer is 304 with `If-None-Match`, the
    unchanged job without.
    """
    shown = await to_thread.run_sync(_show, service, job)
    known = if_none_match is not None and matches(if_none_match, etag(shown.version))
    waits = not shown.terminal and (if_none_match is None or known)
    if (
        wait
        and waits
        and await service.watch.changed(job, shown.version, wait, request.is_disconnected)
    ):
        shown = await to_thread.run_sync(_show, service, job)
        known = False
    headers = {"ETag": etag(shown.version), "Cache-Control": "no-cache"}
    if known:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return shown


@router.delete(
    "/{job}",
    operation_id="deleteJob",
    status_code=204,
    response_class=Response,
    responses=responses(404, 409),
)
@writing
def delete(job: str, service: Services) -> Response:
    """Delete a job that has ended: its history, and the files that nothing else uses.

    One that has not ended must be canceled first. Network and dataset stay.
    """

    def act(session: Session) -> Response:
        delete_job(session, job)
        return Response(status_code=204)

    return committed(service, act)


_STEERED = responses(404, 409)


def _steer(service: Service, job: str, action: Literal["cancel", "pause", "resume"]) -> Response:
    act = {"cancel": request_cancel, "pause": request_pause, "resume": resume}[action]
    return committed(service, lambda session: reply(view(session, act(session, job))))


@router.post("/{job}/cancel", operation_id="cancelJob", response_model=JobView, responses=_STEERED)
@writing
def cancel(job: str, service: Services) -> Response:
    """End a job for good. To cancel it again changes nothing."""
    return _steer(service, job, "cancel")


@router.post("/{job}/pause", operation_id="pauseJob", response_model=JobView, responses=_STEERED)
@writing
def pause(job: str, service: Services) -> Response:
    """Stop a job at its next checkpoint, to be resumed. To pause it again changes nothing."""
    return _steer(service, job, "pause")


@router.post("/{job}/resume", operation_id="resumeJob", response_model=JobView, responses=_STEERED)
@writing
def resume_job(job: str, service: Services) -> Response:
    """Let a paused job go on."""
    return _steer(service, job, "resume")
