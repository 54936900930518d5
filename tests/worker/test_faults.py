"""Faults of processes, of the broker and of messages: the job ends, once, without leftovers."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from espalier.redis_server import RedisServer
from models.deletion import delete_job
from models.events import events_after
from models.job import State
from models.jobs import artifacts_of, request_cancel, request_pause, resume, trials_of
from models.settings import Settings
from tests.worker.service import Service, wait_until
from worker.supervisor import Slot


def _sound(service: Service, job_id: str, trials: int) -> None:
    """The job succeeded: one result, every trial told once, no gap in the events."""
    job = service.job(job_id)
    assert (job.state, job.error) == (State.SUCCEEDED, None)
    with service.database.transaction(write=False) as session:
        events = events_after(session, job_id, 0, limit=10_000)
        assert len(artifacts_of(session, job_id)) == 1
        assert len(trials_of(session, job_id, finished=True)) == trials
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    scored = Counter(event.data["number"] for event in events if event.kind == "trial")
    assert scored == dict.fromkeys(range(trials), 1)
    moves = Counter(event.data["to"] for event in events if event.kind == "state")
    assert moves["succeeded"] == 1


@pytest.mark.parametrize("ringing", ["sqlite"], indirect=True)
def test_killed_children_and_supervisors(ringing: Service) -> None:
    job_id = ringing.submit(trials=8, seconds={"evaluate": 0.3, "tune": 0.5}, grandchild=True)
    ringing.reaper()
    worker = ringing.worker()
    wait_until(lambda: ringing.starts("evaluate", 0))
    (child,) = ringing.children()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: ringing.starts("evaluate", 2))
    (child,) = ringing.children()
    wait_until(psutil.Process(child).children)
    family = [psutil.Process(child), *psutil.Process(child).children(recursive=True)]
    worker.kill()
    worker.wait()
    _, left_over = psutil.wait_procs(family, timeout=30)
    assert left_over == []
    ringing.worker()
    wait_until(ringing.finished(job_id))
    _sound(ringing, job_id, 8)
    _drain(ringing)


def test_a_stopped_supervisor_is_fenced_out(service: Service) -> None:
    """Stopped past its lease, then continued: the zombie changes nothing."""
    slow = service.submit(trials=1, seconds={"evaluate": 1.0})
    process = service.start("tests.worker.serve")
    wait_until(lambda: service.starts("evaluate", 0))
    process.send_signal(signal.SIGSTOP)
    reaper = service.reaper()
    wait_until(lambda: _retries(service, slow))
    slot = service.slot()
    wait_until(lambda: slot.serve() or service.job(slow).terminal)
    last = service.job(slow).last_event
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) == 0
    assert service.job(slow).last_event == last
    assert "work.lost" in (service.folder / "processes.log").read_text()
    assert reaper.poll() is None
    _sound(service, slow, 1)


def _retries(service: Service, job_id: str) -> int:
    with service.database.transaction(write=False) as session:
        return sum(event.kind == "retry" for event in events_after(session, job_id, 0))


@pytest.mark.parametrize("kind", ["prepare", "evaluate"])
def test_work_that_kills_every_worker_stops_at_the_limit(service: Service, kind: str) -> None:
    job_id = service.submit(trials=1, die=[kind])
    service.reaper()
    slot = service.slot()
    wait_until(lambda: slot.serve() < 0 or service.job(job_id).terminal)
    job = service.job(job_id)
    assert (job.state, job.error_code) == (State.FAILED, "work.attempts")
    assert f"{kind} was given up after 3 attempts" in (job.error or "")
    assert "SIGKILL" in (job.error or "")
    assert service.starts(kind) == 3


def test_errors_are_tried_again_up_to_the_limit(service: Service) -> None:
    job_id = service.submit(trials=1, raises={"tune": "transient"})
    slot = service.slot()
    wait_until(lambda: slot.serve() < 0 or service.job(job_id).terminal)
    job = service.job(job_id)
    assert (job.state, job.error_code) == (State.FAILED, "work.attempts")
    assert "RuntimeError: as it was told" in (job.error or "")
    assert service.starts("tune") == 3


@pytest.mark.parametrize("ringing", ["postgresql"], indirect=True)
def test_messages_doubled_and_reordered(ringing: Service) -> None:
    jobs = [ringing.submit(trials=4, seed=seed) for seed in range(3)]
    for work_id in [3, 1, 2, 99, 7] * 10:
        ringing.bell.ring([work_id])
    ringing.worker(slots=2)
    ringing.reaper()
    for job_id in jobs:
        wait_until(ringing.finished(job_id))
        _sound(ringing, job_id, 4)
    starts = Counter(
        line for line in ringing.log.read_text().splitlines() if line.startswith("start finalize")
    )
    assert sum(starts.values()) == 3
    _drain(ringing)


def test_a_wiped_and_a_restarted_broker(service: Service, redis_server: RedisServer) -> None:
    settings = service.settings.model_copy(update={"redis_url": redis_server.url})
    ringing = Service(settings, service.folder)
    try:
        redis_server.stop()
        job_id = ringing.submit(trials=6, seconds={"evaluate": 0.2})  # the broker is down
        redis_server.start()
        ringing.worker()
        ringing.reaper()
        wait_until(lambda: ringing.starts("evaluate", 1))
        redis_server.stop()  # nothing is saved: a restart also wipes it
        time.sleep(0.5)
        redis_server.start()
        wait_until(ringing.finished(job_id))
        _sound(ringing, job_id, 6)
        late = ringing.submit(trials=1, seed=2)
        wait_until(ringing.finished(late))
        _drain(ringing)
    finally:
        ringing.close()


@pytest.mark.parametrize("ringing", ["postgresql"], indirect=True)
def test_cancel_takes_effect_at_once_and_ends_the_child(ringing: Service) -> None:
    job_id = ringing.submit(trials=2, seconds={"evaluate": 60}, deaf=["evaluate"])
    ringing.worker()
    wait_until(lambda: ringing.starts("evaluate", 0))
    (child,) = ringing.children()
    with ringing.database.transaction() as session:
        assert request_cancel(session, job_id).state == State.CANCELED
    wait_until(lambda: child not in ringing.children(), timeout_s=30)
    assert ringing.job(job_id).state == State.CANCELED
    after = ringing.submit(trials=1, seed=1)
    wait_until(ringing.finished(after))
    assert ringing.job(after).state == State.SUCCEEDED
    _drain(ringing)


def test_a_job_deleted_under_its_worker_is_let_go(service: Service) -> None:
    job_id = service.submit(trials=1, seconds={"evaluate": 1.0})
    slot = service.slot()
    serving = threading.Thread(target=slot.serve)
    serving.start()
    wait_until(lambda: service.starts("evaluate", 0))
    with service.database.transaction() as session:
        request_cancel(session, job_id)
        delete_job(session, job_id)
    serving.join(20)
    assert not serving.is_alive()
    after = service.submit(trials=1, seed=1)
    slot.serve()
    _sound(service, after, 1)


@pytest.mark.parametrize("ringing", ["sqlite"], indirect=True)
def test_pause_ends_a_slice_at_its_checkpoint_and_resume_goes_on(ringing: Service) -> None:
    job_id = ringing.submit(trials=1, slices=2, seconds={"tune": 20})
    ringing.worker()
    wait_until(lambda: ringing.starts("tune"))
    with ringing.database.transaction() as session:
        request_pause(session, job_id)
    wait_until(lambda: ringing.job(job_id).state == State.PAUSED, timeout_s=15)
    assert ringing.job(job_id).checkpoint is not None
    starts = ringing.starts("tune")
    time.sleep(0.5)
    assert ringing.starts("tune") == starts
    with ringing.database.transaction() as session:
        assert resume(session, job_id).state == State.QUEUED
    wait_until(lambda: ringing.starts("tune") > starts)
    assert ringing.job(job_id).state == State.RUNNING
    with ringing.database.transaction() as session:
        request_cancel(session, job_id)
    _drain(ringing)


@pytest.mark.parametrize("ringing", ["postgresql"], indirect=True)
def test_sigterm_drains(ringing: Service) -> None:
    """A slice ends at its checkpoint, a deaf step is killed; neither counts as an attempt."""
    tuned = ringing.submit(trials=1, seconds={"tune": 60})
    deaf = ringing.submit(trials=1, seed=1, seconds={"prepare": 60}, deaf=["prepare"])
    ringing.worker(slots=2)
    ringing.reaper()
    wait_until(lambda: ringing.starts("tune") and ringing.starts("prepare") == 2)
    assert len(ringing.children()) == 2
    _drain(ringing)
    assert ringing.job(tuned).checkpoint is not None
    assert ringing.job(tuned).state == ringing.job(deaf).state == State.RUNNING
    with ringing.database.transaction(write=False) as session:
        (retry,) = [e for e in events_after(session, deaf, 0) if e.kind == "retry"]
    assert retry.data == {"kind": "prepare", "attempts": 0, "reason": "its worker ended"}


def test_a_database_that_goes_away(
    settings: Settings, postgresql_server: Path, postgresql_url: str, tmp_path: Path
) -> None:
    """Gone during claims, heartbeats and commits: the work goes on and the job ends."""
    changes = {"database_url": postgresql_url, "max_attempts": 5}
    service = Service(settings.model_copy(update=changes), tmp_path)
    job_id = service.submit(trials=8, seconds={"evaluate": 0.4, "tune": 0.5})
    slot = service.slot()
    thread = threading.Thread(target=lambda: wait_until(lambda: _serve(slot, service, job_id)))
    thread.start()
    admin = f"host={postgresql_server} user=postgres dbname=postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        for number in (1, 4, 6):
            wait_until(functools.partial(_begun, service, number))
            connection.execute("alter database migrated allow_connections false")
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'migrated'"
            )
            time.sleep(0.8)
            connection.execute("alter database migrated allow_connections true")
    thread.join()
    _sound(service, job_id, 8)
    assert all(service.starts("evaluate", number) == 1 for number in range(8))
    service.close()


def _begun(service: Service, number: int) -> bool:
    return service.starts("evaluate", number) > 0


def _serve(slot: Slot, service: Service, job_id: str) -> bool:
    slot.serve()
    try:
        return service.job(job_id).terminal
    except OperationalError:
        return False


def test_a_database_that_stays_locked(service: Service) -> None:
    """Another process holds SQLite's lock for longer than a lease."""
    job_id = service.submit(trials=2, seconds={"evaluate": 1.0})
    service.reaper()
    worker = service.start("tests.worker.serve")
    wait_until(lambda: service.starts("evaluate", 0))
    with service.database.transaction():
        time.sleep(2 * service.settings.lease_s)
    wait_until(lambda: worker.poll() is not None)
    slot = service.slot()
    wait_until(lambda: slot.serve() or service.job(job_id).terminal)
    _sound(service, job_id, 2)


def test_a_network_that_is_damaged_under_a_warm_child_fails_the_job(service: Service) -> None:
    """With the error that names it, at the first unit that reads it again."""
    job_id = service.submit(trials=3, seconds={"evaluate": 0.5}, reads=["evaluate"])
    slot = service.slot()
    serving = threading.Thread(target=slot.serve)
    serving.start()
    wait_until(lambda: service.starts("evaluate", 0))
    digest = service.store.put([b"uploaded"]).digest
    path = service.store.local_path(digest)
    assert path is not None
    path.write_bytes(b"Uploaded")
    serving.join()
    job = service.job(job_id)
    assert (job.state, job.error_code) == (State.FAILED, "blob.corrupt")
    assert f"blob {digest} is damaged" in (job.error or "")
    assert len({line.split()[-1] for line in service.log.read_text().splitlines()}) == 1


def test_the_limit_of_time(service: Service) -> None:
    job_id = service.submit(trials=1, seconds={"evaluate": 60}, deaf=["evaluate"])
    slot = service.slot()
    slot._settings = service.settings.model_copy(
        update={"step_limit_s": 0.5, "stop_grace_s": 0.2, "max_attempts": 1}
    )
    slot.serve()
    job = service.job(job_id)
    assert (job.state, job.error_code) == (State.FAILED, "work.attempts")
    assert "ran longer than 0.5 s" in (job.error or "")
    assert not service.children()


def _drain(service: Service) -> None:
    """Ends the worker by SIGTERM; it must go soon, with its children."""
    worker = [process for process in service.workers if process.poll() is None][-1]
    worker.terminate()
    assert worker.wait(10) == 0
    assert not service.children()


def test_progress_never_falls_whatever_is_done_again(service: Service) -> None:
    job_id = service.submit(trials=1, seconds={"finalize": 2.0})
    slot = service.slot()
    serving = threading.Thread(target=slot.serve)
    serving.start()
    wait_until(lambda: service.job(job_id).stage == "finalize" and service.job(job_id).fraction > 0)
    reached = service.job(job_id).fraction
    for child in service.children():
        os.kill(child, signal.SIGKILL)
    serving.join()
    wait_until(lambda: slot.serve() or service.job(job_id).terminal)
    with service.database.transaction(write=False) as session:
        events = events_after(session, job_id, 0)
        shown = [
            event.data["fraction"]
            for event in events
            if event.kind == "progress" and event.data["stage"] == "finalize"
        ]
    assert service.starts("finalize") == 2
    assert shown == sorted(shown)
    assert shown[-1] > reached
    _sound(service, job_id, 1)


def test_a_slot_survives_a_child_that_cannot_be_started(service: Service) -> None:
    job_id = service.submit(trials=1)
    broken = Slot(service.database, service.store, service.settings, service.draining, ["/nowhere"])
    assert broken.serve() == 1
    assert _retries(service, job_id) == 1
    wait_until(lambda: service.slot().serve() or service.job(job_id).terminal)
    _sound(service, job_id, 1)
