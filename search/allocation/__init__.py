"""Allocation: the widths that lose least within a budget. Imports no torch."""

from search.allocation.allocator import BOXES, Allocation, Allocator

__all__ = ["BOXES", "Allocation", "Allocator"]
