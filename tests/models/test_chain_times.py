"""Times of layers on targets: what was measured first stays."""

from __future__ import annotations

from models.chain_times import keep_times, known_times
from models.database import Database


def test_what_is_known_of_a_target_stays_as_it_was(database: Database) -> None:
    many = {f"conv {n}": n / 7 for n in range(1, 451)}
    for target, seconds in (("a", many), ("b", {"conv 1": 5.0}), ("a", {"conv 1": 9.0, "x": 1.5})):
        with database.transaction() as session:
            keep_times(session, target, seconds)
    with database.transaction(write=False) as session:
        assert known_times(session, "a") == {**many, "x": 1.5}
        assert known_times(session, "b") == {"conv 1": 5.0}
        assert known_times(session, "c") == {}
