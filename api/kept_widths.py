"""Widths that run fast on a job's target, where earlier jobs have left the times of its layers."""

from __future__ import annotations

from sqlalchemy.orm import Session

from api.analysis import Analysis, widths_of
from api.views import WidthsView
from models.chain_times import known_times
from models.offers import offered_targets
from search.cost import Budget
from search.cost.staircase import Probe
from search.spec import JobSpec

_MOST_GROUPS = 300
"""Of networks whose widths are told in a request: a second; it grows with the fourth power."""


def kept_widths(session: Session, spec: JobSpec, analysis: Analysis) -> WidthsView | None:
    """The widths that preparing the job would lead to now.

    `None` if it depends on the worker which target it will be, if a layer's time is not known yet,
    or if the network has too many groups to tell in a request.
    """
    targets = offered_targets(session, spec.target.model_dump())
    if len(targets) != 1 or len(analysis.space.groups) > _MOST_GROUPS:
        return None
    (target,), probe = targets, Probe(analysis.space)
    seconds = known_times(session, target.key, probe.chains)
    if len(seconds) < len(probe.chains) or not probe.chains:
        return None
    budget = Budget.resolve(spec.budget, analysis.cost.full)
    found = probe.decide(seconds, analysis.cost, budget, spec.rounding.minimum)
    return WidthsView(
        target=target.to_json(),
        groups=widths_of(analysis.space, found.choices),
        finer=found.finer,
        needed=found.needed,
    )
