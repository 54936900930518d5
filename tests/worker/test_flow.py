"""A job's way through its steps, with one supervisor and real children."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from espalier.targets import Device, Target
from models.blob import Blob
from models.chain_times import known_times
from models.claims import claim_next, expire
from models.events import events_after
from models.job import State
from models.jobs import artifacts_of, trials_of
from models.work import Kind, Work, WorkState
from tests.worker.service import Service


def test_a_job_runs_to_its_result(service: Service) -> None:
    job_id = service.submit(trials=12, slices=3)
    service.slot().serve()
    job = service.job(job_id)
    assert job.state == State.SUCCEEDED
    assert job.summary is not None
    assert job.summary.items() >= {"trials": 12, "winner": 11}.items()
    assert job.best == 11
    with service.database.transaction(write=False) as session:
        (artifact,) = artifacts_of(session, job_id)
        trials = trials_of(session, job_id)
        events = events_after(session, job_id, 0)
        kinds = session.scalars(select(Work.kind).where(Work.state == WorkState.DONE)).all()
    assert b"".join(service.store.read(artifact.digest)) == b"report of 0 over 12 trials"
    assert [trial.number for trial in trials] == list(range(12))
    assert all(trial.told and trial.finished_at for trial in trials)
    assert [event.number for event in events] == list(range(1, job.last_event + 1))
    moves = [event.data["to"] for event in events if event.kind == "state"]
    assert moves == ["queued", "running", "finalizing", "succeeded"]
    assert kinds.count(Kind.EVALUATE) == 12
    assert kinds.count(Kind.TUNE) == 3


def test_warnings_are_on_the_job_and_each_is_an_event(service: Service) -> None:
    warnings = [{"code": "one", "message": "first"}, {"code": "two", "message": "second"}]
    late = [{"code": "three", "message": "of what was measured in the end"}]
    job_id, silent = service.submit(warnings=warnings, late_warnings=late), service.submit()
    service.slot().serve()
    assert (service.job(job_id).warnings, service.job(silent).warnings) == (warnings + late, [])
    with service.database.transaction(write=False) as session:
        events = events_after(session, job_id, 0)
    assert [event.data for event in events if event.kind == "warning"] == warnings + late
    (prepared,) = (event.data for event in events if event.kind == "prepared")
    assert "warnings" not in prepared


def test_what_widths_follow_from_is_on_the_job_and_in_its_event(service: Service) -> None:
    target = Target("onnxruntime", "9.9", Device("there", "cpu", "chip", "0"))
    told = {"target": target.to_json(), "measured": 1, "finer": ["a"], "needed": []}
    seconds = {"one": 0.5, "another": 0.25}
    job_id = service.submit(staircase={**told, "seconds": seconds, "stairs": []})
    silent = service.submit()
    service.slot().serve()
    with service.database.transaction(write=False) as session:
        events = [*events_after(session, job_id, 0), *events_after(session, silent, 0)]
        assert known_times(session, target.key) == seconds
    prepared = [event.data for event in events if event.kind == "prepared"]
    assert service.job(job_id).widths == prepared[0]["widths"] == {**told, "chains": 2}
    assert service.job(silent).widths is None
    assert "widths" not in prepared[1]


def test_the_seconds_of_the_result_are_those_of_its_units(service: Service) -> None:
    """And not those of an attempt that came to nothing, or of waiting."""
    job_id = service.submit(trials=3, seconds={"evaluate": 0.2, "finalize": 0.3})
    slot = service.slot()
    with service.database.transaction() as session:
        lost = claim_next(session, "lost", 0.0)
        assert lost is not None
        assert expire(session, 5) == 1
    slot.serve()
    job = service.job(job_id)
    with service.database.transaction(write=False) as session:
        units = session.scalars(select(Work)).all()
    assert all(unit.seconds is not None for unit in units)
    assert job.summary is not None
    seconds = job.summary["seconds"]
    assert seconds == round(sum(unit.seconds or 0.0 for unit in units), 1)
    assert job.finished_at is not None
    assert job.started_at is not None
    assert 3 * 0.2 + 0.3 - 0.05 <= seconds < job.finished_at - job.started_at


def test_one_child_serves_every_step(service: Service) -> None:
    service.submit()
    service.slot().serve()
    assert len({line.split()[-1] for line in service.log.read_text().splitlines()}) == 1


@pytest.mark.parametrize(("strategy", "allowed"), [("fake", 4), ("amc", 2)])
def test_no_more_trials_are_open_than_allowed(
    service: Service, strategy: str, allowed: int
) -> None:
    """Of a strategy that learns: the one that this slot is going to run, and one for another."""
    job_id = service.submit(trials=20, strategy=strategy)
    slot = service.slot()
    slot._settings = service.settings.model_copy(update={"trials_ahead": 4})
    slot.serve()
    waiting = started = most = 0
    with service.database.transaction(write=False) as session:
        for unit in session.scalars(select(Work).order_by(Work.id)):
            assert unit.attempts == 1
        trials = trials_of(session, job_id, limit=100)
    steps = sorted(
        [(trial.created_at, 1) for trial in trials]
        + [(trial.finished_at or 0.0, -1) for trial in trials]
    )
    for _, change in steps:
        waiting += change
        started += change > 0
        most = max(most, waiting)
    assert started == 20
    assert most == allowed


def test_weights_that_nothing_needs_are_let_go(service: Service) -> None:
    """All but the winner's: no trial started from another."""
    service.submit(trials=6, slices=2)
    service.slot().serve()
    with service.database.transaction(write=False) as session:
        uses = {blob.digest: blob.uses for blob in session.scalars(select(Blob))}
    kept = {digest for digest, count in uses.items() if count}
    contents = {b"".join(service.store.read(digest)) for digest in kept}
    assert contents == {b"uploaded", b"report of 0 over 6 trials", b"weights of 0, 5"}
    assert len(uses) == 2 + 6 + 2  # six trials' weights and two checkpoints, now unused


def test_an_error_that_trying_again_cannot_mend_fails_the_job_at_once(service: Service) -> None:
    job_id = service.submit(raises={"prepare": "permanent"})
    service.slot().serve()
    job = service.job(job_id)
    assert job.state == State.FAILED
    assert (job.error_code, job.error) == ("format.invalid", "as it was told")
    assert service.starts("prepare") == 1


def test_a_large_job_does_not_hold_up_a_small_one(service: Service) -> None:
    service.submit(trials=20, seed=1)
    slot = service.slot()
    with service.database.transaction() as session:
        first = claim_next(session, "test", 10.0)
    assert first is not None
    slot.run(first)
    small = service.submit(trials=1, seed=2, log=str(service.folder / "small.log"))
    while not service.job(small).terminal:
        with service.database.transaction() as session:
            claim = claim_next(session, "test", 10.0)
        assert claim is not None
        slot.run(claim)
    large = [line for line in service.log.read_text().splitlines() if "start evaluate" in line]
    assert len(large) < 20
