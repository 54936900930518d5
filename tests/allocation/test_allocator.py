"""Allocation against every plan there is, against an integer programme, and its own promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw
from numpy.typing import NDArray

from benchmarks.networks import CifarResNet
from espalier.format.lift import pack
from espalier.format.package import read_package
from search.allocation import Allocation, Allocator
from search.context import Problem
from search.cost import Budget, CostModel, UnreachableBudget
from search.cost.polynomial import Polynomial
from search.space import Affine, Plan, widths
from tests.networks import ZOO

property_test = settings(deadline=None, max_examples=60, derandomize=True)
Losses = list[NDArray[np.float64]]
Choices = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Costs:
    """Costs that are given as polynomials; of several with one name the largest counts."""

    widest: Plan
    parts: Mapping[str, tuple[Polynomial, ...]]
    sums: tuple[Affine, ...] = ()
    space: Any = field(init=False)

    def __post_init__(self) -> None:
        space = SimpleNamespace(stored_shapes={"": self.sums}, node_shapes={})
        object.__setattr__(self, "space", space)

    @property
    def full(self) -> dict[str, int]:
        return self.of(self.widest)

    def polynomials(self, name: str) -> tuple[Polynomial, ...]:
        return self.parts[name]

    def of(self, plan: Plan) -> dict[str, int]:
        return {
            name: max(
                sum(n * math.prod(plan[g] for g in monomial) for monomial, n in part.items())
                for part in parts
            )
            for name, parts in self.parts.items()
        }


def allocator(cost: Costs, limits: Mapping[str, int], choices: Choices, **how: int) -> Allocator:
    return Allocator(cast(CostModel, cost), Budget(limits), choices, **how)


def optimum(cost: Costs, limits: Mapping[str, int], choices: Choices, losses: Losses) -> float:
    """The least loss of all plans within the limits."""
    best = math.inf
    for indices in itertools.product(*(range(len(options)) for options in choices)):
        plan = tuple(options[i] for options, i in zip(choices, indices, strict=True))
        if Budget(limits).admits(cost.of(plan)):
            best = min(best, sum(float(x[i]) for x, i in zip(losses, indices, strict=True)))
    return best


def summed(left: Affine, right: Affine, scale: int) -> dict[tuple[int, ...], int]:
    """`scale` times the product of two sums."""
    found: dict[tuple[int, ...], int] = {}
    for (a, n), (b, m) in itertools.product(left.terms, right.terms):
        key = (min(a, b), max(a, b))
        found[key] = found.get(key, 0) + scale * n * m
    return found


@dataclass(frozen=True)
class Case:
    cost: Costs
    limits: dict[str, int]
    choices: Choices
    losses: Losses


@draw.composite
def cases(pick: draw.DrawFn) -> Case:
    """Two to five groups, products of sums of them, one or two limits and perhaps a maximum."""
    groups = pick(draw.integers(2, 5))
    full = tuple(pick(draw.integers(1, 7)) for _ in range(groups))

    def some() -> Affine:
        members = pick(draw.sets(draw.integers(0, groups - 1), min_size=1, max_size=3))
        return Affine(0, tuple((g, pick(draw.sampled_from([1, 1, 2]))) for g in sorted(members)))

    pairs = [(some(), some(), pick(draw.integers(1, 9))) for _ in range(pick(draw.integers(1, 5)))]
    macs: dict[tuple[int, ...], int] = {(): 5} | {(g,): 1 for g in range(groups)}
    params: Polynomial = {(g,): pick(draw.integers(1, 5)) for g in range(groups)}
    for left, right, scale in pairs:
        for monomial, n in summed(left, right, scale).items():
            macs[monomial] = macs.get(monomial, 0) + n
    if pick(draw.booleans()):
        cubic = tuple(sorted(pick(draw.integers(0, groups - 1)) for _ in range(3)))
        macs[cubic] = pick(draw.integers(1, 3))
    peaks: tuple[Polynomial, ...] = tuple({(g,): 3, ((g + 1) % groups,): 2} for g in range(groups))
    sums = tuple(part for left, right, _ in pairs for part in (left, right))
    cost = Costs(full, {"macs": (macs,), "params": (params,), "peak": peaks}, sums)
    choices = tuple(widths(count, multiple=pick(draw.sampled_from([1, 1, 2]))) for count in full)
    least, most = cost.of(tuple(options[0] for options in choices)), cost.full
    names = pick(draw.sets(draw.sampled_from(sorted(most)), min_size=1))
    limits = {
        name: least[name] + int(pick(draw.floats(0, 1)) * (most[name] - least[name]))
        for name in sorted(names)
    }
    losses = []
    for options in choices:
        falls = [pick(draw.sampled_from([0.0, 0.1, 1.0, 5.0, 0.37, 1e9])) for _ in options[1:]]
        losses.append(np.cumsum([0.0, *falls])[::-1].copy())
    return Case(cost, limits, choices, losses)


@property_test
@given(case=cases(), elements=draw.sampled_from([4_000_000, 60]))
def test_the_bound_lies_below_and_the_plan_above_the_optimum(case: Case, elements: int) -> None:
    solver = allocator(case.cost, case.limits, case.choices, elements=elements)
    found = solver.solve(case.losses)
    best = optimum(case.cost, case.limits, case.choices, case.losses)
    assert Budget(case.limits).admits(case.cost.of(found.plan))
    assert found.loss == pytest.approx(
        sum(
            x[options.index(w)]
            for x, options, w in zip(case.losses, case.choices, found.plan, strict=True)
        )
    )
    assert found.bound <= best * (1 + 1e-9) + 1e-9
    assert best <= found.loss * (1 + 1e-9) + 1e-9


def test_a_narrowest_plan_that_loses_a_billion_times_as_much_hides_no_other() -> None:
    """Solvers of linear programmes have an absolute tolerance: the bound once fell to 0 here."""
    parts: dict[str, tuple[Polynomial, ...]] = {
        "macs": ({(0, 1): 1, (1, 2): 1},),
        "params": ({(0,): 3, (1,): 1, (2,): 2},),
    }
    cost, choices = Costs((8, 8, 8), parts), (widths(8),) * 3
    limits = {"macs": int(0.4 * cost.full["macs"]), "params": int(0.55 * cost.full["params"])}
    for most in (1e2, 1e7, 1e12):
        falling = [s * (8 - w) / 8 for s in (1.0, 2.0, 0.7) for w in range(2, 9)]
        losses = [np.array([most, *falling[7 * g : 7 * g + 7]]) for g in range(3)]
        found = allocator(cost, limits, choices).solve(losses, boxes=2000, gap=0)
        assert found.bound == found.loss == pytest.approx(1.025)
        assert found.loss == pytest.approx(optimum(cost, limits, choices, losses))


@property_test
@given(case=cases())
def test_with_enough_boxes_small_problems_are_solved(case: Case) -> None:
    found = allocator(case.cost, case.limits, case.choices).solve(case.losses, boxes=2000, gap=0)
    best = optimum(case.cost, case.limits, case.choices, case.losses)
    assert found.loss == pytest.approx(best)


@property_test
@given(case=cases())
def test_no_group_can_be_widened(case: Case) -> None:
    found = allocator(case.cost, case.limits, case.choices).solve(case.losses)
    for group, options in enumerate(case.choices):
        for width in options:
            if width > found.plan[group]:
                wider = (*found.plan[:group], width, *found.plan[group + 1 :])
                assert not Budget(case.limits).admits(case.cost.of(wider))


# --- networks -----------------------------------------------------------------------------------


def problem(name: str, folder: Path) -> Problem:
    if name == "resnet56":
        network, example = CifarResNet(56, "a").eval(), torch.zeros(2, 3, 32, 32)
        pack(network, example, folder / name)
    else:
        pack(*ZOO[name](), folder / name)
    return Problem(read_package(folder / name).graph)


@pytest.fixture(scope="module")
def resnet56(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return problem("resnet56", tmp_path_factory.mktemp("networks"))


def power(choices: Sequence[Sequence[int]], seed: int = 0) -> Losses:
    """Losses that fall with the width, convex in some groups and not in others."""
    rng = np.random.default_rng(seed)
    return [
        rng.lognormal() * (1 - np.array(options) / options[-1]) ** rng.uniform(0.6, 3)
        for options in choices
    ]


def all_widths(problem: Problem) -> Choices:
    return tuple(widths(count) for count in problem.space.full)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_a_resnet56_lands_just_under_its_budget(resnet56: Problem, share: float) -> None:
    cost, choices = resnet56.cost, all_widths(resnet56)
    budget = Budget({"macs": int(share * cost.full["macs"])})
    rng = np.random.default_rng(3)
    losses = [rng.lognormal() * (1 - np.array(o) / o[-1]) ** rng.uniform(1.2, 3) for o in choices]
    found = Allocator(cost, budget, choices).solve(losses)
    used = cost.of(found.plan)["macs"] / budget.limits["macs"]
    assert 0.998 <= used <= 1
    assert found.loss <= 1.002 * found.bound


def test_the_same_losses_give_the_same_plan(resnet56: Problem) -> None:
    cost, choices = resnet56.cost, all_widths(resnet56)
    budget = Budget({name: int(0.6 * cost.full[name]) for name in ("macs", "params")})
    solver = Allocator(cost, budget, choices)
    first = solver.solve(power(choices), boxes=4)
    solver.solve(power(choices, 1), boxes=2)  # leaves nothing behind
    assert solver.solve(power(choices), boxes=4) == first
    assert Allocator(cost, budget, choices).solve(power(choices), boxes=4) == first
    assert budget.admits(cost.of(first.plan))


def test_peak_memory_is_kept(resnet56: Problem) -> None:
    cost, choices = resnet56.cost, all_widths(resnet56)
    budget = Budget(
        {
            "macs": cost.full["macs"] // 2,
            "peak_activation_bytes": int(0.6 * cost.full["peak_activation_bytes"]),
        }
    )
    found = Allocator(cost, budget, choices).solve(power(choices), boxes=2)
    assert budget.admits(cost.of(found.plan))
    assert found.bound <= found.loss <= 1.1 * found.bound


def test_all_of_the_budget_keeps_everything(resnet56: Problem) -> None:
    cost, choices = resnet56.cost, all_widths(resnet56)
    found = Allocator(cost, Budget(cost.full), choices).solve(power(choices))
    assert found == Allocation(resnet56.space.full, 0.0, 0.0)


NETWORKS = ("vgg", "mobilenet_v2_bn", "densenet", "squeeze_excite", "unet", "vit_fused")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_integer_programme_finds_nothing_better(name: str, tmp_path: Path) -> None:
    """HiGHS on the linearised problem: a variable for each width, one for each pair of widths."""
    made = problem(name, tmp_path)
    cost, full = made.cost, made.space.full
    choices = tuple(tuple(sorted({1, -(-n // 3), -(-2 * n // 3), n})) for n in full)
    budget = Budget({"macs": int(0.45 * cost.full["macs"])})
    losses = power(choices)
    found = Allocator(cost, budget, choices).solve(losses, boxes=200, gap=0)
    best = programme(cost.polynomials("macs")[0], budget.limits["macs"], choices, losses)
    assert found.bound <= best * (1 + 1e-6)
    assert best <= found.loss * (1 + 1e-6)
    assert found.loss == pytest.approx(best, rel=1e-3)


def programme(polynomial: Polynomial, limit: int, choices: Choices, losses: Losses) -> float:
    from scipy.optimize import Bounds, LinearConstraint, milp

    start = np.cumsum([0, *(len(options) for options in choices)])
    cost = {int(start[g]) + i: 0.0 for g, o in enumerate(choices) for i in range(len(o))}
    rows: list[dict[int, float]] = []  # each at most 1
    left = limit - polynomial.get((), 0)
    for monomial, n in polynomial.items():
        if len(set(monomial)) == 1:
            for i, width in enumerate(choices[monomial[0]]):
                cost[int(start[monomial[0]]) + i] += n * width ** len(monomial)
        elif len(monomial) == 2:
            a, b = monomial
            for (i, v), (j, w) in itertools.product(enumerate(choices[a]), enumerate(choices[b])):
                both = len(cost)
                cost[both] = float(n * v * w)
                rows.append({int(start[a]) + i: 1.0, int(start[b]) + j: 1.0, both: -1.0})
    count = len(cost)
    prices = np.array([cost[k] for k in range(count)])
    pairs = np.zeros((len(rows), count))
    for row, entries in enumerate(rows):
        pairs[row, list(entries)] = list(entries.values())
    one = np.zeros((len(choices), count))
    for group in range(len(choices)):
        one[group, start[group] : start[group + 1]] = 1
    goal = np.concatenate([*losses, np.zeros(count - start[-1])])
    found = milp(
        goal,
        constraints=[
            LinearConstraint(prices[None] / limit, -np.inf, left / limit),
            LinearConstraint(pairs, -np.inf, 1),
            LinearConstraint(one, 1, 1),
        ],
        integrality=np.arange(count) < start[-1],
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6, "time_limit": 20},
    )
    assert found.status == 0
    return float(found.fun)


def test_tables_of_a_densenet_stay_small(tmp_path: Path) -> None:
    """Each layer reads all before it; as a running sum that is one variable."""
    made = problem("densenet", tmp_path)
    cost, choices = made.cost, all_widths(made)
    budget = Budget({"macs": cost.full["macs"] // 2})
    losses = power(choices)
    small = Allocator(cost, budget, choices, elements=2000).solve(losses)
    assert small == Allocator(cost, budget, choices).solve(losses)


# --- what is refused ----------------------------------------------------------------------------

LINE = Costs((4, 4), {"macs": ({(0, 1): 1},)})
WIDTHS = (widths(4), widths(4))
FALLING = np.array([3.0, 2.0, 1.0, 0.0])


def test_widths_with_infinite_losses_are_not_taken() -> None:
    barred = np.array([np.inf, np.inf, 0.5, 0.0])
    found = allocator(LINE, {"macs": 8}, WIDTHS).solve([FALLING, barred])
    assert found == Allocation((2, 4), 2.0, 2.0)


def test_a_budget_that_only_barred_widths_meet_is_unreachable() -> None:
    barred = np.array([np.inf, np.inf, 0.5, 0.0])
    with pytest.raises(UnreachableBudget):
        allocator(LINE, {"macs": 8}, WIDTHS).solve([barred, barred])
    with pytest.raises(UnreachableBudget):
        allocator(LINE, {"macs": 0}, WIDTHS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ([1.0, 0.0], "4 allowed widths"),
        ([1.0, 0.0, 0.5, 0.0], "rises"),
        ([1.0, 0.0, -0.5, -1.0], "negative"),
        ([np.nan, 1.0, 0.5, 0.0], "not a number"),
        ([np.inf] * 4, "finite"),
    ],
)
def test_losses_of_another_kind_are_refused(loss: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocator(LINE, {"macs": 8}, WIDTHS).solve([FALLING, np.array(loss)])
