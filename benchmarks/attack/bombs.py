"""Small files that are dear to check: each is answered soon, and others are meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.attack import datasets, networks
from benchmarks.attack.target import Target
from benchmarks.service import running

_REFUSED = range(400, 500)
_TAKEN = range(200, 202)
_ANSWERED = range(200, 500)  # a sound network may be taken, if that is cheap


def _made() -> Iterator[tuple[str, str, Callable[[], bytes], range]]:
    """Path, name, file and the statuses that hold."""
    for name, make in networks.BOMBS.items():
        yield "/v1/networks", name, make, _ANSWERED
    for name, make in datasets.BOMBS.items():
        yield "/v1/datasets", name, make, _TAKEN if name in datasets.WELCOME else _REFUSED


def attack(root: Path) -> dict[str, Any]:
    """Upload each; the answers and what they cost, as JSON values."""
    each = []
    with running(root / "service") as service:
        target = Target(service)
        with target.client() as client:
            for path, name, make, statuses in _made():
                content = make()
                answer = target.attack(name, lambda: client.post(path, content=content))  # noqa: B023
                found = {"path": path, "bytes": len(content), **answer.to_json()}
                each.append(found | {"held": answer.held(statuses)})
                print(json.dumps(each[-1]), flush=True)
            lists = [client.get(path).status_code for path in ("/v1/networks", "/v1/datasets")]
    held = lists == [200, 200] and all(found["held"] for found in each)
    return {"each": each, "lists": lists, "held": held}
