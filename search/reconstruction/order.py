"""In which order a network and its cut are walked, and on how many examples at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from espalier.format.build import graph_of
from espalier.format.operators import infer
from search.evaluation.program import program_of
from search.reconstruction.layers import layers
from search.reconstruction.walk import Walk


def held_together(original: fx.GraphModule, held_bytes: int) -> list[int]:
    """By step, on how many examples a network and its cut are run together from there on."""
    needed = live_bytes(original, ordered(original))
    return [max(1, held_bytes // max(1, 2 * need)) for need in needed]


def ordered(network: fx.GraphModule) -> list[str]:
    """The steps by name, so that what is added to a layer's output comes before the layer."""
    reads = Walk(network).reads
    beside = {
        layer.node: [layer.residual.other]
        for layer in layers(graph_of(network))
        if layer.residual is not None
    }
    order: dict[str, None] = {}
    begun: set[str] = set()  # what is waiting for what it needs

    def missing(name: str) -> list[str]:
        """A step and all that it needs, directly or not, and that has no place yet."""
        found = {name: None} if name not in order else {}
        for each in (pending := list(found)):
            new = [read for read in reads[each] if read not in order and read not in found]
            found.update(dict.fromkeys(new))
            pending += new
        return list(found)

    for name in reads:
        stack = [name]
        while stack:
            step = stack[-1]
            begun.add(step)
            wanted = [read for read in reads[step] if read not in order]
            if not wanted and step not in order:
                others = [missing(other) for other in beside.get(step, ())]
                wanted = [need[0] for need in others if need and begun.isdisjoint(need)]
            if wanted:
                stack.append(wanted[0])
            else:
                begun.remove(stack.pop())
                order[step] = None
    return list(order)


def live_bytes(network: fx.GraphModule, order: Sequence[str]) -> list[int]:
    """By step in that order, the most that is held at it or later, of one example in float32."""
    program, types = program_of(network), infer(graph_of(network))
    place = {step.name: at for at, step in enumerate(program.steps)}
    unread = [len(readers) for readers in program.readers]
    sizes = [
        0 if step.kind == "get_attr" or step.name not in types else types[step.name].per_example()
        for step in program.steps
    ]
    held, found = 0, []
    for at in (place[name] for name in order):
        held += sizes[at]
        found.append(4 * held)
        for source in program.steps[at].reads:
            unread[source] -= 1
        held -= sum(sizes[gone] for gone in (at, *program.steps[at].reads) if not unread[gone])
    return [max(found[at:]) for at in range(len(found))]
