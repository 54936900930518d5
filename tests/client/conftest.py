"""Fixtures of the tests of the client and the command line."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from espalier.cli import app
from tests.api.fixtures import Running, files, http, running, spec, uploads
from tests.client.commands import Run

__all__ = ["files", "http", "run", "running", "spec", "uploads"]


@pytest.fixture
def run(running: Running, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ESPALIER_URL", running.url)
    return lambda *arguments: CliRunner().invoke(app, [str(item) for item in arguments])
