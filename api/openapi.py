"""`python -m api.openapi` writes the interface's document to `api/openapi.json`."""

from __future__ import annotations

import json
from pathlib import Path

from api.app import create_app

FILE = Path(__file__).with_name("openapi.json")


def main() -> None:
    FILE.write_text(json.dumps(create_app().openapi(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
