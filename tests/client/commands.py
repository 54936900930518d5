"""Calling the command line, and what all its answers and refusals have."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

from tests.api.fixtures import Files

Run = Callable[..., Result]
SET = ["--set", "evaluation.holdout=50", "--set", "evaluation.calibration=20"]


def refused(result: Result, code: int, *words: str) -> None:
    """One line that says what is wrong, the exit code, and no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output


def submitted(run: Run, files: Files, *more: str) -> str:
    result = run(
        "submit", files.package, "--data", files.dataset, "--budget", "macs=50%", *SET, *more
    )
    assert result.exit_code == 0, result.output
    # The service logs in this process that it has no broker.
    (job,) = [line for line in result.stdout.splitlines() if "broker" not in line]
    assert job.startswith("job_"), "standard output is the id alone, for scripts"
    return job
