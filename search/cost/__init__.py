"""Cost and budget: what a plan needs, and whether that is allowed. Imports no torch."""

from search.cost.budget import (
    Budget,
    UnreachableBudget,
    check_reachable,
    smallest_cost,
)
from search.cost.model import NAMES, CostModel
from search.cost.rounding import choices_of, without_choice
from search.cost.terms import NetworkTooLarge
from search.space import Choices

__all__ = [
    "NAMES",
    "Budget",
    "Choices",
    "CostModel",
    "NetworkTooLarge",
    "UnreachableBudget",
    "check_reachable",
    "choices_of",
    "smallest_cost",
    "without_choice",
]
