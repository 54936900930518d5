"""Targets: what networks can be run and timed on."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from api.dependencies import Services
from api.views import TargetList, TargetView
from models.offers import list_targets

router = APIRouter(prefix="/v1/targets", tags=["targets"])


@router.get("", operation_id="listTargets")
def list_all(service: Services) -> TargetList:
    """Every runtime on every device that a worker ever offered, those offered now first."""
    with service.database.transaction(write=False) as session:
        return TargetList(
            items=[
                TargetView(
                    id=row.id,
                    runtime=row.runtime,
                    version=row.version,
                    device=row.device,
                    offered=offered,
                    seen_at=datetime.fromtimestamp(row.seen_at, UTC),
                )
                for row, offered in list_targets(session)
            ]
        )
