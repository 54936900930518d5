"""`apply` changes nothing, shares what it can, and yields networks that can be used like any."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from espalier.format.build import graph_of, load
from espalier.format.lift import pack
from espalier.format.operators import infer
from search.pruning import apply, apply_further, clone, everything, narrowed, relative
from search.space import Kept
from tests.networks import ZOO
from tests.pruning.cases import case, output, random_kept

SOME = ["resnet20a", "resnet20b", "vgg", "mobilenet_v2_bn", "shufflenet_v2", "vit_multihead"]


def digest(network: nn.Module) -> str:
    """Of every tensor, every mode and every module argument that `repr` shows."""
    found = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    for path, module in network.named_modules():
        found.update(f"{path} {module.training}".encode())
    for name, parameter in network.named_parameters():
        found.update(f"{name} {parameter.requires_grad} {parameter.grad is None}".encode())
    return str(found.hexdigest())


def assert_equal_state(found: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert list(found.state_dict()) == list(state)
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def half(name: str) -> Kept:
    return random_kept(case(name).space, np.random.default_rng(7))


@pytest.mark.parametrize("name", ZOO)
def test_the_result_is_the_network_of_the_shrunk_graph(name: str) -> None:
    subject = case(name)
    before, kept = digest(subject.network), half(name)
    pruned = apply(subject.network, subject.space, kept)
    shapes = {key: tuple(tensor.shape) for key, tensor in pruned.state_dict().items()}
    graph = graph_of(pruned)
    assert shapes == {key: stored.shape for key, stored in graph.stored.items()}
    plan = tuple(map(len, kept))
    assert shapes == {
        key: tuple(size.at(plan) for size in sizes)
        for key, sizes in subject.space.stored_shapes.items()
    }
    assert infer(graph)[graph.outputs[0]].shape[1:] == tuple(
        output(pruned, subject.example).shape[1:]
    )
    for path, module in graph.modules.items():
        live = pruned.get_submodule(path)
        assert type(live).__name__ == module.kind
        for argument, value in module.args.items():
            if argument not in ("bias", "affine"):
                assert getattr(live, argument) == value, (path, argument)
    assert digest(subject.network) == before


@pytest.mark.parametrize("name", SOME)
def test_whole_tensors_share_memory_and_nothing_else_is_shared(name: str) -> None:
    subject = case(name)
    group = subject.space.groups[0]
    kept = random_kept(subject.space, np.random.default_rng(3), [0])
    pruned = apply(subject.network, subject.space, kept)
    touched = {member.tensor for member in group.members}
    dense = subject.network.state_dict()
    for key, tensor in pruned.state_dict().items():
        same = tensor.untyped_storage().data_ptr() == dense[key].untyped_storage().data_ptr()
        assert same == (key not in touched), key
    modules, parameters = set(subject.network.modules()), set(subject.network.parameters())
    assert not modules.intersection(pruned.modules())
    assert not parameters.intersection(pruned.parameters())


@pytest.mark.parametrize("name", ["resnet20b", "mobilenet_v2_bn", "vgg", "unet"])
def test_no_code_is_written_anew(name: str) -> None:
    """Compiling takes longer than all the rest: the class of the network is taken as it is."""
    subject = case(name)
    kept = tuple(channels[::2] for channels in everything(subject.space))
    pruned = apply(subject.network, subject.space, kept)
    assert type(pruned) is type(subject.network)
    assert output(pruned, subject.example).shape == output(subject.network, subject.example).shape


@pytest.mark.parametrize("name", SOME)
def test_modes_and_gradients_are_carried_over_and_independent(name: str) -> None:
    subject = case(name)
    source = copy.deepcopy(subject.network)
    source.train()
    first = next(module for module in source.modules() if not list(module.children()))
    first.eval()
    frozen = [key for key, _ in source.named_parameters()][::3]
    for key in frozen:
        source.get_parameter(key).requires_grad_(False)
    before = digest(source)
    pruned = apply(source, subject.space, half(name))
    assert [m.training for m in pruned.modules()] == [m.training for m in source.modules()]
    assert [key for key, p in pruned.named_parameters() if not p.requires_grad] == frozen
    pruned.eval()
    pruned.requires_grad_(True)
    pruned(subject.example).square().sum().backward()
    pruned.register_forward_hook(lambda *_: None)
    pruned.get_submodule(_path(source, first)).register_forward_hook(lambda *_: None)
    assert digest(source) == before
    assert not any(module._forward_hooks for module in source.modules())


def _path(network: nn.Module, wanted: nn.Module) -> str:
    return next(str(path) for path, module in network.named_modules() if module is wanted)


@pytest.mark.parametrize("copied", [clone, copy.deepcopy])
@pytest.mark.parametrize("name", SOME)
def test_a_copy_trains_without_touching_the_original(
    name: str, copied: Callable[[fx.GraphModule], fx.GraphModule]
) -> None:
    subject = case(name)
    before = digest(subject.network)
    shared = apply(subject.network, subject.space, half(name))
    pruned = copied(shared)
    assert graph_of(pruned) == graph_of(shared)
    pruned.train()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1e-3)
    assert_equal_state(pruned, shared)
    start = {key: tensor.clone() for key, tensor in pruned.state_dict().items()}
    pruned(subject.example).square().mean().backward()
    optimizer.step()
    output(pruned, subject.example)  # moves the statistics of batch normalisation
    changed = [key for key, t in pruned.state_dict().items() if not torch.equal(t, start[key])]
    assert len(changed) > len(start) // 2
    assert digest(subject.network) == before


@pytest.mark.parametrize("name", ZOO)
def test_cutting_in_two_steps_equals_cutting_once(name: str) -> None:
    subject, generator = case(name), np.random.default_rng(11)
    space = subject.space
    parent = tuple(
        tuple(sorted(generator.choice(g.channels, -(-2 * g.channels // 3), replace=False).tolist()))
        for g in space.groups
    )
    child = tuple(
        tuple(sorted(generator.choice(kept, -(-len(kept) // 2), replace=False).tolist()))
        for kept in parent
    )
    between = apply(subject.network, space, parent)
    twice = apply_further(between, space, parent, child)
    once = apply(subject.network, space, child)
    assert graph_of(twice) == graph_of(once)
    assert repr(twice) == repr(once)
    assert_equal_state(twice, once)
    assert torch.equal(output(twice, subject.example), output(once, subject.example))
    # The narrowed space describes the network in between as a space of its own.
    inner = apply(between, narrowed(space, parent), relative(parent, child))
    assert torch.equal(output(inner, subject.example), output(once, subject.example))


@pytest.mark.parametrize("name", SOME)
def test_a_tuned_parent_keeps_its_tuning(name: str) -> None:
    subject = case(name)
    space, parent = subject.space, half(name)
    tuned = copy.deepcopy(apply(subject.network, space, parent))
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.5)
    child = tuple(kept[: max(1, len(kept) - 1)] for kept in parent)
    found = apply_further(tuned, space, parent, child).state_dict()
    for key, tensor in apply(subject.network, space, child).named_parameters():
        torch.testing.assert_close(found[key], 1.5 * tensor.detach())


@pytest.mark.parametrize("name", ZOO)
def test_a_pruned_network_is_packed_and_loaded(name: str, tmp_path: Path) -> None:
    subject = case(name, torch.float32)
    pruned = apply(subject.network, subject.space, half(name))
    loaded = load(pack(pruned, subject.example, tmp_path / "pruned.espalier"))
    assert torch.equal(output(loaded, subject.example), output(pruned, subject.example))
    assert graph_of(loaded) == graph_of(pruned)


@pytest.mark.parametrize("name", SOME)
def test_nothing_cut_is_the_same_network(name: str) -> None:
    subject = case(name)
    whole = apply(subject.network, subject.space, everything(subject.space))
    assert graph_of(whole) == subject.space.graph
    assert torch.equal(output(whole, subject.example), output(subject.network, subject.example))


def test_what_cannot_be_kept_is_refused_by_name() -> None:
    subject = case("resnet20b")
    space, full = subject.space, everything(subject.space)
    name = space.groups[0].name
    for wrong in ((), (1, 0), (0, 0), (-1, 0), (space.groups[0].channels,)):
        with pytest.raises(ValueError, match=f"group {name} keeps .* is needed"):
            apply(subject.network, space, (wrong, *full[1:]))
    with pytest.raises(ValueError, match=r"has \d+ entries for \d+ channel groups"):
        apply(subject.network, space, full[1:])
    with pytest.raises(ValueError, match=r"channels \[2\] are not in the parent"):
        apply_further(subject.network, space, ((0, 1), *full[1:]), ((1, 2), *full[1:]))


def test_further_cuts_are_numbered_within_the_parent() -> None:
    assert relative(((1, 4, 6, 9), (0, 1)), ((4, 9), (0, 1))) == ((1, 3), (0, 1))
