"""Widths that run fast on a job's target, where earlier jobs have left the times of its layers."""

from __future__ import annotations

from sqlalchemy.orm import Session

from api.analysis import Analysis
from models.chain_times import known_times
from models.offers import last_offer, target_of
from search.cost import Budget
from search.cost.staircase import Probe
from search.space import Choices
from search.spec import JobSpec


def kept_widths(session: Session, spec: JobSpec, analysis: Analysis) -> Choices | None:
    """The widths that groups may keep; `None` where some time has to be measured first.

    On the device that was the last to offer the target, unless the specification names one.
    """
    asked = target_of(spec.model_dump(include={"target"}))
    offer = None if asked is None else last_offer(session, asked)
    if offer is None:
        return None
    target = offer.target(threads=spec.target.threads, batch=spec.target.batch)
    probe = Probe(analysis.space)
    seconds = known_times(session, target.key, probe.chains)
    if len(seconds) < len(probe.chains) or not probe.chains:
        return None
    budget = Budget.resolve(spec.budget, analysis.cost.full)
    return probe.decide(seconds, analysis.cost, budget, spec.rounding.minimum).choices
