"""Widths that run fast on a target, told before a job is started where the times are known."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import delete, update

from espalier.targets import Device
from models.base import clock_s
from models.offers import Offer, offer
from models.target import Target
from tests.api.fixtures import DEVICE, MACS, Files, Running, leave_times
from tests.cost.test_staircase import blocked

NARROWEST = 64 * (9 + 9) + 3  # of TinyNet: one channel in each group
FOURS = {"first": [4, 8], "second": [4, 8, 12, 16]}
"""What is fast where kernels pad to four channels."""


def validated(http: httpx.Client, spec: dict[str, Any], macs: int, batch: int) -> dict[str, Any]:
    asked = {**spec, "rounding": {"multiple": "auto"}, "budget": {"macs": macs}}
    answer = http.post("/v1/jobs/validate", json={**asked, "target": {"batch": batch}})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def widths(found: dict[str, Any]) -> dict[str, list[int]]:
    return {group["name"]: group["widths"] for group in found["widths"]["groups"]}


def test_widths_are_told_once_all_times_are_known(
    http: httpx.Client, running: Running, files: Files, spec: dict[str, Any]
) -> None:
    """The least that a limit may be is the same before and after: that of one channel a group."""
    follows = validated(http, spec, MACS // 2, 2)
    assert follows["widths"] is None
    leave_times(running.service, files.package, lambda chain: blocked(chain, 4), batch=2)
    found = validated(http, spec, MACS // 2, 2)
    assert widths(found) == FOURS
    assert (found["widths"]["finer"], found["widths"]["needed"]) == ([], [])
    assert found["widths"]["target"]["batch"] == 2
    assert found["widths"]["target"]["device"]["name"] == DEVICE.name
    assert follows["budget"] == found["budget"]
    assert found["budget"]["macs"]["smallest"] == NARROWEST
    assert validated(http, spec, MACS // 2, 5)["widths"] is None, "of another target"


def test_a_budget_that_only_other_widths_reach_is_met(
    http: httpx.Client, running: Running, files: Files, spec: dict[str, Any]
) -> None:
    leave_times(running.service, files.package, lambda chain: blocked(chain, 4), batch=2)
    fours = 64 * (9 * 4 + 9 * 4 * 4) + 4 * 3
    found = validated(http, spec, fours - 1, 2)
    assert len(found["widths"]["needed"]) == 1
    (name,) = found["widths"]["needed"]
    finer = {"first": list(range(1, 9)), "second": list(range(1, 17))}
    assert widths(found) == {**FOURS, name: finer[name]}
    found = validated(http, spec, NARROWEST, 2)
    assert widths(found) == finer
    below = {**spec, "rounding": {"multiple": "auto"}, "budget": {"macs": NARROWEST - 1}}
    refused = http.post("/v1/jobs/validate", json={**below, "target": {"batch": 2}})
    assert refused.json()["code"] == "budget.unreachable"


def test_which_worker_it_will_be_has_to_be_known(
    http: httpx.Client, running: Running, files: Files, spec: dict[str, Any]
) -> None:
    """Of two kinds of device either may take the job, and only of one there are times."""
    leave_times(running.service, files.package, lambda chain: blocked(chain, 4), batch=2)
    twin, other = (Device("there", "cpu", "another", mark) for mark in (DEVICE.fingerprint, "g"))
    offers = [Offer("onnxruntime", "1.31.1", device) for device in (twin, other)]
    with running.service.database.transaction() as session:
        offer(session, offers)
        session.flush()
        session.execute(update(Target).values(seen_at=clock_s() + 86_400.0))
    try:
        assert validated(http, spec, MACS // 2, 2)["widths"] is None
        with running.service.database.transaction() as session:
            session.execute(delete(Target).where(Target.id == offers[1].id))
        assert widths(validated(http, spec, MACS // 2, 2)) == FOURS, "two that are equally fast"
    finally:
        with running.service.database.transaction() as session:
            session.execute(delete(Target).where(Target.id.in_([each.id for each in offers])))


def test_shares_of_the_time_are_told_once_the_times_are_known(
    http: httpx.Client, running: Running, files: Files, uploads: dict[str, str]
) -> None:
    """Where every MAC takes as long they are those of the MACs."""
    path = f"/v1/networks/{uploads['network']}/shares"
    assert http.get("/v1/networks/net_nothing/shares").status_code == 404
    first, second, head = 64 * 9 * 8, 64 * 9 * 8 * 16, 16 * 3
    macs = [(first + second) / MACS, (second + head) / MACS]
    found = http.get(path, params={"batch": 7}).json()
    assert found["target"] is None
    assert [share["macs"] for share in found["groups"]] == macs
    assert [share["time"] for share in found["groups"]] == [None, None]
    leave_times(running.service, files.package, lambda chain: float(chain.macs), batch=7)
    found = http.get(path, params={"batch": 7}).json()
    assert found["target"]["batch"] == 7
    assert [share["time"] for share in found["groups"]] == pytest.approx(macs)
