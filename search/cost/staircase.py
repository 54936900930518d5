"""The staircase of a network's groups on a target: what is timed, and the widths that follow.

    what to time      `Probe.chains`: of each group a few widths (`widths.probes`), in the
                      chains of layers around it (`chains`), at two widths of its neighbours
    the times         `chain_times.completed`: measured, or those that earlier jobs have left
    the widths        `Probe.decide`: a function of the times alone

Times are kept by target and chain. So a second job measures nothing and decides alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.cost.budget import Budget
from search.cost.chains import Chain, Network, Site
from search.cost.model import CostModel
from search.cost.rounding import choices_of, steps_of
from search.cost.widths import MULTIPLES, Times, preferred, probes
from search.space import Choices, Plan, SearchSpace, smallest
from search.spec import RoundingSpec
from search.versions import NEWEST

Seconds = Mapping[str, float]
"""Of one pass over the batch, by chain."""

_SITES = 3  # of a group, those that compute most
_MACS = 2 * 10**10
"""Multiply-accumulates of one pass over all chains, about ten seconds of a core. Groups that would
take more than that together, those that compute least, go by the others."""
_CHAINS = 400

UNTIMED = 8
"""Multiple of channels that kernels like on most processors and accelerators."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One width of a group: the chains around it, and how often the network has each.

    Attributes:
        chains: at each of the neighbours' widths.
    """

    width: int
    chains: tuple[tuple[tuple[Chain, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Stair:
    """Seconds of the layers around a group at each width that was measured.

    Attributes:
        widths: ascending.
        seconds: of each width, with its neighbours at full width and at half.
    """

    group: str
    widths: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The widths that groups may keep on a target.

    Attributes:
        choices: of each group, ascending; the full width always.
        stairs: of the groups that were measured.
        finer: groups that may keep widths that are no faster than wider ones, since they would
            have been left none.
        needed: groups that may keep such widths since only they are within the budget.
    """

    choices: Choices
    stairs: tuple[Stair, ...]
    finer: tuple[str, ...]
    needed: tuple[str, ...]


class Probe:
    """What to time of a network, and what follows from the times.

    Attributes:
        rungs: of each group; none for groups that no layer which can be timed makes or reads, and
            for those that would take too long.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._network = Network(space)
        each = (steps_of(space, multiple) for multiple in MULTIPLES)
        self._steps = tuple(zip(*each, strict=True))
        self.rungs = self._affordable([self._rungs(g) for g in range(len(space.groups))])

    @cached_property
    def chains(self) -> dict[str, Chain]:
        """All that is to be timed, by its name, those of one group together."""
        return {
            str(chain): chain
            for rungs in self.rungs
            for rung in rungs
            for level in rung.chains
            for chain, _ in level
        }

    def _rungs(self, group: int) -> tuple[Rung, ...]:
        sites = self._sites(group)
        if not sites:
            return ()
        full = self._space.full
        half = tuple(_half(channels) for channels in full)

        def at(width: int, others: Plan) -> tuple[tuple[Chain, int], ...]:
            plan = (*others[:group], width, *others[group + 1 :])
            found: Counter[Chain] = Counter()
            for site, count in sites:
                found[self._network.chain(site, plan)] += count
            return tuple(found.items())

        widths = probes(full[group], self._steps[group])
        return tuple(Rung(width, (at(width, full), at(width, half))) for width in widths)

    def _sites(self, group: int) -> list[tuple[Site, int]]:
        """Those of a group that compute most, and how many are alike."""
        full = self._space.full
        narrow = (*full[:group], max(1, full[group] // 2), *full[group + 1 :])
        alike: dict[tuple[Chain, Chain], list[Site]] = {}
        for site in self._network.sites:
            if site.touches(group):
                key = (self._network.chain(site, full), self._network.chain(site, narrow))
                alike.setdefault(key, []).append(site)
        ranked = sorted(alike.items(), key=lambda item: -item[0][0].macs * len(item[1]))
        return [(sites[0], len(sites)) for _, sites in ranked[:_SITES]]

    def _affordable(self, rungs: Sequence[tuple[Rung, ...]]) -> tuple[tuple[Rung, ...], ...]:
        """Those groups whose chains, with those of the groups before, can be timed in time."""

        def macs(group: int) -> int:
            return sum(chain.macs * n for r in rungs[group][-1:] for chain, n in r.chains[0])

        taken: set[Chain] = set()
        found: list[tuple[Rung, ...]] = [()] * len(rungs)
        spent = 0
        for group in sorted(range(len(rungs)), key=lambda group: (-macs(group), group)):
            new = {
                chain for rung in rungs[group] for level in rung.chains for chain, _ in level
            } - taken
            cost = sum(chain.macs for chain in new)
            if spent + cost <= _MACS and len(taken) + len(new) <= _CHAINS:
                found[group], spent = rungs[group], spent + cost
                taken |= new
        return tuple(found)

    def decide(
        self, seconds: Seconds | None, cost: CostModel, budget: Budget, minimum: int = 1
    ) -> Decision:
        """The widths that each group may keep: a function of the times alone.

        A group that would be left nothing but its full width is asked for less: wider widths have
        to be faster, not only as fast; and if that leaves nothing either, for nothing. So is one
        group after the other while no plan is within the budget, the one first that saves most.

        Args:
            seconds: of all `chains`; `None` where none can be timed: then widths are multiples of
                `UNTIMED`.
            minimum: see `RoundingSpec`.
        """
        rounding = RoundingSpec(multiple=1, minimum=minimum)
        times = [
            {}
            if seconds is None
            else {
                rung.width: tuple(
                    sum(seconds[str(chain)] * count for chain, count in level)
                    for level in rung.chains
                )
                for rung in rungs
            }
            for rungs in self.rungs
        ]
        tiers = self._tiers(times, rounding, UNTIMED if seconds is None else None)
        at = [next((i for i, each in enumerate(t) if len(each) > 1), len(t) - 1) for t in tiers]
        finer = [group for group, tier in enumerate(at) if tier and len(tiers[group][tier]) > 1]
        needed = _reach(tiers, at, cost, budget)
        return Decision(
            tuple(tier[i] for tier, i in zip(tiers, at, strict=True)),
            tuple(
                Stair(group.name, tuple(each), tuple(each.values()))
                for group, each in zip(self._space.groups, times, strict=True)
                if each
            ),
            tuple(self._space.groups[group].name for group in finer),
            tuple(self._space.groups[group].name for group in needed),
        )

    def _tiers(
        self, times: Sequence[Times], rounding: RoundingSpec, multiple: int | None
    ) -> list[tuple[tuple[int, ...], ...]]:
        """Of each group the widths to keep, the fewest first and all of them last.

        Args:
            multiple: for groups without times; that of most of the others if `None`.
        """
        every = choices_of(self._space, rounding, NEWEST)
        found: list[tuple[tuple[int, ...], ...]] = []
        for channels, steps, each in zip(self._space.full, self._steps, times, strict=True):
            if each:
                strict = (preferred(channels, steps, each, strict=True),)
                found.append((preferred(channels, steps, each), *strict))
            else:
                found.append(())
        if multiple is None:
            multiple = self._usual_multiple([widths[0] if widths else () for widths in found])
        rounded = choices_of(self._space, RoundingSpec(multiple=multiple), NEWEST)
        return [
            tuple(
                tuple(width for width in each if width in allowed)
                for each in (*(widths or (plain,)), allowed)
            )
            for widths, plain, allowed in zip(found, rounded, every, strict=True)
        ]

    def _usual_multiple(self, kept: Sequence[tuple[int, ...]]) -> int:
        """The multiple that is fast for most of the groups that were measured."""
        fast = []
        for channels, steps, widths in zip(self._space.full, self._steps, kept, strict=True):
            upper = [width for width in widths if channels / 2 <= width < channels]
            if upper:
                goes = [m for m, step in zip(MULTIPLES, steps, strict=True)
                        if all(width % step == 0 for width in upper)]  # fmt: skip
                fast.append(goes[-1])
        return sorted(fast)[len(fast) // 2] if fast else 1


def _reach(
    tiers: Sequence[Sequence[Sequence[int]]], at: list[int], cost: CostModel, budget: Budget
) -> list[int]:
    """Let groups keep finer widths, in `at`, until a plan is within the budget or all may.

    Returns:
        The groups, ascending.
    """
    changed: set[int] = set()
    while True:
        now = smallest([tier[i] for tier, i in zip(tiers, at, strict=True)])
        least = cost.of(now)
        if budget.admits(least):
            return sorted(changed)
        plans: dict[int, Plan] = {}
        for group, tier in enumerate(tiers):
            narrower = next((i for i in range(at[group], len(tier)) if tier[i][0] < now[group]), 0)
            if narrower:
                plans[group] = (*now[:group], tier[narrower][0], *now[group + 1 :])
        if not plans:
            return sorted(changed)
        costs = cost.many(list(plans.values()), tuple(budget.limits))
        over = sum(
            np.maximum(costs[name] - limit, 0) / limit for name, limit in budget.limits.items()
        )
        group = list(plans)[int(np.argmin(over))]
        at[group] = next(
            i for i in range(at[group], len(tiers[group])) if tiers[group][i][0] < now[group]
        )
        changed.add(group)


def _half(channels: int) -> int:
    """About half, rounded down as kernels like it."""
    half = max(1, channels // 2)
    return half - half % min(MULTIPLES[-1], 1 << (half.bit_length() - 1))
