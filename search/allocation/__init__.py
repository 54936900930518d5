"""Allocation: the widths that lose least within a budget. Imports no torch."""

from search.allocation.allocator import Allocation, Allocator

__all__ = ["Allocation", "Allocator"]
