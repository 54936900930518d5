"""Mutated files: bytes flipped, cut, doubled and replaced in files that were sound.

Each is taken or refused; none is an error of the service, ends its process, or breaks a list.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.attack import datasets
from benchmarks.attack.packages import hostile, members_of, mutated
from benchmarks.attack.processes import processes
from benchmarks.attack.target import HEALTHZ_S, Target
from benchmarks.demo import prepare_digits
from benchmarks.service import running


def _sent(target: Target, path: str, files: Iterable[bytes]) -> dict[str, Any]:
    """Upload them one after another; how often each status was the answer."""
    statuses: Counter[int] = Counter()
    with target.client() as client:

        def send() -> httpx.Response:
            for content in files:
                statuses[client.post(path, content=content).status_code] += 1
            return client.get(path)  # the list has to show whatever was taken

        answer = target.attack(path, send)
    held = answer.status == 200 and answer.healthz_s < HEALTHZ_S and max(statuses) < 500
    counts = {str(status): count for status, count in sorted(statuses.items())}
    return {"files": statuses.total(), "statuses": counts, **answer.to_json(), "held": held}


def attack(root: Path, seed: int, count: int) -> dict[str, Any]:
    """Upload `count` mutated packages and an eighth as many files of each kind of data."""
    source = random.Random(seed)  # noqa: S311  (a seed, no secret)
    package, _, _ = prepare_digits(root)
    members = members_of(package.read_bytes())
    found: dict[str, Any] = {}
    with running(root / "service") as service:
        target = Target(service)
        before = [process.pid for process in processes(service, "api")]
        packages = (hostile(members, source, turn) for turn in range(count))
        found["packages"] = _sent(target, "/v1/networks", packages)
        for kind, data in datasets.sound(source).items():
            files = (mutated(data, source) for _ in range(count // 8))
            found[kind] = _sent(target, "/v1/datasets", files)
        same = [process.pid for process in processes(service, "api")] == before
    held = same and all(part["held"] for part in found.values())
    return {"kinds": found, "api_survived": same, "held": held}
