"""Plans that must not change unnoticed: a commit that changes one says why."""

from __future__ import annotations

import pytest

from search.space import Plan
from tests.conformance.problems import play
from tests.conformance.test_strategies import SPECS, known

GOLDEN: dict[str, tuple[Plan, int]] = {  # the winner, and how many trials it took
    "uniform": ((23, 22, 22, 22, 22, 23), 1),
    "random": ((29, 22, 21, 9, 29, 13), 7),
    "netadapt": ((32, 12, 32, 20, 32, 32), 31),
    "netadapt-ratio": ((32, 11, 32, 21, 32, 32), 31),
    "netadapt-stretched": ((32, 10, 32, 25, 32, 32), 25),
    "sensitivity": ((32, 6, 32, 32, 32, 32), 55),  # a single cut: group 1 is worth nearly nothing
    "sensitivity-coarse": ((32, 15, 32, 15, 32, 19), 13),
    "optuna-tpe": ((32, 17, 32, 7, 32, 32), 6),
    "optuna-cmaes": ((27, 21, 28, 11, 29, 14), 10),
    "optuna-nsga2": ((23, 22, 22, 22, 22, 23), 11),
    "optuna-random": ((32, 19, 32, 6, 17, 32), 2),
    "allocate": ((32, 10, 32, 25, 32, 32), 15),
    "allocate-once": ((32, 10, 32, 25, 32, 32), 8),
    "amc": ((29, 19, 29, 15, 16, 25), 5),
    "amc-guaranteed": ((20, 24, 24, 8, 7, 13), 3),
}


@pytest.mark.parametrize("name", SPECS)
def test_winner_of_the_known_problem(name: str) -> None:
    history = play(SPECS[name], known())
    assert (history.best_plan, len(history.proposals)) == GOLDEN[name]
