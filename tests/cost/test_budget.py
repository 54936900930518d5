"""Budgets: exact limits, joint limits, and the refusal of what cannot be reached."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from espalier.format.ir import Batch, Graph, Module, Node, Stored, TensorType
from search.cost import Budget, CostModel, UnreachableBudget, check_reachable, smallest_cost
from search.space import Affine, ChannelGroup, Extent, Member, SearchSpace
from search.spec import BudgetSpec


def two_layers() -> SearchSpace:
    """A perceptron 6 -> 10 -> 4 without biases, whose hidden units are the one group."""
    hidden = Affine(0, ((0, 1),))
    sizes = {"x": Affine(6), "first": hidden, "second": Affine(4)}
    graph = Graph(
        nodes=(
            Node("x", "input"),
            Node("first", "module", ("x",), target="first"),
            Node("second", "module", ("first",), target="second"),
        ),
        modules={
            "first": Module("Linear", {"in_features": 6, "out_features": 10, "bias": False}),
            "second": Module("Linear", {"in_features": 10, "out_features": 4, "bias": False}),
        },
        stored={
            "first.weight": Stored((10, 6), "float32", trainable=True),
            "second.weight": Stored((4, 10), "float32", trainable=True),
        },
        inputs={"x": TensorType((Batch(), 6))},
        outputs=("second",),
    )
    each = tuple((channel,) for channel in range(10))
    members = (
        Member("first.weight", 0, each, "produces"),
        Member("second.weight", 1, each, "consumes"),
    )
    return SearchSpace(
        graph=graph,
        groups=(ChannelGroup("first", 10, members),),
        excluded=(),
        node_shapes={
            name: (Extent(Affine(1), batch=True), Extent(size)) for name, size in sizes.items()
        },
        stored_shapes={
            "first.weight": (hidden, Affine(6)),
            "second.weight": (Affine(4), hidden),
        },
    )


def test_shares_are_rounded_down_exactly() -> None:
    spec = BudgetSpec(macs="33.3%", params="100%", weight_bytes=7)
    budget = Budget.resolve(spec, {"macs": 1000, "params": 11, "weight_bytes": 44})
    assert dict(budget.limits) == {"macs": 333, "params": 11, "weight_bytes": 7}
    # 0.07 * 100 is 7.000000000000001 in floating point, 0.29 * 100 is 28.999999999999996
    for percent in range(1, 101):
        exact = Budget.resolve(BudgetSpec(macs=f"{percent}%"), {"macs": 100})
        assert exact.limits["macs"] == percent


def test_every_limit_holds_and_the_limit_itself_is_allowed() -> None:
    budget = Budget({"macs": 100, "params": 10})
    assert budget.admits({"macs": 100, "params": 10, "weight_bytes": 10**9})
    assert not budget.admits({"macs": 101, "params": 1})
    assert not budget.admits({"macs": 1, "params": 11})
    costs = {"macs": np.array([100, 101, 1]), "params": np.array([10, 1, 11])}
    assert budget.admits_many(costs).tolist() == [True, False, False]


def test_the_smallest_reachable_budget_is_accepted_and_one_less_refused() -> None:
    model = CostModel(two_layers())
    choices = (tuple(range(3, 11)),)
    assert smallest_cost(model, choices)["macs"] == 3 * 10
    check_reachable(model, Budget({"macs": 30, "params": 30}), choices)
    with pytest.raises(UnreachableBudget, match=r"macs is limited to 29.* is 30 \(30% ") as raised:
        check_reachable(model, Budget({"macs": 29, "params": 30}), choices)
    assert raised.value.smallest == model.of((3,))
    assert raised.value.code == "budget.unreachable"
    assert "params" not in str(raised.value)


def test_a_budget_cannot_be_changed() -> None:
    budget = Budget({"macs": 1})
    with pytest.raises(TypeError):
        budget.limits["macs"] = 2  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.limits = {}  # type: ignore[misc]
