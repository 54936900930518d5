"""Widths that run fast on a job's target, where earlier jobs have left the times of its layers."""

from __future__ import annotations

from sqlalchemy.orm import Session

from api.analysis import Analysis, widths_of
from api.views import SharesView, ShareView, WidthsView
from espalier.targets import Target
from models.chain_times import known_times
from models.offers import offered_targets
from search.cost import Budget
from search.cost.shares import shares_of
from search.cost.staircase import Decision, Probe
from search.spec import JobSpec, TargetSpec

_MOST_GROUPS = 300
"""Of networks whose widths are told in a request: a second; it grows with the fourth power."""


def kept_widths(session: Session, spec: JobSpec, analysis: Analysis) -> WidthsView | None:
    """The widths that preparing the job would lead to now.

    `None` if it depends on the worker which target it will be, if a layer's time is not known yet,
    or if the network has too many groups to tell in a request.
    """
    budget = Budget.resolve(spec.budget, analysis.cost.full)
    known = _decided(session, spec.target, analysis, budget, spec.rounding.minimum)
    if known is None:
        return None
    target, found = known
    return WidthsView(
        target=target.to_json(),
        groups=widths_of(analysis.space, found.choices),
        finer=found.finer,
        needed=found.needed,
    )


def kept_shares(session: Session, asked: TargetSpec, analysis: Analysis) -> SharesView:
    """Each group's share of the MACs, and of the time where the target's times are known."""
    full = Budget({"macs": max(1, analysis.cost.full["macs"])})
    known = _decided(session, asked, analysis, full)
    stairs = () if known is None else known[1].stairs
    (shares,) = shares_of(analysis.cost, stairs, [analysis.space.full])
    return SharesView(
        target=None if known is None else known[0].to_json(),
        groups=tuple(
            ShareView(name=group.name, channels=group.channels, macs=share.macs, time=share.time)
            for group, share in zip(analysis.space.groups, shares, strict=True)
        ),
    )


def _decided(
    session: Session, asked: TargetSpec, analysis: Analysis, budget: Budget, minimum: int = 1
) -> tuple[Target, Decision] | None:
    """The target that is offered, and what the times lead to that earlier jobs have left on it."""
    targets = offered_targets(session, asked.model_dump())
    if len(targets) != 1 or len(analysis.space.groups) > _MOST_GROUPS:
        return None
    (target,), probe = targets, Probe(analysis.space)
    seconds = known_times(session, target.key, probe.chains)
    if len(seconds) < len(probe.chains) or not probe.chains:
        return None
    return target, probe.decide(seconds, analysis.cost, budget, minimum)
