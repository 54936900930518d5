"""Disks and databases that take nothing for a while: the work waits, says so, and goes on."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from safetensors import SafetensorError
from sqlalchemy import event, select, text
from sqlalchemy.exc import OperationalError

from models.events import events_after
from models.job import State
from models.logs import get_logger
from models.overview import waiting_for
from models.settings import Settings
from models.waiting import waits_for
from models.work import Work
from search.evaluation import checkpoint
from tests.worker.service import Service, wait_until


def _told(service: Service, job_id: str, kind: str) -> list[dict[str, Any]]:
    with service.database.transaction(write=False) as session:
        events = events_after(session, job_id, 0, limit=10_000)
    assert [each.number for each in events] == list(range(1, len(events) + 1))
    return [each.data for each in events if each.kind == kind]


def _waits(service: Service, job_id: str) -> str | None:
    with service.database.transaction(write=False) as session:
        return waiting_for(session, [job_id]).get(job_id)


def test_a_full_disk_is_waited_for(service: Service) -> None:
    """In every step that writes, for more tries than there are attempts."""
    kinds = ("evaluate", "tune", "finalize")
    full = {kind: service.folder / f"full-{kind}" for kind in kinds}
    for path in full.values():
        path.touch()
    job_id = service.submit(trials=1, full={kind: str(path) for kind, path in full.items()})
    slot = service.slot()

    def tried(kind: str) -> bool:
        slot.serve()
        return service.starts(kind) > service.settings.max_attempts

    for kind in kinds:
        wait_until(functools.partial(tried, kind))
        assert _waits(service, job_id) == "disk: no room left (temporary files)"
        assert not service.job(job_id).terminal
        full[kind].unlink()
    wait_until(lambda: slot.serve() or service.job(job_id).terminal)
    assert service.job(job_id).state == State.SUCCEEDED
    told = [{"kind": kind, "for": "disk: no room left (temporary files)"} for kind in kinds]
    assert _told(service, job_id, "waiting") == told
    assert not _told(service, job_id, "retry")
    with service.database.transaction(write=False) as session:
        assert set(session.scalars(select(Work.attempts))) == {1}
        assert set(session.scalars(select(Work.waiting_for))) == {None}


@contextmanager
def _pragma(service: Service, when: str, otherwise: str) -> Iterator[threading.Event]:
    """A statement for each connection that writes, while the event is set and when it is not."""
    applies = threading.Event()

    def apply(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA {when if applies.is_set() else otherwise}")

    event.listen(service.database.writing, "checkout", apply)
    yield applies
    event.remove(service.database.writing, "checkout", apply)


@pytest.mark.parametrize(
    ("when", "otherwise", "reason"),
    [
        ("query_only = ON", "query_only = OFF", "read-only"),
        ("max_page_count = 1", "max_page_count = 1000000", "no room left"),
    ],
)
def test_a_database_that_takes_no_writes_costs_no_attempt(
    service: Service, when: str, otherwise: str, reason: str
) -> None:
    """The result is kept until it can be written, and the job tells of it afterwards."""
    job_id = service.submit(trials=2, seconds={"evaluate": 0.5}, bulk=1000)
    slot = service.slot()
    with _pragma(service, when, otherwise) as applies:
        serving = threading.Thread(target=slot.serve)
        serving.start()
        wait_until(lambda: service.starts("evaluate", 0))
        applies.set()
        time.sleep(2 * service.settings.lease_s)
        applies.clear()
        serving.join()
    wait_until(lambda: slot.serve() or service.job(job_id).terminal)
    assert service.job(job_id).state == State.SUCCEEDED
    assert [service.starts("evaluate", number) for number in range(2)] == [1, 1]
    (waited,) = _told(service, job_id, "waited")
    assert waited["for"] == f"database: {reason}"
    assert waited["seconds"] > 0
    assert not _told(service, job_id, "retry")


def test_a_standby_is_waited_for(
    settings: Settings, postgresql_server: Path, postgresql_url: str, tmp_path: Path
) -> None:
    """PostgreSQL refuses to write for longer than a lease, under supervisor and reaper."""
    service = Service(settings.model_copy(update={"database_url": postgresql_url}), tmp_path)
    job_id = service.submit(trials=2, seconds={"evaluate": 0.5})
    service.reaper()
    slot = service.slot()
    serving = threading.Thread(target=slot.serve)
    serving.start()
    wait_until(lambda: service.starts("evaluate", 0))
    admin = f"host={postgresql_server} user=postgres dbname=postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        try:
            for value in ("on", "off"):
                connection.execute(
                    f"alter database migrated set default_transaction_read_only = {value}".encode()
                )
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = 'migrated'"
                )
                if value == "on":
                    with pytest.raises(OperationalError) as caught:
                        service.submit()
                    assert waits_for(caught.value) == "database: read-only"
                    time.sleep(2 * settings.lease_s)
        finally:
            connection.execute("alter database migrated reset default_transaction_read_only")
    serving.join()
    wait_until(lambda: slot.serve() or service.job(job_id).terminal)
    assert service.job(job_id).state == State.SUCCEEDED
    assert [service.starts("evaluate", number) for number in range(2)] == [1, 1]
    assert _told(service, job_id, "waited")
    assert not _told(service, job_id, "retry")
    service.close()


def test_a_unit_whose_lease_lapsed_and_stays_claimed_says_so(service: Service) -> None:
    job_id = service.submit()
    with service.database.transaction() as session:
        session.execute(text("update work set state = 'claimed', lease_until = 1"))
    assert _waits(service, job_id) == "worker: no sign of life, or the database takes no writes"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_is_waited_for_is_found_behind_other_errors(number: int) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number), "/secret/path")
        except OSError as error:
            raise RuntimeError("it cannot be written") from error
    except RuntimeError as error:
        found = waits_for(error)
    assert found is not None
    assert found.startswith("disk: ")
    assert "secret" not in found


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "x"), FileNotFoundError(2, "x"), ValueError("full"), KeyError(28)]
)
def test_other_errors_are_attempts(error: Exception) -> None:
    assert waits_for(error) is None


def test_a_statement_at_fault_is_not_waited_for(service: Service) -> None:
    with pytest.raises(OperationalError) as caught, service.database.transaction() as session:
        session.execute(text("select 1 from nowhere"))
    assert waits_for(caught.value) is None


def test_a_log_on_a_full_disk_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        get_logger().bind(slot="x").warning("database.away", error="no room")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_tensors_that_do_not_fit_raise_an_error_with_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", refused)
    with pytest.raises(SafetensorError):
        checkpoint.save(tmp_path / "checkpoint", {}, {})
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(tmp_path / "checkpoint", {}, {})
    assert waits_for(caught.value) == "disk: no room left (temporary files)"
    assert not list(tmp_path.iterdir())
