"""Ranking channels and cutting networks."""

from search.pruning.criteria import CRITERIA, scores
from search.pruning.cut import apply, apply_further, clone, with_tensors
from search.pruning.positions import everything, narrowed, relative
from search.pruning.selection import select

__all__ = [
    "CRITERIA",
    "apply",
    "apply_further",
    "clone",
    "everything",
    "narrowed",
    "relative",
    "scores",
    "select",
    "with_tensors",
]
