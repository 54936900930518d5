"""From a network's graph to its channel groups, and from a cut back to a graph."""

from search.graph.atoms import TooManyPositions
from search.graph.shrink import shrink
from search.graph.space import space_of

__all__ = ["TooManyPositions", "shrink", "space_of"]
