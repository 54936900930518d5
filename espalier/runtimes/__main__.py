"""`python -m espalier.runtimes`: the targets of this machine, as JSON."""

from __future__ import annotations

import json

from espalier.runtimes import RUNTIMES
from espalier.runtimes.here import target_here


def main() -> None:
    """Print a list of targets, of one thread and batch 1 each."""
    found = [
        target_here(runtime.name, device=device.id).to_json()
        for runtime in RUNTIMES.values()
        for device in runtime.devices()
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
