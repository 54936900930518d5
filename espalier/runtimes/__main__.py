"""`python -m espalier.runtimes`: what this machine offers to time networks on, as JSON."""

from __future__ import annotations

import json

from espalier.runtimes import RUNTIMES


def main() -> None:
    """Print a list of `{"runtime", "version", "device"}`, the device with its `id`."""
    offers = [
        {
            "runtime": runtime.name,
            "version": runtime.version(),
            "device": {"id": device.id, **device.to_json()},
        }
        for runtime in RUNTIMES.values()
        for device in runtime.devices()
    ]
    print(json.dumps(offers))


if __name__ == "__main__":
    main()
