"""Claiming units of work: leases, fences and attempts.

A claim is a compare-and-swap that raises the row's *fence* and sets a lease by the database's
clock. Every later write of that attempt names the fence; if it changes no row, the attempt has
been replaced and must stop.

A transaction locks one job at most, and that before work and blobs: no two wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.base import clock_s
from models.ending import end, settle
from models.errors import LeaseLost
from models.events import append
from models.job import Job, State
from models.locks import lock_job, lock_worked_on
from models.queue import announce, hush, next_turn
from models.states import move
from models.work import Kind, Work, WorkState


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a unit, until the lease lapses and someone else claims it."""

    work_id: int
    job_id: str
    kind: Kind
    trial: int | None
    fence: int
    attempts: int


def claim_next(
    session: Session,
    worker: str,
    lease_s: float,
    *,
    job: Job | None = None,
    offers: frozenset[str] | None = None,
) -> Claim | None:
    """Claim the unit whose turn it is by `queue.next_turn`; `None` if nothing waits.

    Args:
        worker: who claims, for the reader of the row.
        job: locked by this transaction, so no other may be: `None` in another job's turn.
        offers: what the worker can be asked for, see `models.offers`; all if not given.
    """
    following = next_turn(offers)
    if job is not None:
        turn = session.execute(following).first()
        if turn is None or turn.job_id != job.id:
            return None
        return _claim(session, turn.id, job, worker, lease_s)
    while True:
        # A claim lost to another worker must not keep its lock while it waits for the next one.
        attempt = session.begin_nested()
        free = following.with_for_update(of=Job, skip_locked=True)
        found = session.execute(free).first() or session.execute(following).first()
        claim = None
        if found is not None:
            claim = _claim(session, found.id, lock_job(session, found.job_id), worker, lease_s)
        if claim is not None or found is None:
            attempt.commit()
            return claim
        attempt.rollback()


def _claim(session: Session, work_id: int, job: Job, worker: str, lease_s: float) -> Claim | None:
    if job.terminal or job.pause_requested_at is not None:
        return None
    claimed = session.execute(
        update(Work)
        .where(Work.id == work_id, Work.state == WorkState.READY)
        .values(
            state=WorkState.CLAIMED,
            fence=Work.fence + 1,
            attempts=Work.attempts + 1,
            claimed_by=worker,
            lease_until=clock_s() + lease_s,
        )
        .returning(Work.kind, Work.trial, Work.fence, Work.attempts)
        .execution_options(synchronize_session=False)
    ).first()
    if claimed is None:
        return None  # another worker was first
    kind, trial, fence, attempts = claimed
    if kind == Kind.PREPARE:
        job.stage = kind
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(served_at=clock_s())
        .execution_options(synchronize_session=False)
    )
    if job.state == State.QUEUED:
        move(session, job, State.RUNNING)
    if kind == Kind.FINALIZE and job.state == State.RUNNING:
        move(session, job, State.FINALIZING)
    hush(session)
    return Claim(work_id, job.id, Kind(kind), trial, fence, attempts)


def renew(session: Session, claim: Claim, lease_s: float) -> None:
    """Extend the lease.

    Raises:
        LeaseLost: the attempt has been replaced, or its job has ended.
    """
    _write(session, claim, lease_until=clock_s() + lease_s)


def complete(session: Session, claim: Claim, seconds: float | None = None) -> Job:
    """Mark the unit done, in the transaction that writes its result.

    Args:
        seconds: how long its step took.
    Returns:
        Its job, locked.
    Raises:
        LeaseLost: the attempt has been replaced, or its job has ended; nothing may be written.
    """
    job = lock_worked_on(session, claim.job_id)
    _write(
        session,
        claim,
        state=WorkState.DONE,
        lease_until=None,
        finished_at=clock_s(),
        error=None,
        waiting_for=None,
        waiting_since=None,
        seconds=seconds,
    )
    return job


def release(
    session: Session,
    claim: Claim,
    *,
    reason: str,
    max_attempts: int,
    counted: bool = True,
    delay_s: float = 0.0,
) -> None:
    """Give a unit back unfinished; at the limit of attempts, its job fails.

    Args:
        reason: why, for the reader of the events.
        counted: false if the unit is not to blame, as when the worker drains.
        delay_s: how long nobody may claim it.
    Raises:
        LeaseLost: the attempt has been replaced, or its job has ended.
    """
    job = lock_worked_on(session, claim.job_id)
    attempts = claim.attempts - (not counted)
    _write(
        session,
        claim,
        state=WorkState.READY,
        attempts=attempts,
        lease_until=None,
        claimed_by=None,
        error=reason,
        waiting_for=None,
        waiting_since=None,
        not_before=clock_s() + delay_s,
    )
    _retry(session, job, claim.work_id, claim.kind, attempts, max_attempts, reason)
    settle(session, job)


def hold(
    session: Session, claim: Claim, *, waiting_for: str, first_s: float, longest_s: float
) -> None:
    """Give a unit back that met a fault of the machine: no attempt, and any number of times.

    It may be claimed again after as long as it has waited so far. The event is appended once for
    each thing that it waits for.

    Args:
        waiting_for: what has to pass, see `models.waiting`.
        first_s: the least that it waits.
        longest_s: the most.
    Raises:
        LeaseLost: the attempt has been replaced, or its job has ended.
    """
    job = lock_worked_on(session, claim.job_id)
    before, since, now = session.execute(
        select(Work.waiting_for, Work.waiting_since, clock_s()).where(Work.id == claim.work_id)
    ).one()
    since = now if since is None else since
    delay_s = min(longest_s, max(first_s, now - since))
    _write(
        session,
        claim,
        state=WorkState.READY,
        attempts=claim.attempts - 1,
        lease_until=None,
        claimed_by=None,
        error=waiting_for,
        waiting_for=waiting_for,
        waiting_since=since,
        not_before=now + delay_s,
    )
    if waiting_for != before:
        append(session, job, "waiting", {"kind": claim.kind, "for": waiting_for})
    announce(session, claim.work_id)
    settle(session, job)


def expire(session: Session, max_attempts: int) -> int:
    """Give back the units of one job whose leases have lapsed; at the limit, the job fails.

    Returns:
        How many there were; 0 if no job has any.
    """
    lapsed = (Work.state == WorkState.CLAIMED, Work.lease_until < clock_s())
    first = session.scalars(select(Work.job_id).where(*lapsed).limit(1)).first()
    if first is None:
        return 0
    job = lock_job(session, first)
    reason = "its worker was lost: the lease lapsed"
    count = 0
    for work_id in session.scalars(
        select(Work.id).where(Work.job_id == job.id, *lapsed).order_by(Work.id)
    ).all():
        given_back = session.execute(
            update(Work)
            .where(Work.id == work_id, *lapsed)
            .values(
                state=WorkState.READY,
                fence=Work.fence + 1,
                lease_until=None,
                claimed_by=None,
                error=reason,
            )
            .returning(Work.kind, Work.attempts)
            .execution_options(synchronize_session=False)
        ).first()
        if given_back is None:
            continue  # renewed or finished meanwhile
        count += 1
        _retry(session, job, work_id, given_back[0], given_back[1], max_attempts, reason)
    settle(session, job)
    return count


def _write(session: Session, claim: Claim, **values: object) -> None:
    written = session.execute(
        update(Work)
        .where(
            Work.id == claim.work_id,
            Work.fence == claim.fence,
            Work.state == WorkState.CLAIMED,
        )
        .values(**values)
        .returning(Work.id)
        .execution_options(synchronize_session=False)
    ).first()
    if written is None:
        raise LeaseLost(
            f"{claim.kind} {claim.work_id} of {claim.job_id} is no longer this worker's "
            f"(fence {claim.fence}): another attempt replaced it, or the job has ended"
        )


def _retry(
    session: Session,
    job: Job,
    work_id: int,
    kind: str,
    attempts: int,
    max_attempts: int,
    reason: str,
) -> None:
    """Announce a unit that was given back, or fail its job at the limit."""
    if attempts < max_attempts:
        append(session, job, "retry", {"kind": kind, "attempts": attempts, "reason": reason})
        announce(session, work_id)
        return
    end(
        session,
        job,
        State.FAILED,
        code="work.attempts",
        error=(
            f"{kind} was given up after {attempts} attempts without progress; the last: {reason}. "
            "If the machine was at fault, submit the job again; ESPALIER_MAX_ATTEMPTS raises the "
            "limit"
        ),
    )
