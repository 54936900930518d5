"""What groups lose at each width, where an earlier job has measured it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.job import Job
from models.trial import Trial
from search.spec import JobSpec

_JOBS = 20  # of the same network, dataset and strategy, the newest first


def known_curves(session: Session, job: Job) -> list[dict[str, Any]]:
    """Loss curves of earlier jobs, the newest first: `search.records.LossCurves` as JSON values.

    They follow from network, data, `JobSpec.levels` and the allowed widths, never from the budget:
    so `search.engine.prepare`, which decides these widths, takes them over from an earlier job that
    agrees in all of those. Of jobs with the same allowed widths the newest is given.
    """
    if job.strategy != "allocate":
        return []
    levels = JobSpec.stored(job.spec).levels
    earlier = (
        select(Job)
        .where(
            Job.network_id == job.network_id,
            Job.dataset_id == job.dataset_id,
            Job.strategy == job.strategy,
            Job.prepared.is_not(None),
            Job.id != job.id,
        )
        .order_by(Job.created_at.desc(), Job.id.desc())
        .limit(_JOBS)
    )
    found: dict[str, dict[str, Any]] = {}
    for other in session.scalars(earlier):
        spec = JobSpec.stored(other.spec)
        if other.prepared and spec.levels == levels:
            curves = {
                "choices": other.prepared.get("choices"),
                "rounding": spec.rounding.model_dump(mode="json"),
            }
            widths = json.dumps(curves if curves["choices"] is None else curves["choices"])
            if widths in found:
                continue
            losses = other.prepared.get("levels") or _measured(session, other)
            if losses is not None:
                found[widths] = {**curves, "losses": losses}
    return list(found.values())


def _measured(session: Session, job: Job) -> list[list[float]] | None:
    """Losses that the job's own trials found, if all of them did."""
    query = select(Trial.levels_of, Trial.losses).where(
        Trial.job_id == job.id, Trial.levels_of.is_not(None), Trial.finished_at.is_not(None)
    )
    found = {group: losses for group, losses in session.execute(query) if losses}
    groups = len((job.prepared or {})["groups"])
    return [found[group] for group in range(groups)] if len(found) == groups else None
