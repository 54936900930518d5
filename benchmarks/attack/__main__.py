"""Attack a service of one's own from outside, and count what held.

    python -m benchmarks.attack
    python -m benchmarks.attack --parts bombs requests

Starts services on this machine's loopback address, in folders of their own, and sends them mutated
packages and data, files that are dear to check, requests that are too large, malformed, slow or
of another site; fills the disk under one; and kills every process at every step boundary. Writes
what came of each part to `benchmarks/results/attack/PART.json`. The part `disk` mounts a file
system, so it needs to be root, or: `unshare -Urm python -m benchmarks.attack --parts disk`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.attack import bombs, disk, kills, mutations, requests
from benchmarks.record import save

ROOT = Path("var/attack")


PARTS: Mapping[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "mutations": lambda root, given: mutations.attack(root, given.seed, given.files),
    "bombs": lambda root, _given: bombs.attack(root),
    "requests": lambda root, given: requests.attack(root, given.crowd, given.timeout),
    "disk": lambda root, given: disk.attack(root, given.full),
    "kills": lambda root, given: kills.attack(root, given.kills),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=1000, help="mutated packages")
    parser.add_argument("--crowd", type=int, default=200, help="connections that fall silent")
    parser.add_argument("--timeout", type=float, default=5.0, help="the service's, of requests, s")
    parser.add_argument(
        "--full", type=float, default=45.0, help="longer than a lease, and than five attempts, s"
    )
    parser.add_argument("--kills", type=int, default=10, help="of each process at each boundary")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lost = []
    for name in given.parts:
        shutil.rmtree(ROOT / name, ignore_errors=True)
        (ROOT / name).mkdir(parents=True)
        figures = PARTS[name](ROOT / name, given)
        path = save(f"attack/{name}", "benchmarks.attack", figures)
        print(f"{name}: {'held' if figures['held'] else 'did not hold'}, written to {path}")
        if not figures["held"]:
            lost.append(name)
    if lost:
        raise SystemExit(f"did not hold: {', '.join(lost)}")


if __name__ == "__main__":
    main()
