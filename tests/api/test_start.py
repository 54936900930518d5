"""The API starts fast and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FIRST_ANSWER = """
import sys, time
from starlette.testclient import TestClient
before = time.process_time()
from api.app import app
with TestClient(app, "http://localhost") as client:
    assert client.get("/healthz").status_code == 200
    print(time.process_time() - before)
assert "torch" not in sys.modules, "the API imports torch"
"""


def test_it_answers_within_two_seconds_and_without_torch(tmp_path: Path) -> None:
    """Seconds of the processor, so that what else runs on the machine does not count."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FIRST_ANSWER],
        cwd=ROOT,
        env={"ESPALIER_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0
