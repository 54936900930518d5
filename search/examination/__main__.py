"""Print what is found in a file, or why it is refused, as one JSON object.

python -m search.examination {network|dataset} FILE

The limits are those of the service, also as it takes them from the environment.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from search.examination.bounds import CPU_S, KINDS, MEMORY_BYTES, Bounds
from search.examination.process import Examination, Refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    cpu_s = float(os.environ.get("ESPALIER_EXAMINATION_CPU_S", CPU_S))
    memory_bytes = int(os.environ.get("ESPALIER_EXAMINATION_MEMORY_BYTES", MEMORY_BYTES))
    bounds = Bounds.of(given.kind, given.file.stat().st_size, cpu_s, memory_bytes)
    try:
        found = Examination(given.kind, given.file, bounds).verdict()
        verdict = {"name": found.name, "description": found.description}
    except Refused as error:
        verdict = {"code": error.code, "message": str(error)}
    print(json.dumps(verdict))


if __name__ == "__main__":
    main()
