"""Rounding: the widths that each channel group may keep, and the groups that it leaves no choice.

What is rounded is the number of channels of the tensors that layers with weights make: that is what
a kernel computes side by side. A group's channel may be many of them: a head, or all four channels
that become one pixel block. Where several groups share a tensor each rounds its own part, so that
the sum is rounded too, unless a part that stays whole is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from search.space import ChannelGroup, Choices, Exclusion, SearchSpace, widths
from search.spec import RoundingSpec
from search.versions import NEWEST, Version


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a group's widths have to be: multiples of `step`, at least `least`, or all of them.

    Attributes:
        coarsest: the tensor that asks for the step, and what a channel of the group is in it.
    """

    step: int
    least: int
    coarsest: tuple[str, int] | None = None

    def widths(self, channels: int) -> tuple[int, ...]:
        return widths(channels, multiple=self.step, minimum=self.least)


def _rules(space: SearchSpace, rounding: RoundingSpec, version: Version) -> Iterator[_Rule]:
    """The rule of each group."""
    multiple = 1 if rounding.multiple == "auto" else rounding.multiple
    minimum = rounding.minimum
    if version == 1:  # counted a group's channels, whatever they were in the tensors
        yield from (_Rule(multiple, minimum) for _ in space.groups)
        return
    owned: list[dict[str, int]] = [{} for _ in space.groups]
    for tensor, size in space.layer_channels.items():
        for group, positions in size.terms:
            owned[group][tensor] = positions
    for tensors in owned:
        if not tensors:  # nothing but products of stored tensors
            yield _Rule(multiple, minimum)
            continue
        steps = {
            tensor: multiple // math.gcd(multiple, positions)
            for tensor, positions in tensors.items()
        }
        coarsest = max(steps, key=steps.__getitem__)
        yield _Rule(
            math.lcm(*steps.values()),
            -(-minimum // min(tensors.values())),
            (coarsest, tensors[coarsest]),
        )


def steps_of(space: SearchSpace, multiple: int) -> tuple[int, ...]:
    """Of each group, the steps in which every tensor it makes stays a multiple of channels."""
    return tuple(rule.step for rule in _rules(space, RoundingSpec(multiple=multiple), NEWEST))


def choices_of(space: SearchSpace, rounding: RoundingSpec, version: Version) -> Choices:
    """The widths that each group of `space` may keep under the rounding asked for.

    A width is allowed if it gives every tensor that the group makes a multiple of
    `rounding.multiple` channels, and at least `rounding.minimum`. The full width always is. With
    `auto` these are all widths that a target could lead to (`search.cost.staircase`).

    Args:
        version: of the specification; the first rounded the groups' own channels.
    """
    rules = _rules(space, rounding, version)
    return tuple(
        rule.widths(group.channels) for group, rule in zip(space.groups, rules, strict=True)
    )


def without_choice(
    space: SearchSpace, choices: Choices, rounding: RoundingSpec, version: Version
) -> tuple[Exclusion, ...]:
    """The groups that may keep nothing but their full width, and why, in words for the user.

    Args:
        choices: that the rounding leads to.
    """
    rules = _rules(space, rounding, version)
    return tuple(
        Exclusion(group.name, group.channels, _reason(space, group, rule, rounding))
        for group, options, rule in zip(space.groups, choices, rules, strict=True)
        if len(options) == 1
    )


def _reason(space: SearchSpace, group: ChannelGroup, rule: _Rule, rounding: RoundingSpec) -> str:
    if rule.least >= group.channels:
        return f"rounding.minimum {rounding.minimum} asks for all of them"
    steps = f"rounding.multiple {rounding.multiple} takes steps of {rule.step} of them"
    if rule.coarsest is not None:
        tensor, positions = rule.coarsest
        (node,) = (node for node in space.graph.nodes if node.name == tensor)
        each = "one channel" if positions == 1 else f"{positions} channels"
        steps += f" (one is {each} of what {node.target or tensor} makes)"
    if rule.step < group.channels:
        return f"{steps}, and rounding.minimum {rounding.minimum} leaves none of these"
    return f"{steps}, which leaves nothing but all"
