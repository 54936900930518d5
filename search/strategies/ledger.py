"""Which proposals are out: numbering and bookkeeping that all strategies share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.space import Plan
from search.strategies.base import Outcome, Proposal, Solve


class Ledger:
    """Numbers proposals from 0 and settles each with one outcome."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy
        self.next_number = 0
        self.outstanding: dict[int, Plan] = {}

    def issue(
        self,
        plan: Plan,
        *,
        parent: int | None = None,
        tuning_steps: int = 0,
        tags: Mapping[str, int | float | str] | None = None,
        floor: float | None = None,
        solve: Solve | None = None,
        levels_of: int | None = None,
    ) -> Proposal:
        """A new proposal, outstanding from now on; see `Proposal` for the arguments.

        A floor is for trials of which only those that beat it matter: a score below it may be an
        estimate.
        """
        proposal = Proposal(
            self.next_number, plan, parent, tuning_steps, tags or {}, floor, solve, levels_of
        )
        self.outstanding[proposal.number] = plan
        self.next_number += 1
        return proposal

    def settle(self, outcome: Outcome) -> float | None:
        """Take an outcome; its score, or `None` if the trial failed or its score is no number.

        Raises:
            ValueError: the proposal is not outstanding, or its plan was another.
        """
        plan = self.outstanding.get(outcome.number)
        if plan is None:
            raise ValueError(f"trial {outcome.number} is not outstanding: each is told once")
        if plan != tuple(outcome.plan):
            raise ValueError(f"trial {outcome.number} was proposed with another plan: {plan}")
        del self.outstanding[outcome.number]
        score = outcome.score
        return score if score is not None and math.isfinite(score) else None

    def state_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "strategy": self.strategy,
            "next_number": self.next_number,
            "outstanding": [[number, list(plan)] for number, plan in self.outstanding.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state.

        Raises:
            ValueError: the state is another strategy's.
        """
        if state["strategy"] != self.strategy:
            raise ValueError(f"a state of {state['strategy']} is none of {self.strategy}")
        self.next_number = state["next_number"]
        self.outstanding = {number: tuple(plan) for number, plan in state["outstanding"]}


class Leader:
    """The best score so far, whatever the order of arrival: of equal scores the first trial's."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.score = -math.inf

    def offer(self, number: int, score: float | None) -> None:
        """Take the lead with a higher score, or with an equal one and a lower number."""
        if score is None:
            return
        if self.number is None or (score, -number) > (self.score, -self.number):
            self.number, self.score = number, score

    @property
    def floor(self) -> float | None:
        """The score to beat, if there is one."""
        return None if self.number is None else self.score

    def state_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"number": self.number, "score": None if self.number is None else self.score}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state."""
        self.number = state["number"]
        self.score = -math.inf if state["number"] is None else state["score"]
