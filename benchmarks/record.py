"""What stands beside every figure: the command, the commit and the kind of machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    root = Path(__file__).parent
    run = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, cwd=root)
    code = [":/", ":(top,exclude)benchmarks/results"]  # results appear while a benchmark runs
    state = subprocess.run(
        [git, "status", "--porcelain", "--", *code], capture_output=True, text=True, cwd=root
    )
    return run.stdout.strip() + (" with changes" if state.stdout.strip() else "")


@cache
def environment() -> dict[str, Any]:
    """Kind of machine and versions when it was first asked, as JSON values."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": _commit(),
    }


def described(module: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, with how to get them again.

    Args:
        module: the benchmark's module, for the command that repeats it.
    """
    return (
        {"command": shlex.join(["python", "-m", module, *sys.argv[1:]])} | environment() | figures
    )


def save(name: str, module: str, figures: dict[str, Any]) -> Path:
    """Write `results/NAME.json`, see `described`."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described(module, figures), indent=2) + "\n")
    return path
