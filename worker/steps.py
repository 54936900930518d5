"""What each kind of work is: arguments from the rows, and the rows from the result.

    prepare -> advance <-> evaluate ... -> tune ... -> finalize -> succeeded

`shared` and `arguments` read; `commit` writes the result, the events and the work that follows in
one transaction that holds only if the attempt still owns the unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, undefer

from espalier.targets import Target
from models.artifact import Artifact
from models.base import clock_s
from models.blobs import BlobStore
from models.chain_times import keep_times, known_times
from models.claims import Claim, complete
from models.ending import end, settle
from models.events import append
from models.job import Job, State
from models.jobs import get_job
from models.offers import Offer, target_of
from models.queue import OPEN, enqueue, enqueue_trials
from models.references import release, release_job, release_weights, retain
from models.settings import Settings
from models.states import move
from models.trial import Trial
from models.work import Kind, Work, WorkState
from search.strategy_specs import LEARNING
from worker.levels import known_curves

Values = dict[str, Any]


def shared(session: Session, job_id: str) -> Values:
    """What the child needs for every unit of a job, as JSON values; complete after `prepare`."""
    job = get_job(session, job_id)
    return {
        "inputs": {
            "spec": job.spec,
            "network": job.network.digest,
            "dataset": job.dataset.digest,
        },
        "prepared": job.prepared,
    }


def arguments(
    session: Session, claim: Claim, settings: Settings, offers: Sequence[Offer] = ()
) -> Values:
    """What the child needs for this unit besides, as JSON values.

    Args:
        offers: the worker's.
    """
    job = get_job(session, claim.job_id)
    given: Values = {}
    if claim.kind is Kind.PREPARE:
        given["curves"] = known_curves(session, job)
        target = _target(job, offers)
        given["seconds"] = {} if target is None else known_times(session, target.key)
    elif claim.kind is Kind.ADVANCE:
        untold = select(Trial).where(Trial.job_id == job.id, ~Trial.told).order_by(Trial.number)
        found = session.scalars(untold).all()
        outcomes = [_outcome(row) for row in found if row.finished_at is not None]
        given["state"] = None if job.snapshot is None else json.loads(job.snapshot)
        given["outcomes"] = outcomes
        given["slots"] = max(0, _ahead(session, job, settings) - (len(found) - len(outcomes)))
    elif claim.kind is Kind.EVALUATE:
        row = _trial(session, job, claim.trial)
        given["proposal"] = _proposal(row)
        given["parent"] = None if row.parent is None else _result(_trial(session, job, row.parent))
    else:
        given["winner"] = _result(_trial(session, job, job.best))
        given["checkpoint"] = job.checkpoint
        if claim.kind is Kind.TUNE:
            given["max_seconds"] = settings.slice_s
        else:
            rows = session.scalars(
                select(Trial)
                .where(Trial.job_id == job.id, Trial.finished_at.is_not(None))
                .order_by(Trial.number)
            )
            given["trials"] = [{"proposal": _proposal(r), "outcome": _outcome(r)} for r in rows]
    return given


def _target(job: Job, offers: Sequence[Offer]) -> Target | None:
    """The one among the worker's that a job asks for; `None` if there is none."""
    asked = target_of(job.spec)
    for offer in offers:
        if asked in (offer.runtime, offer.id):
            given = job.spec["target"]
            return offer.target(threads=given["threads"], batch=given["batch"])
    return None


def _ahead(session: Session, job: Job, settings: Settings) -> int:
    """How many trials may be out at once.

    For a strategy that learns, two more than are running: one for this slot, and one by which an
    idle slot is told from none, so that all slots get work and no outcome waits to be learnt from.
    """
    if job.spec["strategy"]["name"] not in LEARNING:
        return settings.trials_ahead
    running = select(func.count()).where(
        Work.job_id == job.id, Work.kind == Kind.EVALUATE, Work.state == WorkState.CLAIMED
    )
    return min(settings.trials_ahead, (session.scalar(running) or 0) + 2)


def commit(
    session: Session,
    claim: Claim,
    given: Values,
    result: Values,
    store: BlobStore,
    seconds: float | None = None,
) -> Job:
    """Write a unit's result and what follows from it.

    Args:
        given: the unit's arguments.
        store: where the blobs are that the result names.
        seconds: how long the step took.
    Returns:
        Its job, locked.
    Raises:
        LeaseLost: the attempt has been replaced; nothing was written.
    """
    job = complete(session, claim, seconds)
    _COMMITS[claim.kind](session, job, claim, given, result, store)
    settle(session, job)
    return job


def fail(session: Session, claim: Claim, code: str, message: str) -> None:
    """End a job because of an error that trying again cannot mend.

    Raises:
        LeaseLost: the attempt has been replaced; nothing was written.
    """
    job = complete(session, claim)
    end(session, job, State.FAILED, code=code, error=message)


def report(session: Session, job: Job, stage: str, fraction: float, facts: Values) -> None:
    """Show how far a job is, as an event and on its row.

    What is done again after a fault counts once: within a stage the fraction never falls.
    """
    if stage == job.stage:
        fraction = max(fraction, job.fraction)
    job.stage, job.fraction = stage, fraction
    append(session, job, "progress", {"stage": stage, "fraction": fraction, "facts": finite(facts)})


def _warn(session: Session, job: Job, warnings: Sequence[Values]) -> None:
    """Add to what looks wrong, with an event each."""
    job.warnings = [*(job.warnings or ()), *warnings]
    for warning in warnings:
        append(session, job, "warning", warning)


def finite(values: Any) -> Any:
    """JSON values with null for each number that JSON does not have: NaN and the infinities."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return values


def _prepare(
    session: Session, job: Job, _claim: Claim, _given: Values, result: Values, _store: BlobStore
) -> None:
    job.prepared = finite(result)
    apart = ("graph", "choices", "staircase", "levels", "warnings")
    facts = {key: value for key, value in result.items() if key not in apart}
    if (staircase := result.get("staircase")) is not None:
        job.widths = facts["widths"] = {
            "chains": len(staircase["seconds"]),
            **{key: staircase[key] for key in ("target", "measured", "finer", "needed")},
        }
    append(session, job, "prepared", finite(facts))
    if staircase is not None:
        keep_times(session, Target.from_json(staircase["target"]).key, staircase["seconds"])
    _warn(session, job, result["warnings"])
    report(session, job, "search", 0.0, {})
    enqueue(session, job.id, Kind.ADVANCE)


def _advance(
    session: Session, job: Job, _claim: Claim, given: Values, result: Values, _store: BlobStore
) -> None:
    told = [outcome["number"] for outcome in given["outcomes"]]
    if told:
        session.execute(
            update(Trial)
            .where(Trial.job_id == job.id, Trial.number.in_(told))
            .values(told=True)
            .execution_options(synchronize_session=False)
        )
    if result["proposals"]:
        new = [{"job_id": job.id, **proposal} for proposal in result["proposals"]]
        session.execute(insert(Trial), new)
        enqueue_trials(session, job.id, [proposal["number"] for proposal in new])
    job.snapshot = json.dumps(result["state"])
    report(session, job, "search", result["fraction"], {"trials": len(told)})
    if result["best"] is not None and result["best"] != job.best:
        job.best = result["best"]
        best = _trial(session, job, job.best)
        facts = {"number": best.number, "score": best.score, "cost": best.cost}
        append(session, job, "best", facts | {"metrics": best.metrics})
    finished = Trial.finished_at.is_not(None).label("done")
    query = select(Trial.number, finished).where(Trial.job_id == job.id, ~Trial.told)
    untold = {row.number: row.done for row in session.execute(query)}
    release_weights(session, job, {*result["needed"], *untold})
    if any(untold.values()):
        enqueue(session, job.id, Kind.ADVANCE)
    elif untold:
        return  # its outcome brings the next `advance`
    elif result["done"] and result["best"] is not None:
        report(session, job, "tune", 0.0, {})
        enqueue(session, job.id, Kind.TUNE)
    elif result["done"]:
        end(
            session,
            job,
            State.FAILED,
            code="search.failed",
            error="no trial within the budget succeeded: the trials say why; allow a larger budget",
        )
    else:
        end(
            session,
            job,
            State.FAILED,
            code="search.stalled",
            error=f"strategy {job.strategy} is not done, yet neither proposes nor waits: choose "
            "another strategy, and report this",
        )


def _evaluate(
    session: Session, job: Job, claim: Claim, given: Values, result: Values, store: BlobStore
) -> None:
    outcome, proposal = result["outcome"], given["proposal"]
    metrics = {key: value for key, value in outcome["metrics"].items() if math.isfinite(value)}
    found = {"score": finite(outcome["score"]), "metrics": metrics, "cost": outcome["cost"]}
    if result["weights"] is not None:
        retain(session, result["weights"], store.size_bytes(result["weights"]))
    session.execute(
        update(Trial)
        .where(Trial.job_id == job.id, Trial.number == claim.trial)
        .values(
            **found,
            losses=outcome["losses"],
            kept=result["kept"],
            weights=result["weights"],
            finished_at=clock_s(),
        )
        .execution_options(synchronize_session=False)
    )
    append(
        session,
        job,
        "trial",
        {key: proposal[key] for key in ("number", "plan", "parent", "tags")} | found,
    )
    open_step = select(Work.id).where(
        Work.job_id == job.id, Work.state.in_(OPEN), Work.kind != Kind.EVALUATE
    )
    if session.execute(open_step.limit(1)).first() is None:
        enqueue(session, job.id, Kind.ADVANCE)


def _tune(
    session: Session, job: Job, _claim: Claim, _given: Values, result: Values, store: BlobStore
) -> None:
    before = job.checkpoint
    retain(session, result["checkpoint"], store.size_bytes(result["checkpoint"]))
    job.checkpoint = result["checkpoint"]
    release(session, before)
    append(session, job, "tuned", {"done": result["done"], "history": finite(result["history"])})
    if result["done"]:
        report(session, job, "finalize", 0.0, {})
        enqueue(session, job.id, Kind.FINALIZE, target=target_of(job.spec))
    else:
        enqueue(session, job.id, Kind.TUNE)


def _finalize(
    session: Session, job: Job, _claim: Claim, _given: Values, result: Values, store: BlobStore
) -> None:
    for artifact in result["artifacts"]:
        retain(session, artifact["digest"], store.size_bytes(artifact["digest"]))
        session.add(Artifact(job_id=job.id, **artifact))
    steps = select(func.sum(Work.seconds)).where(Work.job_id == job.id)
    seconds = {"seconds": round(session.scalar(steps) or 0.0, 1)}
    job.summary = finite(result["summary"]) | seconds
    _warn(session, job, result["warnings"])
    report(session, job, "done", 1.0, {})
    move(session, job, State.SUCCEEDED, artifacts=result["artifacts"])
    release_job(session, job)


_COMMITS: Mapping[Kind, Callable[[Session, Job, Claim, Values, Values, BlobStore], None]] = {
    Kind.PREPARE: _prepare,
    Kind.ADVANCE: _advance,
    Kind.EVALUATE: _evaluate,
    Kind.TUNE: _tune,
    Kind.FINALIZE: _finalize,
}


def _trial(session: Session, job: Job, number: int | None) -> Trial:
    return session.get_one(Trial, (job.id, number), options=[undefer(Trial.kept)])


def _proposal(row: Trial) -> Values:
    return {
        "number": row.number,
        "plan": row.plan,
        "parent": row.parent,
        "tuning_steps": row.tuning_steps,
        "tags": row.tags,
        "floor": row.floor,
        "solve": row.solve,
        "levels_of": row.levels_of,
    }


def _outcome(row: Trial) -> Values:
    return {
        "number": row.number,
        "plan": row.plan,
        "score": row.score,
        "metrics": row.metrics or {},
        "cost": row.cost or {},
        "losses": None if row.levels_of is None else row.losses,
    }


def _result(row: Trial) -> Values:
    return {
        "outcome": _outcome(row),
        "kept": row.kept,
        "weights": row.weights,
        "solve": row.solve,
    }
