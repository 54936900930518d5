"""Print what is found in a file, or why it is refused, as one JSON object.

python -m search.examination {network|dataset} FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from search.examination.bounds import KINDS, Bounds
from search.examination.process import Examination, Refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    bounds = Bounds.of(given.kind, given.file.stat().st_size)
    try:
        found = Examination(given.kind, given.file, bounds).verdict()
        verdict = {"name": found.name, "description": found.description}
    except Refused as error:
        verdict = {"code": error.code, "message": str(error)}
    print(json.dumps(verdict))


if __name__ == "__main__":
    main()
