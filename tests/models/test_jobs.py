"""What clients may do with jobs, and the table of transitions."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from models.blob import Blob
from models.database import Database
from models.errors import IdempotencyConflict, NotFound, StateConflict
from models.events import append, events_after
from models.job import TERMINAL, Job, State
from models.jobs import create_job, get_job, list_jobs, request_cancel, request_pause, resume
from models.network import Network
from models.outbox import Outbox
from models.settings import Settings
from models.states import TRANSITIONS, move
from models.uploads import list_networks, put
from models.work import Kind, Work
from tests.models.records import specification, submit


class _Bell:
    """Notes what is rung, and whether the rows are there for others to see by then."""

    def __init__(self, *, broken: bool = False) -> None:
        self.rung: list[int] = []
        self.visible: list[bool] = []
        self.broken = broken
        self.database: Database | None = None

    def ring(self, work_ids: list[int]) -> bool:
        assert self.database is not None
        with self.database.transaction(write=False) as session:
            self.visible += [session.get(Work, work_id) is not None for work_id in work_ids]
        self.rung += work_ids
        return not self.broken


def test_a_job_comes_with_its_work_its_event_and_its_message(database_url: str) -> None:
    bell = _Bell()
    bell.database = database = Database(database_url, bell=bell)
    job_id = submit(database, name="mine")
    with database.transaction(write=False) as session:
        job = get_job(session, job_id)
        assert (job.state, job.name, job.strategy) == (State.QUEUED, "mine", "uniform")
        assert not job.terminal
        (work,) = session.scalars(select(Work)).all()
        assert (work.job_id, work.kind) == (job_id, Kind.PREPARE)
        (event,) = events_after(session, job_id, 0)
        assert (event.number, event.data) == (1, {"from": None, "to": "queued"})
        assert session.scalars(select(Outbox)).all() == []
    assert bell.rung == [work.id]
    assert bell.visible == [True]  # rung after the commit
    database.dispose()


def test_a_message_that_is_not_taken_stays_in_the_outbox(database_url: str) -> None:
    bell = _Bell(broken=True)
    bell.database = database = Database(database_url, bell=bell)
    submit(database)
    with database.transaction(write=False) as session:
        assert len(session.scalars(select(Outbox)).all()) == 1
    database.dispose()


def test_nothing_stays_of_a_transaction_that_fails(database_url: str) -> None:
    bell = _Bell()
    bell.database = database = Database(database_url, bell=bell)
    spec = specification(database)

    def fails_late() -> None:
        with database.transaction() as session:
            create_job(session, spec, idempotency_key="key")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_late()
    with database.transaction(write=False) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert bell.rung == []
    with database.transaction() as session:
        assert create_job(session, spec, idempotency_key="key").new
    database.dispose()


@pytest.mark.parametrize("missing", ["network", "dataset"])
def test_a_job_names_what_was_uploaded(database: Database, missing: str) -> None:
    spec = specification(database) | {missing: "none_such"}
    refused = pytest.raises(NotFound, match=rf"no {missing} 'none_such': upload it")
    with refused, database.transaction() as session:
        create_job(session, spec)


def test_the_same_key_and_request_give_the_same_job(database: Database) -> None:
    spec = specification(database)
    with database.transaction() as session:
        first = create_job(session, spec, idempotency_key="key")
    with database.transaction() as session:
        again = create_job(session, dict(reversed(spec.items())), idempotency_key="key")
        other = create_job(session, spec, idempotency_key="another")
    assert first.new
    assert not again.new
    assert again.job.id == first.job.id != other.job.id
    refused = pytest.raises(IdempotencyConflict, match="'key' was used for another request")
    with refused, database.transaction() as session:
        create_job(session, spec | {"seed": 1}, idempotency_key="key")


def test_simultaneous_requests_with_one_key_make_one_job(database: Database) -> None:
    spec = specification(database)
    barrier = threading.Barrier(6)
    made: list[str] = []

    def post() -> None:
        barrier.wait()
        with database.transaction() as session:
            made.append(create_job(session, spec, idempotency_key="key").job.id)

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1
    with database.transaction(write=False) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_pages_hold_each_job_once_while_others_come(database: Database) -> None:
    before = [submit(database) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        with database.transaction(write=False) as session:
            found = list_jobs(session, limit=2, cursor=cursor)
        assert len(found.items) <= 2
        seen += [job.id for job in found.items]
        submit(database)
        cursor = found.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(before)
    assert seen == sorted(seen, reverse=True)


def test_filters(database: Database) -> None:
    plain, other = submit(database), submit(database, strategy={"name": "netadapt"})
    with database.transaction() as session:
        request_cancel(session, plain)
    with database.transaction(write=False) as session:
        network = get_job(session, other).network_id

        def ids(**given: object) -> list[str]:
            return [job.id for job in list_jobs(session, **given).items]  # type: ignore[arg-type]

        assert ids(state=State.CANCELED) == [plain]
        assert ids(strategy="netadapt") == [other]
        assert ids(network=network) == [other]
        assert ids(state=State.CANCELED, strategy="netadapt") == []
        assert len(list_networks(session).items) == 2


_PATHS = {
    State.QUEUED: [],
    State.RUNNING: [State.RUNNING],
    State.PAUSED: [State.RUNNING, State.PAUSED],
    State.FINALIZING: [State.RUNNING, State.FINALIZING],
    State.SUCCEEDED: [State.RUNNING, State.FINALIZING, State.SUCCEEDED],
    State.FAILED: [State.FAILED],
    State.CANCELED: [State.CANCELED],
}


def test_the_table_of_transitions() -> None:
    """As the service promises it; a paused job is queued again before it runs."""
    allowed = {(before, after) for before, to in TRANSITIONS.items() for after in to}
    going = {State.QUEUED, State.RUNNING, State.PAUSED, State.FINALIZING}
    chain = set(pairwise([State.QUEUED, State.RUNNING, State.FINALIZING, State.SUCCEEDED]))
    pauses = {
        (State.RUNNING, State.PAUSED),
        (State.QUEUED, State.PAUSED),
        (State.PAUSED, State.QUEUED),
    }
    ends = {(state, end) for state in going for end in (State.FAILED, State.CANCELED)}
    assert allowed == chain | pauses | ends
    assert set(State) - going == TERMINAL


@pytest.mark.parametrize("before", State)
def test_each_transition_is_applied_with_its_event_or_refused(
    database: Database, before: State
) -> None:
    for to in State:
        job_id = submit(database)
        with database.transaction() as session:
            job = get_job(session, job_id)
            for state in _PATHS[before]:
                move(session, job, state)
            last = job.last_event
            if to in TRANSITIONS[before]:
                move(session, job, to, why="test")
                assert (job.state, job.last_event) == (to, last + 1)
                assert (job.finished_at is not None) == (to in TERMINAL)
                (event,) = events_after(session, job_id, last)
                assert event.data == {"from": before, "to": to, "why": "test"}
            else:
                with pytest.raises(StateConflict, match=f"is {before} and cannot become {to}"):
                    move(session, job, to)
                assert job.last_event == last


def test_a_move_that_comes_second_is_refused(database_url: str) -> None:
    database = Database(database_url)
    job_id = submit(database)
    with database.transaction(write=False) as session:
        stale = get_job(session, job_id)
        session.expunge(stale)
    with database.transaction() as session:
        request_cancel(session, job_id)
    refused = pytest.raises(StateConflict, match="became canceled meanwhile")
    with database.transaction() as session, refused:
        session.add(stale)
        move(session, stale, State.RUNNING)
    database.dispose()


def test_requests_that_the_state_does_not_allow(database: Database) -> None:
    job_id = submit(database)
    with database.transaction() as session:
        assert resume(session, job_id).last_event == 1  # there is nothing to take back
    with database.transaction() as session:
        job = get_job(session, job_id)
        for state in _PATHS[State.SUCCEEDED]:
            move(session, job, state)
    with database.transaction() as session:
        with pytest.raises(StateConflict, match="already succeeded"):
            request_cancel(session, job_id)
        with pytest.raises(StateConflict, match="cannot be paused"):
            request_pause(session, job_id)
        with pytest.raises(StateConflict, match="nothing to resume"):
            resume(session, job_id)
    with database.transaction() as session, pytest.raises(NotFound, match="no job 'none'"):
        request_cancel(session, "none")


def test_a_queued_job_pauses_at_once(database: Database) -> None:
    job_id = submit(database)
    with database.transaction() as session:
        assert request_pause(session, job_id).state == State.PAUSED
    with database.transaction() as session:
        assert resume(session, job_id).state == State.QUEUED


def test_events_have_no_gaps_when_transactions_fail(database: Database) -> None:
    job_id = submit(database)

    def write(index: int) -> None:
        for round_ in range(10):
            try:
                with database.transaction() as session:
                    append(session, get_job(session, job_id), "progress", {"by": index})
                    if (index + round_) % 3 == 0:
                        raise RuntimeError
            except RuntimeError:
                continue

    threads = [threading.Thread(target=write, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.transaction(write=False) as session:
        numbers = [event.number for event in events_after(session, job_id, 0)]
        assert numbers == list(range(1, 1 + 40 + 1))
        assert get_job(session, job_id).last_event == 41
        assert [event.number for event in events_after(session, job_id, 30, limit=5)] == [
            31,
            32,
            33,
            34,
            35,
        ]


def test_a_lease_needs_room_for_three_renewals() -> None:
    with pytest.raises(ValueError, match="ESPALIER_LEASE_S"):
        Settings(lease_s=10, heartbeat_s=4)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("sqlite:////x.db", "sqlite:////x.db"),
    ],
)
def test_database_urls(given: str, used: str) -> None:
    assert Settings(database_url=given).database == used


def test_simultaneous_uploads_of_one_file_are_one(database: Database) -> None:
    start = threading.Barrier(4)
    made: list[tuple[str, bool]] = []

    def upload(name: str) -> None:
        start.wait()
        with database.transaction() as session:
            row, new = put(
                session, Network, name=name, digest="0" * 64, size_bytes=1, description={}
            )
        made.append((row.id, new))

    threads = [threading.Thread(target=upload, args=(f"name {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({row_id for row_id, _ in made}) == 1
    assert sorted(new for _, new in made) == [False, False, False, True]
    with database.transaction(write=False) as session:
        assert session.get_one(Blob, "0" * 64).uses == 1
