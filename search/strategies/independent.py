"""Trials that do not depend on each other: the plans are a list, the best score wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.space import Plan
from search.strategies.base import Outcome, Proposal
from search.strategies.ledger import Leader, Ledger


class Independent:
    """Proposes a fixed number of untuned plans; any number of them may run at once.

    Args:
        name: of the strategy.
        trials: how many plans there are.
        plan: the plan of a trial by its number, within the budget; always the same.
    """

    def __init__(self, name: str, trials: int, plan: Callable[[int], Plan]) -> None:
        self._trials = trials
        self._plan = plan
        self._ledger = Ledger(name)
        self._leader = Leader()

    @property
    def done(self) -> bool:
        return self._ledger.next_number == self._trials and not self._ledger.outstanding

    @property
    def fraction(self) -> float:
        return (self._ledger.next_number - len(self._ledger.outstanding)) / self._trials

    @property
    def best(self) -> int | None:
        return self._leader.number

    @property
    def needed(self) -> frozenset[int]:
        return frozenset()  # untuned: the plan is enough to make it again

    def ask(self, n: int, /) -> Sequence[Proposal]:
        count = min(max(n, 0), self._trials - self._ledger.next_number)
        floor = self._leader.floor
        return [
            self._ledger.issue(self._plan(self._ledger.next_number), floor=floor)
            for _ in range(count)
        ]

    def tell(self, outcome: Outcome, /) -> None:
        self._leader.offer(outcome.number, self._ledger.settle(outcome))

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self._ledger.state_dict(), "leader": self._leader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._leader.load_state_dict(state["leader"])
