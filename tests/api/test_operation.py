"""What those who run the service look at."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from api.routes import health
from tests.api.fixtures import Running
from tests.api.test_jobs import create


def test_alive_without_anything_else(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}


def test_not_ready_without_a_broker_and_the_log_says_why(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = http.get("/readyz")
    assert answer.status_code == 503
    checks = {"database": "ok", "broker": "failed", "blobs": "ok"}
    assert answer.json() == {"ready": False, "checks": checks}
    assert "redis.sock" in caplog.text


@pytest.mark.parametrize("name", sorted(health.CHECKS))
def test_readiness_tells_everybody_no_addresses_paths_or_passwords(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def down(_: object) -> None:
        raise OSError("connecting postgresql://me:sesame@10.1.2.3:5432 from /var/lib/espalier")

    monkeypatch.setattr(health, "CHECKS", {**health.CHECKS, name: down})
    answer = http.get("/readyz")
    assert answer.json()["checks"][name] == "failed"
    for secret in ("sesame", "10.1.2.3", "/var/lib"):
        assert secret not in answer.text


def test_ready_when_everything_answers(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECKS", {**health.CHECKS, "broker": lambda _: None})
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_a_readiness_check_leaves_nothing_behind(http: httpx.Client, running: Running) -> None:
    http.get("/readyz")
    assert not list((running.service.settings.home / "blobs" / "tmp").iterdir())


def test_metrics_count_jobs_and_work(http: httpx.Client, spec: dict[str, Any]) -> None:
    def read() -> dict[str, float]:
        answer = http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
        for line in lines:
            assert re.fullmatch(r'espalier_\w+(\{\w+="\w+"(,\w+="\w+")*\})? \S+', line), line
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    before = read()
    job = create(http, spec)["id"]
    after = read()
    queued, waiting = 'espalier_jobs{state="queued"}', 'espalier_work{kind="prepare",state="ready"}'
    assert after[queued] == before[queued] + 1
    assert after[waiting] == before.get(waiting, 0) + 1
    assert after["espalier_outbox"] == before["espalier_outbox"] + 1
    assert after["espalier_stored_bytes"] > 10_000
    http.post(f"/v1/jobs/{job}/cancel")
    assert read()[queued] == before[queued]


def test_the_front_page_says_what_this_is(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="/docs"' in page.text
    assert http.get("/docs").is_success
