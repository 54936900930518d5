"""The API starts without what takes long to import, torch above all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SLOW = {"torch", "scipy", "matplotlib", "optuna", "cmaes", "onnx", "onnxscript", "onnxruntime"}
"""Packages of ours whose import takes longer than that of everything the API needs."""

_FIRST_ANSWER = """
import json, sys
from starlette.testclient import TestClient
from api.app import app
with TestClient(app, "http://localhost") as client:
    assert client.get("/healthz").status_code == 200
print(json.dumps(sorted(sys.modules)))
"""


def test_it_answers_without_importing_torch_or_other_slow_packages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FIRST_ANSWER],
        cwd=ROOT,
        env={"ESPALIER_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)
    assert not SLOW & {module.partition(".")[0] for module in modules}
    assert len(modules) < 1500, "1,080 when this was written"
