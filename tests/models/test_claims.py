"""Claims, leases, fences and attempts, on both kinds of database."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from multiprocessing.queues import SimpleQueue

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.claims import Claim, claim_next, complete, expire, release, renew
from models.database import Database
from models.ending import settle
from models.errors import LeaseLost
from models.events import append, events_after
from models.job import State
from models.jobs import get_job, request_cancel, request_pause, resume
from models.outbox import Outbox
from models.queue import claimable, enqueue, enqueue_trials
from models.work import Kind, Work, WorkState
from tests.models.records import submit


def _claim(database: Database, lease_s: float = 60.0) -> Claim | None:
    with database.transaction() as session:
        return claim_next(session, "test", lease_s)


def _need(database: Database, lease_s: float = 60.0) -> Claim:
    claim = _claim(database, lease_s)
    assert claim is not None
    return claim


def _claim_all(url: str, name: str, done: SimpleQueue[int]) -> None:
    """Claims until nothing waits. Each unit is marked done; every third is given back once."""
    database = Database(url)
    while True:
        with database.transaction() as session:
            claim = claim_next(session, name, 60.0)
            if claim is None:
                return
            append(session, get_job(session, claim.job_id), "progress", {"by": name})
        with database.transaction() as session:
            if claim.work_id % 3 == 0 and claim.fence == 1:
                release(session, claim, reason="as it was told", max_attempts=5)
            else:
                complete(session, claim)
                done.put(claim.work_id)


def test_eight_processes_claim_each_unit_once_and_leave_no_gap(
    database: Database, database_url: str
) -> None:
    jobs = [submit(database) for _ in range(4)]
    with database.transaction() as session:
        for job_id in jobs:
            for number in range(9):
                enqueue(session, job_id, Kind.EVALUATE, number)
    database.dispose()  # no connection is shared with a fork
    fork = multiprocessing.get_context("fork")
    queue: SimpleQueue[int] = fork.SimpleQueue()
    processes = [
        fork.Process(target=_claim_all, args=(database_url, f"claimer-{index}", queue))
        for index in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    done: Counter[int] = Counter()
    while not queue.empty():
        done[queue.get()] += 1
    with database.transaction(write=False) as session:
        units = session.scalars(select(Work)).all()
        assert len(units) == 4 * 10
        assert done == dict.fromkeys((unit.id for unit in units), 1)
        for unit in units:
            assert unit.state == WorkState.DONE
            assert unit.fence == (2 if unit.id % 3 == 0 else 1)
        for job_id in jobs:
            events = events_after(session, job_id, 0)
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            assert get_job(session, job_id).last_event == len(events)


def test_a_claim_is_exclusive_and_starts_the_job(database: Database) -> None:
    job_id = submit(database)
    claim = _need(database)
    assert (claim.job_id, claim.kind, claim.fence, claim.attempts) == (job_id, Kind.PREPARE, 1, 1)
    assert _claim(database) is None
    with database.transaction(write=False) as session:
        assert get_job(session, job_id).state == State.RUNNING


def test_a_lapsed_claim_is_given_back_and_its_holder_fenced_out(database: Database) -> None:
    submit(database)
    zombie = _need(database, lease_s=1.0)
    with database.transaction() as session:
        assert expire(session, 5) == 0
    time.sleep(1.1)
    with database.transaction() as session:
        assert expire(session, 5) == 1
    fresh = _need(database)
    assert fresh.work_id == zombie.work_id
    assert fresh.fence > zombie.fence
    assert fresh.attempts == 2
    for write in (
        lambda session: renew(session, zombie, 60.0),
        lambda session: complete(session, zombie),
        lambda session: release(session, zombie, reason="late", max_attempts=5),
    ):
        with pytest.raises(LeaseLost, match="no longer this worker's"), database.transaction() as s:
            write(s)
    with database.transaction() as session:
        renew(session, fresh, 60.0)
        complete(session, fresh)


def test_a_renewed_claim_does_not_lapse(database: Database) -> None:
    submit(database)
    claim = _need(database, lease_s=0.3)
    for _ in range(4):
        time.sleep(0.15)
        with database.transaction() as session:
            renew(session, claim, 0.3)
            assert expire(session, 5) == 0


def test_a_late_renewal_holds_if_nobody_replaced_the_attempt(database: Database) -> None:
    submit(database)
    claim = _need(database, lease_s=0.01)
    time.sleep(0.05)
    with database.transaction() as session:
        renew(session, claim, 60.0)
        assert expire(session, 5) == 0
        complete(session, claim)


def test_fruitless_attempts_end_the_job(database: Database) -> None:
    job_id = submit(database)
    for round_, counted in enumerate([True, False, True, True]):
        claim = _need(database)
        with database.transaction() as session:
            release(session, claim, reason=f"fault {round_}", max_attempts=3, counted=counted)
    with database.transaction(write=False) as session:
        job = get_job(session, job_id)
        assert (job.state, job.error_code) == (State.FAILED, "work.attempts")
        assert "prepare was given up after 3 attempts without progress" in (job.error or "")
        assert "fault 3" in (job.error or "")
        events = events_after(session, job_id, 0)
        counts = [event.data["attempts"] for event in events if event.kind == "retry"]
    assert counts == [1, 1, 2]
    assert _claim(database) is None


def test_a_delayed_unit_waits(database: Database) -> None:
    submit(database)
    claim = _need(database)
    with database.transaction() as session:
        release(session, claim, reason="fault", max_attempts=3, delay_s=1.0)
    assert _claim(database) is None
    time.sleep(1.05)
    assert _need(database).attempts == 2


def test_two_steps_of_a_job_cannot_be_open_at_once(database: Database) -> None:
    job_id = submit(database)
    with pytest.raises(IntegrityError), database.transaction() as session:
        enqueue(session, job_id, Kind.ADVANCE)
    claim = _need(database)
    with pytest.raises(IntegrityError), database.transaction() as session:
        enqueue(session, job_id, Kind.ADVANCE)
    with database.transaction() as session:
        complete(session, claim)
        enqueue(session, job_id, Kind.ADVANCE)


def test_cancel_drops_work_and_fences_out_who_runs(database: Database) -> None:
    job_id = submit(database)
    claim = _need(database)
    with database.transaction() as session:
        enqueue(session, job_id, Kind.EVALUATE, 0)
        job = request_cancel(session, job_id)
        assert job.state == State.CANCELED
        assert job.finished_at is not None
    assert _claim(database) is None
    with pytest.raises(LeaseLost), database.transaction() as session:
        complete(session, claim)
    with database.transaction() as session:
        assert request_cancel(session, job_id).state == State.CANCELED  # again: no harm


def test_pause_waits_for_what_runs(database: Database) -> None:
    job_id = submit(database)
    claim = _need(database)
    with database.transaction() as session:
        enqueue(session, job_id, Kind.EVALUATE, 0)
        assert request_pause(session, job_id).state == State.RUNNING
    assert _claim(database) is None
    with database.transaction() as session:
        release(session, claim, reason="its worker ended", max_attempts=3, counted=False)
        assert get_job(session, job_id).state == State.PAUSED
    assert _claim(database) is None
    with database.transaction() as session:
        assert resume(session, job_id).state == State.QUEUED
    with database.transaction(write=False) as session:
        rung = session.scalars(select(Outbox.work_id)).all()
        waiting = session.scalars(select(Work.id).where(Work.state == WorkState.READY)).all()
    assert set(waiting) <= set(rung)
    _need(database)
    with database.transaction(write=False) as session:
        assert get_job(session, job_id).state == State.RUNNING


def test_jobs_take_turns(database: Database) -> None:
    first, second = submit(database), submit(database)
    with database.transaction() as session:
        for number in range(6):
            enqueue(session, first, Kind.EVALUATE, number)
            enqueue(session, second, Kind.EVALUATE, number)
    served = []
    for _ in range(8):
        claim = _need(database)
        served.append(claim.job_id)
        with database.transaction() as session:
            complete(session, claim)
    assert Counter(served) == {first: 4, second: 4}
    assert served[0] != served[1]


def _messages(database: Database) -> list[int]:
    with database.transaction(write=False) as session:
        return list(session.scalars(select(Outbox.work_id).order_by(Outbox.id)))


def test_who_publishes_takes_what_is_next_and_rings_for_the_rest(database: Database) -> None:
    job_id = submit(database)
    before = _messages(database)
    claim = _need(database)
    with database.transaction() as session:
        job = complete(session, claim)
        enqueue(session, job_id, Kind.ADVANCE)
        following = claim_next(session, "test", 60.0, job=job)
    assert following is not None
    assert (following.kind, following.fence, following.attempts) == (Kind.ADVANCE, 1, 1)
    assert _messages(database) == before
    with database.transaction() as session:
        job = complete(session, following)
        enqueue_trials(session, job_id, [0, 1, 2])
        first = claim_next(session, "test", 60.0, job=job)
    assert first is not None
    assert first.trial == 0
    assert len(_messages(database)) == len(before) + 2
    with database.transaction() as session:
        job = complete(session, first)
        enqueue_trials(session, job_id, [3])
        second = claim_next(session, "test", 60.0, job=job)
    assert second is not None
    assert second.trial == 1
    assert len(_messages(database)) == len(before) + 2  # trials 2 and 3 wait
    with database.transaction() as session:
        assert len(claimable(session)) == 2


def test_a_result_and_the_next_claim_are_one(database: Database) -> None:
    """What undoes the one undoes the other."""
    job_id = submit(database)
    claim = _need(database)

    def publish(session: Session) -> None:
        job = complete(session, claim)
        enqueue(session, job_id, Kind.ADVANCE)
        assert claim_next(session, "test", 60.0, job=job) is not None
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        publish(session)
    with database.transaction(write=False) as session:
        (unit,) = session.scalars(select(Work))
        assert (unit.kind, unit.state, unit.fence) == (Kind.PREPARE, WorkState.CLAIMED, 1)
    with database.transaction() as session:
        complete(session, claim)


def test_who_publishes_leaves_the_turn_to_another_job(database: Database) -> None:
    first, second = submit(database), submit(database)
    with database.transaction() as session:
        enqueue_trials(session, first, [0, 1])
    claim = _need(database)
    assert claim.job_id == first
    with database.transaction() as session:
        job = complete(session, claim)
        assert claim_next(session, "test", 60.0, job=job) is None
    assert _need(database).job_id == second


def test_nothing_follows_in_a_job_that_pauses(database: Database) -> None:
    job_id = submit(database)
    claim = _need(database)
    with database.transaction() as session:
        request_pause(session, job_id)
    with database.transaction() as session:
        job = complete(session, claim)
        enqueue(session, job_id, Kind.ADVANCE)
        assert claim_next(session, "test", 60.0, job=job) is None
        settle(session, job)
        assert job.state == State.PAUSED
