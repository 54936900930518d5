"""Polynomials in the plan agree with plain integer arithmetic, whatever their degree."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from search.cost.polynomial import Maximum, Polynomial, Sum, product, total, with_one
from search.cost.terms import Terms
from search.space import Affine

GROUPS = 4
SIZES = st.builds(
    lambda constant, terms: Affine(constant, tuple(sorted(terms.items()))),
    st.integers(0, 9),
    st.dictionaries(st.integers(0, GROUPS - 1), st.integers(1, 9), max_size=3),
)
PRODUCTS = st.tuples(st.integers(1, 50), st.lists(SIZES, max_size=4))
PLANS = st.lists(st.lists(st.integers(1, 60), min_size=GROUPS, max_size=GROUPS), min_size=1)


def by_hand(parts: list[tuple[int, list[Affine]]], plan: list[int]) -> int:
    return sum(scale * math.prod(s.at(tuple(plan)) for s in sizes) for scale, sizes in parts)


def polynomial(parts: list[tuple[int, list[Affine]]]) -> Polynomial:
    return total(product(scale, sizes, Terms()) for scale, sizes in parts)


def factors(plans: list[list[int]]) -> NDArray[np.float64]:
    return with_one(np.array(plans))


@settings(max_examples=60, deadline=None)
@given(st.lists(PRODUCTS, max_size=5), PLANS)
def test_a_sum_of_products(parts: list[tuple[int, list[Affine]]], plans: list[list[int]]) -> None:
    found = Sum(polynomial(parts), GROUPS, Terms())(factors(plans))
    assert found.tolist() == [by_hand(parts, plan) for plan in plans]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(PRODUCTS, max_size=3), min_size=1, max_size=8), PLANS)
def test_the_largest_of_several(
    steps: list[list[tuple[int, list[Affine]]]], plans: list[list[int]]
) -> None:
    found = Maximum(map(polynomial, steps), GROUPS, Terms())(factors(plans))
    assert found.tolist() == [max(by_hand(parts, plan) for parts in steps) for plan in plans]


def test_exact_up_to_the_bound() -> None:
    """An odd number just below 2**53: one more bit than float64 has would round it."""
    size = Affine(0, ((0, 1), (1, 1)))
    value = Sum(
        total([product(1, [size, size], Terms()), product(1, [Affine(1)], Terms())]), 2, Terms()
    )
    side = 94_906_264  # the largest even integer whose square is below 2**53
    assert int(value(factors([[side // 2, side // 2]]))[0]) == side * side + 1
