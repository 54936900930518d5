"""From a network's graph to its channel groups, and from a cut back to a graph."""

from search.graph.atoms import TooManyPositions
from search.graph.head import Head, head_of, without_head
from search.graph.shrink import shrink
from search.graph.space import space_of

__all__ = ["Head", "TooManyPositions", "head_of", "shrink", "space_of", "without_head"]
