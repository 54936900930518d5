"""What is coupled with what, on structures small enough to say it by hand."""

from __future__ import annotations

import pytest

from benchmarks.sketch import Sketch
from espalier.format.ir import Batch, Graph
from search.graph import shrink, space_of
from search.space import ChannelGroup, Kept, SearchSpace


def table(space: SearchSpace) -> dict[str, int]:
    return {group.name: group.channels for group in space.groups}


def where(group: ChannelGroup) -> dict[tuple[str, int], tuple[tuple[int, ...], ...]]:
    return {(member.tensor, member.dim): member.positions for member in group.members}


def singles(*indices: int) -> tuple[tuple[int, ...], ...]:
    return tuple((index,) for index in indices)


def reason_of(graph: Graph, name: str) -> str:
    (found,) = (e for e in space_of(graph).excluded if e.name == name)
    return found.reason


def attr(graph: Graph, node: str, name: str) -> object:
    return next(n for n in graph.nodes if n.name == node).attrs[name]


def every_other(space: SearchSpace) -> Kept:
    return tuple(tuple(range(0, group.channels, 2)) for group in space.groups)


def test_a_chain_couples_producer_norm_and_consumer() -> None:
    s = Sketch()
    x = s.op("relu", s.norm(s.conv(s.input(3, 8, 8), 4, path="a"), path="bn"))
    out = s.linear(s.pool(s.conv(x, 6, path="b")), 10, path="head")
    space = space_of(s.graph(out))
    assert table(space) == {"a": 4, "b": 6}
    assert [(m.tensor, m.dim, m.role) for m in space.groups[0].members] == [
        ("a.weight", 0, "produces"),
        ("a.bias", 0, "produces"),
        ("bn.weight", 0, "follows"),
        ("bn.bias", 0, "follows"),
        ("bn.running_mean", 0, "follows"),
        ("bn.running_var", 0, "follows"),
        ("b.weight", 1, "consumes"),
    ]
    assert set(where(space.groups[0]).values()) == {singles(0, 1, 2, 3)}
    (last,) = space.excluded
    assert (last.name, last.channels, last.reason) == ("head", 10, "they are the network's output")


def test_a_residual_sum_is_one_group() -> None:
    s = Sketch()
    stem = s.conv(s.input(3, 8, 8), 4, path="stem")
    inner = s.conv(s.conv(stem, 6, path="one"), 4, path="two")
    out = s.linear(s.pool(s.op("add", stem, inner)), 10)
    space = space_of(s.graph(out))
    assert table(space) == {"stem": 4, "one": 6}
    produced = [m.tensor for m in space.groups[0].members if m.role == "produces"]
    assert produced == ["stem.weight", "stem.bias", "two.weight", "two.bias"]


def test_zero_padded_shortcut_cuts_pads_with_the_channels_they_meet() -> None:
    s = Sketch()
    narrow = s.conv(s.input(3, 8, 8), 4, path="narrow")
    padded = s.op("pad", narrow, pads=(0, 0, 0, 0, 1, 3), mode="constant", value=0.0)
    wide = s.conv(narrow, 8, path="wide")
    total = s.op("add", wide, padded)
    space = space_of(s.graph(s.linear(s.pool(total), 10)))
    # channels that the pad puts in front, that pass through, that it puts behind
    assert [g.channels for g in space.groups] == [4, 3]
    assert where(space.groups[0])["narrow.weight", 0] == singles(0, 1, 2, 3)
    assert where(space.groups[0])["wide.weight", 0] == singles(1, 2, 3, 4)
    assert where(space.groups[1])["wide.weight", 0] == singles(5, 6, 7)
    small = shrink(space, ((1, 2), (0,)))
    assert attr(small, padded, "pads") == (0, 0, 0, 0, 1, 1)


def test_a_depthwise_convolution_carries_its_channel_through() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 4, path="a")
    x = s.conv(x, 8, 3, groups=4, path="dw")
    space = space_of(s.graph(s.linear(s.pool(x), 10, path="head")))
    assert table(space) == {"a": 4}
    pairs = ((0, 1), (2, 3), (4, 5), (6, 7))
    assert where(space.groups[0])["dw.weight", 0] == pairs
    assert where(space.groups[0])["head.weight", 1] == pairs
    args = shrink(space, ((0, 3),)).modules["dw"].args
    assert (args["in_channels"], args["out_channels"], args["groups"]) == (2, 4, 2)


def test_few_wide_groups_lose_the_same_offsets() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 12, path="a")
    x = s.conv(x, 8, groups=2, path="grouped")
    space = space_of(s.graph(s.linear(s.pool(x), 10)))
    assert table(space) == {"a": 6, "grouped": 4}
    assert where(space.groups[0])["a.weight", 0] == tuple((i, i + 6) for i in range(6))
    assert where(space.groups[0])["grouped.weight", 1] == singles(*range(6))
    assert where(space.groups[1])["grouped.weight", 0] == tuple((i, i + 4) for i in range(4))
    args = shrink(space, ((0, 1), (2,))).modules["grouped"].args
    assert (args["in_channels"], args["out_channels"], args["groups"]) == (4, 2, 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_many_narrow_groups_go_whole(transposed: bool) -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 8, path="a")
    x = s.conv(x, 8, groups=4, path="grouped", transposed=transposed)
    space = space_of(s.graph(s.linear(s.pool(x), 10, path="head")))
    assert table(space) == {"a": 4}
    pairs = ((0, 1), (2, 3), (4, 5), (6, 7))
    assert where(space.groups[0])["grouped.weight", 0] == pairs
    assert where(space.groups[0])["grouped.bias", 0] == pairs
    assert where(space.groups[0])["head.weight", 1] == pairs
    small = shrink(space, ((1, 2, 3),))
    assert small.modules["grouped"].args["groups"] == 3
    assert small.stored["grouped.weight"].shape == (6, 2, 1, 1)


@pytest.mark.parametrize(
    ("groups", "units", "left"),
    [(1, 8, 1), (2, ((0, 4), (1, 5), (2, 6), (3, 7)), 2), (4, ((0, 1), (2, 3), (4, 5), (6, 7)), 2)],
)
def test_group_normalisation_keeps_its_groups_even(groups: int, units: object, left: int) -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 8, path="a")
    x = s.module(
        "GroupNorm", x, path="gn", num_channels=8, num_groups=groups, eps=1e-5, affine=False
    )
    space = space_of(s.graph(s.linear(s.pool(x), 10)))
    expected = singles(*range(8)) if units == 8 else units
    assert where(space.groups[0])["a.weight", 0] == expected
    args = shrink(space, every_other(space)).modules["gn"].args
    assert (args["num_channels"], args["num_groups"]) == (4, left)


def test_concatenation_shifts_positions() -> None:
    s = Sketch()
    x = s.input(3, 8, 8)
    a, b = s.conv(x, 4, path="a"), s.conv(x, 2, path="b")
    joined = s.op("cat", a, b, a, dim=1)
    space = space_of(s.graph(s.linear(s.pool(joined), 10, path="head")))
    assert table(space) == {"a": 4, "b": 2}
    assert where(space.groups[0])["head.weight", 1] == ((0, 6), (1, 7), (2, 8), (3, 9))
    assert where(space.groups[1])["head.weight", 1] == singles(4, 5)


def test_flattening_gives_a_channel_all_its_positions() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 2, 2), 3, path="a")
    flat = s.reshape(x, Batch(), 12)
    space = space_of(s.graph(s.linear(flat, 10, path="head")))
    assert where(space.groups[0])["head.weight", 1] == (
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        (8, 9, 10, 11),
    )
    small = shrink(space, ((0, 2),))
    assert attr(small, flat, "shape") == (Batch(), 8)
    assert small.modules["head"].args["in_features"] == 8


def test_halves_that_part_ways_are_separate_groups() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 8, path="a")
    left, right = s.slice(x, 1, 0, 4), s.slice(x, 1, 4, 8)
    out = s.linear(s.pool(s.op("cat", s.conv(left, 5, path="b"), right, dim=1)), 10)
    space = space_of(s.graph(out))
    assert table(space) == {"a": 4, "a#2": 4, "b": 5}
    small = shrink(space, ((0, 1, 2), (3,), (0,)))
    assert (attr(small, left, "start"), attr(small, left, "stop")) == (0, 3)
    assert (attr(small, right, "start"), attr(small, right, "stop")) == (3, 4)


def test_a_slice_in_the_middle_counts_what_is_left_before_it() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 9, path="a")
    middle = s.slice(x, 1, 3, 6)
    out = [s.linear(s.pool(s.conv(each, 4)), 10) for each in (x, middle)]
    space = space_of(s.graph(*out))
    assert [g.channels for g in space.groups[:3]] == [3, 3, 3]
    small = shrink(space, ((2,), (0, 1), (0, 1, 2), (0,), (0,)))
    assert (attr(small, middle, "start"), attr(small, middle, "stop")) == (1, 3)


def test_halves_that_are_multiplied_go_in_pairs() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 8, path="a")
    gated = s.op("mul", s.slice(x, 1, 0, 4), s.op("sigmoid", s.slice(x, 1, 4, 8)))
    space = space_of(s.graph(s.linear(s.pool(gated), 10)))
    assert where(space.groups[0])["a.weight", 0] == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_a_channel_shuffle_keeps_its_table_rectangular() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 4, 4), 8, path="a")
    split = s.reshape(x, Batch(), 2, 4, 4, 4)
    merged = s.reshape(s.permute(split, 0, 2, 1, 3, 4), Batch(), 8, 4, 4)
    space = space_of(s.graph(s.linear(s.pool(merged), 10, path="head")))
    assert where(space.groups[0])["a.weight", 0] == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert where(space.groups[0])["head.weight", 1] == ((0, 1), (2, 3), (4, 5), (6, 7))
    small = shrink(space, ((1, 2, 3),))
    assert attr(small, split, "shape") == (Batch(), 2, 3, 4, 4)


def test_pixel_shuffle_removes_all_that_make_one_channel() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 4, 4), 8, path="a")
    x = s.op("pixel_shuffle", x, factor=2)
    space = space_of(s.graph(s.linear(s.pool(x), 10)))
    assert where(space.groups[0])["a.weight", 0] == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_a_module_called_twice_ties_both_calls() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 4, 4), 6, path="a")
    x = s.conv(s.conv(x, 6, path="shared"), 6, path="shared")
    space = space_of(s.graph(s.linear(s.pool(x), 10)))
    assert table(space) == {"a": 6}
    assert [m.dim for m in space.groups[0].members if m.tensor == "shared.weight"] == [0, 1]


def test_a_module_without_tensors_called_twice_ties_both_calls() -> None:
    s = Sketch()
    x = s.input(3, 4, 4)
    args = {"num_features": 6, "eps": 1e-5, "affine": False}
    a = s.module("InstanceNorm2d", s.conv(x, 6, path="a"), path="norm", **args)
    b = s.module("InstanceNorm2d", s.conv(x, 6, path="b"), path="norm", **args)
    out = [s.linear(s.pool(each), 10) for each in (a, b)]
    space = space_of(s.graph(*out))
    assert table(space) == {"a": 6}
    assert shrink(space, ((0, 1),)).modules["norm"].args["num_features"] == 2


def test_tensors_that_are_added_or_multiplied_follow() -> None:
    s = Sketch()
    x = s.reshape(s.conv(s.input(3, 2, 3), 4, path="a"), Batch(), 4, 6)
    x = s.op("add", s.permute(x, 0, 2, 1), s.tensor(1, 6, 4, name="positions"))
    x = s.op("mul", x, s.tensor(4, name="scale"))
    space = space_of(s.graph(s.linear(x, 10)))
    found = {(m.tensor, m.dim): m.role for m in space.groups[0].members}
    assert found["positions", 2] == found["scale", 0] == "follows"
    assert ("positions", 1) not in found
    assert shrink(space, ((1, 3),)).stored["positions"].shape == (1, 6, 2)


def test_layer_normalisation_without_tensors_is_rewritten() -> None:
    s = Sketch()
    x = s.permute(s.conv(s.input(3, 4, 4), 6, path="a"), 0, 2, 3, 1)
    x = s.module(
        "LayerNorm",
        x,
        path="n",
        normalized_shape=(6,),
        eps=1e-5,
        elementwise_affine=False,
        bias=False,
    )
    x = s.op("layer_norm", x, shape=(6,), eps=1e-5)
    space = space_of(s.graph(s.linear(x, 10)))
    small = shrink(space, ((0, 1, 5),))
    assert small.modules["n"].args["normalized_shape"] == (3,)
    assert attr(small, x, "shape") == (3,)


def test_an_embedding_loses_columns_never_rows() -> None:
    s = Sketch()
    x = s.module(
        "Embedding",
        s.input(5, dtype="int64"),
        path="e",
        num_embeddings=7,
        embedding_dim=4,
        padding_idx=None,
    )
    tied = s.op("linear", x, s.tensor(name="e.weight"))  # logits from the same tensor
    space = space_of(s.graph(tied))
    assert table(space) == {"e": 4}
    assert where(space.groups[0])["e.weight", 1] == singles(0, 1, 2, 3)
    assert shrink(space, ((2, 3),)).modules["e"].args["embedding_dim"] == 2


# --- attention ----------------------------------------------------------------------------------


def attend(s: Sketch, x: str, *, folded: bool, fused: bool, heads: int = 3) -> str:
    """Self-attention of `heads` heads of size 2 over four tokens."""
    qkv = s.linear(x, 6 * heads, path="qkv")
    split = s.permute(s.reshape(qkv, Batch(), 4, 3, heads, 2), 2, 0, 3, 1, 4)
    q, k, v = (s.op("select", split, dim=0, index=i) for i in range(3))
    if folded:
        q, k, v = (s.reshape(each, Batch(heads), 4, 2) for each in (q, k, v))
    if fused:
        y = s.op("attention", q, k, v, scale=None, causal=False, dropout=0.0)
    else:
        rank = len(s.dims(q))
        turned = s.permute(k, *range(rank - 2), rank - 1, rank - 2)
        y = s.op("matmul", s.op("softmax", s.op("matmul", q, turned), dim=rank - 1), v)
    y = s.permute(s.reshape(y, Batch(), heads, 4, 2), 0, 2, 1, 3)
    return s.linear(s.reshape(y, Batch(), 4, 2 * heads), 5, path="out")


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_heads_are_the_units_of_attention(folded: bool, fused: bool) -> None:
    s = Sketch()
    space = space_of(s.graph(attend(s, s.input(4, 5), folded=folded, fused=fused)))
    assert table(space) == {"qkv": 3}
    rows = where(space.groups[0])["qkv.weight", 0]
    assert rows == tuple((h, h + 1, h + 6, h + 7, h + 12, h + 13) for h in (0, 2, 4))
    assert where(space.groups[0])["out.weight", 1] == ((0, 1), (2, 3), (4, 5))
    small = shrink(space, ((0, 2),))
    assert small.stored["qkv.weight"].shape == (12, 5)


@pytest.mark.parametrize("scale", [None, 0.25])
def test_one_head_of_attention_narrows_queries_and_values_apart(scale: float | None) -> None:
    s = Sketch()
    x = s.input(4, 5)
    q, k, v = s.linear(x, 4, path="q"), s.linear(x, 4, path="k"), s.linear(x, 6, path="v")
    y = s.op("attention", q, k, v, scale=scale, causal=False, dropout=0.0)
    space = space_of(s.graph(s.linear(y, 3)))
    assert table(space) == {"q": 4, "v": 6}
    # what torch derives from the size of a query has to stay that of the full one
    assert attr(shrink(space, ((0,), (0,))), y, "scale") == (0.5 if scale is None else scale)


def test_a_rotary_table_does_not_tie_the_heads() -> None:
    s = Sketch()
    x = s.linear(s.input(4, 5), 12, path="x")
    turned = s.op("mul", s.reshape(x, Batch(), 4, 3, 4), s.tensor(4, 1, 4, name="table"))
    scores = s.op("matmul", s.permute(turned, 0, 2, 1, 3), s.permute(turned, 0, 2, 3, 1))
    values = s.permute(s.reshape(s.linear(scores, 2), Batch(), 3, 8), 0, 2, 1)
    space = space_of(s.graph(s.linear(values, 2)))
    assert table(space) == {"x": 3}
    assert all(member.tensor != "table" for member in space.groups[0].members)


# --- what stays ---------------------------------------------------------------------------------


def test_what_stays_says_why() -> None:
    s = Sketch()
    x = s.input(3, 8, 8)
    largest = s.op("amax", s.conv(x, 4, path="largest"), dims=(1,), keepdim=True)
    rolled = s.op("roll", s.conv(x, 4, path="rolled"), shifts=(1,), dims=(1,))
    normed = s.op("softmax", s.conv(x, 4, path="normed"), dim=1)
    strided = s.slice(s.conv(x, 4, path="strided"), 1, 0, 4, 2)
    onto_input = s.op("add", x, s.conv(x, 3, path="onto_input"))
    alone = s.op("pixel_shuffle", s.conv(x, 4, path="alone"), factor=2)
    bordered = s.op(
        "pad", s.conv(x, 4, path="bordered"), pads=(0, 0, 0, 0, 1, 0), mode="constant", value=1.0
    )
    ends = (largest, rolled, normed, strided, onto_input, alone, bordered)
    graph = s.graph(*(s.conv(end, 2, path=f"end{i}") for i, end in enumerate(ends)))
    assert space_of(graph).groups == ()
    assert "reduces over" in reason_of(graph, "largest")
    assert "shifts" in reason_of(graph, "rolled")
    assert "normalises across" in reason_of(graph, "normed")
    assert "every so many" in reason_of(graph, "strided")
    assert "tied to the network's input" in reason_of(graph, "onto_input")
    assert "one channel" in reason_of(graph, "alone")
    assert "not zero" in reason_of(graph, "bordered")
    assert reason_of(graph, "end0") == "they are the network's output"


def test_a_picked_channel_stays_and_its_index_moves() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 5, path="a")
    picked = s.op("select", x, dim=1, index=3)
    graph = s.graph(s.conv(x, 2, path="end"), picked)
    space = space_of(graph)
    assert [g.channels for g in space.groups] == [3]  # the one behind it is alone
    assert where(space.groups[0])["a.weight", 0] == singles(0, 1, 2)
    assert "picks" in reason_of_part(space, "a", "picks")
    assert attr(shrink(space, ((2,),)), picked, "index") == 1


def reason_of_part(space: SearchSpace, name: str, words: str) -> str:
    return next(e.reason for e in space.excluded if e.name == name and words in e.reason)


def test_examples_of_a_batch_that_are_mixed_keep_everything() -> None:
    s = Sketch()
    x = s.linear(s.input(2, 3), 4, path="a")
    mixed = s.reshape(x, 2, Batch(), 4)
    graph = s.graph(s.linear(mixed, 3))
    assert "mixes the examples" in reason_of(graph, "a")
