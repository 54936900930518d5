"""Claims units of work and has a warm child do them, one at a time a slot.

While the child works, its supervisor renews the lease, writes down progress, and watches for a
lost fence (the child is killed), a pause (it is asked to stop at a checkpoint), the end of the
worker and the limit of time (it is asked, then killed).

While the database is away, or takes no writes, child and result are kept: whether an attempt still
counts is decided by its fence, not by the time. What met a fault of the machine is given back to
wait (`models.waiting`), which counts as no attempt.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from models.blobs import BlobStore
from models.claims import Claim, claim_next, hold, release, renew
from models.database import AWAY, Database
from models.errors import LeaseLost
from models.job import Job
from models.jobs import get_job
from models.locks import lock_worked_on
from models.logs import get_logger
from models.offers import Offer, claims
from models.settings import Settings
from models.waiting import waits_for
from worker import steps
from worker.outage import Outage
from worker.process import Child, ChildDied

CHILD: Sequence[str] = (sys.executable, "-m", "worker.child")

_TICK_S = 0.5
_LONGEST_DELAY_S = 30.0

T = TypeVar("T")


class _GivenUp(Exception):
    """The attempt ended without a result.

    Attributes:
        counted: whether it is one of the attempts that a unit has.
        waiting_for: what has to pass before the next one, see `models.waiting`.
    """

    def __init__(self, reason: str, *, counted: bool, waiting_for: str | None = None) -> None:
        super().__init__(reason)
        self.counted = counted and waiting_for is None
        self.waiting_for = waiting_for

    @classmethod
    def after(cls, error: Exception) -> _GivenUp:
        """Because of an error."""
        reason = f"{type(error).__name__}: {error}"
        return cls(reason, counted=True, waiting_for=waits_for(error))


@dataclass(slots=True)
class _Watch:
    """What a supervisor has to remember during one attempt; times are monotonic seconds."""

    next_beat: float
    limit: float
    kill_at: float | None = None
    verdict: _GivenUp | None = None
    stopping: bool = False
    progress: dict[str, Any] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class _Task:
    """A claimed unit with what its child needs: the job's arguments, and its own."""

    claim: Claim
    shared: steps.Values
    given: steps.Values


class Slot:
    """One warm child and the units it does; of one thread.

    Args:
        draining: set when the worker is to end.
        offers: what the worker offers to time networks on; all that is asked for if not given.
        command: what to start as the child; `CHILD` if not given.
    """

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: Settings,
        draining: threading.Event,
        command: Sequence[str] | None = None,
        offers: Sequence[Offer] | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._draining = draining
        self._command = command or CHILD
        self._offers = offers or ()
        self._takes = None if offers is None else claims(offers)
        self._child: Child | None = None
        self._shared: tuple[str, steps.Values] | None = None  # of the last job, with its id
        self._name = f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"
        self._outage = Outage(draining, settings)
        self._log = get_logger().bind(slot=self._name)

    def serve(self) -> int:
        """Do one unit after another until none waits or the worker drains; gives their number."""
        done = 0
        task: _Task | None = None
        while task is not None or not self._draining.is_set():
            if task is not None:
                claim: Claim | None = task.claim
            else:
                try:
                    claim = self._transact(self._next)
                except AWAY as error:
                    self._log.warning("claim.failed", error=str(error))
                    return done  # the reaper will ring again
            if claim is None:
                return done
            task = self._attempt(claim, task, go_on=True)
            done += 1
        return done

    def run(self, claim: Claim) -> None:
        """Do a claimed unit: its result is committed, or the unit is given back."""
        self._attempt(claim)

    def close(self) -> None:
        """End the child."""
        self._discard()

    def _attempt(
        self, claim: Claim, task: _Task | None = None, *, go_on: bool = False
    ) -> _Task | None:
        """Do a claimed unit.

        Args:
            task: the unit, if its arguments have been read.
            go_on: claim the next unit in the transaction that publishes this one.
        Returns:
            The next unit.
        """
        log = self._log.bind(job=claim.job_id, kind=claim.kind, work=claim.work_id)
        self._outage.forget()
        try:
            if task is None:
                with self._database.transaction(write=False) as session:
                    task = self._task(session, claim)
            return self._run(task, go_on=go_on)
        except LeaseLost as error:
            log.info("work.lost", reason=str(error))
            self._discard()
        except _GivenUp as verdict:
            log.warning("work.given_up", reason=str(verdict), attempts=claim.attempts)
            self._give_back(claim, verdict)
        except Exception as error:  # no child could be started, say: the slot must go on
            log.exception("work.failed")
            self._discard()
            self._give_back(claim, _GivenUp.after(error))
        return None

    def _next(self, session: Session, job: Job | None = None) -> Claim | None:
        """Claim the unit whose turn it is; see `claim_next`."""
        return claim_next(session, self._name, self._settings.lease_s, job=job, offers=self._takes)

    def _task(self, session: Session, claim: Claim) -> _Task:
        known = self._shared
        if known is None or known[0] != claim.job_id or known[1]["prepared"] is None:
            known = self._shared = claim.job_id, steps.shared(session, claim.job_id)
        return _Task(claim, known[1], steps.arguments(session, claim, self._settings, self._offers))

    def _run(self, task: _Task, *, go_on: bool) -> _Task | None:
        claim = task.claim
        if self._child is None or not self._child.alive:
            self._discard()
            self._child = Child(self._settings, self._command)
        self._child.call(claim.kind, task.shared, task.given)
        try:
            answer = self._attend(claim, self._child)
        except ChildDied as error:
            self._child = None
            raise _GivenUp(str(error), counted=True) from error
        if "done" in answer:
            return self._commit(task, answer["done"], answer["seconds"], go_on=go_on)
        failed = answer["failed"]
        if not failed["permanent"]:
            raise _GivenUp(failed["message"], counted=True, waiting_for=failed["waiting_for"])
        self._outage.insist(
            lambda: self._transact(steps.fail, claim, failed["code"], failed["message"])
        )
        return None

    def _attend(self, claim: Claim, child: Child) -> dict[str, Any]:
        """Wait for the child's answer and keep the claim meanwhile."""
        now = time.monotonic()
        watch = _Watch(now + self._settings.heartbeat_s, now + self._settings.step_limit_s)
        while True:
            now = time.monotonic()
            if now >= watch.next_beat:
                if self._beat(claim, watch) and not watch.stopping:
                    child.stop()
                    watch.stopping = True
                watch.next_beat = now + self._settings.heartbeat_s
            self._judge(watch, child, now)
            message = child.receive(min(_TICK_S, watch.next_beat - now))
            if message is None or "ready" in message:
                continue
            if "progress" in message:
                watch.progress = message["progress"]
                continue
            return message

    def _judge(self, watch: _Watch, child: Child, now: float) -> None:
        """Ask the child to stop when it must, and kill it when it does not."""
        if watch.verdict is not None:
            if watch.kill_at is not None and now >= watch.kill_at:
                self._discard()
                raise watch.verdict
            return
        if self._draining.is_set():
            watch.verdict = _GivenUp("its worker ended", counted=False)
        elif now >= watch.limit:
            watch.verdict = _GivenUp(
                f"it ran longer than {self._settings.step_limit_s} s (ESPALIER_STEP_LIMIT_S)",
                counted=True,
            )
        if watch.verdict is not None:
            child.stop()
            watch.kill_at = now + self._settings.stop_grace_s

    def _beat(self, claim: Claim, watch: _Watch) -> bool:
        """Renew the lease and write down progress; gives whether the job is asked to pause."""
        progress, watch.progress = watch.progress, None
        try:
            with self._database.transaction() as session:
                self._outage.tell(session, claim)
                if progress is None:
                    renew(session, claim, self._settings.lease_s)
                    job = get_job(session, claim.job_id)
                else:
                    job = lock_worked_on(session, claim.job_id)
                    renew(session, claim, self._settings.lease_s)
                    steps.report(session, job, **progress)
                pausing = job.pause_requested_at is not None
        except AWAY as error:
            self._outage.note(error)
            return False
        self._outage.forget()
        return pausing

    def _commit(
        self, task: _Task, result: steps.Values, seconds: float, *, go_on: bool
    ) -> _Task | None:
        """Publish a result and, to go on, claim what is next in the same transaction.

        The next unit is the same job's: in another job's turn a transaction of its own claims it.
        """
        claim = task.claim

        def write(session: Session) -> _Task | None:
            self._outage.tell(session, claim)
            job = steps.commit(session, claim, task.given, result, self._store, seconds)
            if not go_on or self._draining.is_set():
                return None
            found = self._next(session, job=job)
            return None if found is None else self._task(session, found)

        try:
            return self._outage.insist(lambda: self._transact(write))
        except LeaseLost:
            raise
        except Exception as error:  # a result that cannot be written; another attempt may do
            raise _GivenUp.after(error) from error

    def _give_back(self, claim: Claim, verdict: _GivenUp) -> None:
        first_s = self._settings.retry_delay_s
        delay_s = first_s * 2 ** (claim.attempts - 1) if verdict.counted else 0.0

        def write(session: Session) -> None:
            if verdict.waiting_for is not None:
                hold(
                    session,
                    claim,
                    waiting_for=verdict.waiting_for,
                    first_s=first_s,
                    longest_s=_LONGEST_DELAY_S,
                )
                return
            release(
                session,
                claim,
                reason=str(verdict),
                max_attempts=self._settings.max_attempts,
                counted=verdict.counted,
                delay_s=min(delay_s, _LONGEST_DELAY_S),
            )

        try:
            self._outage.insist(lambda: self._transact(write))
        except (LeaseLost, *AWAY) as error:
            self._log.info("work.not_given_back", reason=str(error))

    def _transact(self, write: Callable[..., T], *given: Any, **named: Any) -> T:
        with self._database.transaction() as session:
            return write(session, *given, **named)

    def _discard(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
