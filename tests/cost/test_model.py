"""The cost model's edges: what it accepts, what it refuses, and that it grows with every group."""

from __future__ import annotations

import numpy as np
import pytest

from espalier.format.ir import Batch, Graph, Node, TensorType
from search.cost import CostModel, NetworkTooLarge
from search.space import Affine, Extent, SearchSpace


def chain(length: int, width: int) -> SearchSpace:
    """An input of `length` x `width`, multiplied by its own transpose: no groups at all."""
    sizes = {"x": (length, width), "y": (width, length), "z": (length, length)}
    return SearchSpace(
        graph=Graph(
            nodes=(
                Node("x", "input"),
                Node("y", "permute", ("x",), {"dims": (0, 2, 1)}),
                Node("z", "matmul", ("x", "y")),
            ),
            modules={},
            stored={},
            inputs={"x": TensorType((Batch(), length, width))},
            outputs=("z",),
        ),
        groups=(),
        excluded=(),
        node_shapes={
            name: (Extent(Affine(1), batch=True), *(Extent(Affine(n)) for n in shape))
            for name, shape in sizes.items()
        },
        stored_shapes={},
    )


def test_a_network_without_groups_has_one_plan() -> None:
    model = CostModel(chain(5, 7))
    expected = {
        "macs": 5 * 7 * 5,
        "params": 0,
        "weight_bytes": 0,
        "peak_activation_bytes": 4 * (35 + 25),  # the transpose is a view of x
    }
    assert model.of(()) == expected
    assert dict(model.full) == expected
    assert model.many([(), ()])["macs"].tolist() == [175, 175]


def test_a_network_without_groups_has_constant_polynomials() -> None:
    model = CostModel(chain(5, 7))
    assert model.polynomials("macs") == ({(): 175},)
    assert max(part[()] for part in model.polynomials("peak_activation_bytes")) == 4 * (35 + 25)
    with pytest.raises(KeyError):
        model.polynomials("latency")


def test_a_cost_that_float64_cannot_hold_is_refused() -> None:
    side = 2**18  # side**3 is 2**54
    with pytest.raises(NetworkTooLarge, match=r"macs .* below 9007199254740992"):
        CostModel(chain(side, side))
    assert CostModel(chain(side, side // 2 - 1)).of(())["macs"] == side * side * (side // 2 - 1)


@pytest.mark.parametrize(
    ("plans", "message"),
    [([[1, 2]], "fit 0 groups"), ([3], "fit 0 groups")],
)
def test_plans_of_another_space_are_refused(plans: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostModel(chain(2, 2)).many(plans)  # type: ignore[arg-type]


def test_no_plans_cost_nothing() -> None:
    assert CostModel(chain(2, 2)).many([])["macs"].shape == (0,)
    assert CostModel(chain(2, 2)).many(np.empty((0, 0), int), ["params"]).keys() == {"params"}
