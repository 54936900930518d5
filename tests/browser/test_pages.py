"""What pages in a real browser can do to the service on the same machine: nothing, but its own.

Each attack is made twice: against the service as it is, and with the check taken out that stops
it, where it has to succeed; otherwise the browser stopped it, and the test would show nothing.
"""

from __future__ import annotations

import base64
import io
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from api import origins
from tests.api.fixtures import CLASSES, Running
from tests.api.test_jobs import create
from tests.browser.chromium import Page

UPLOAD = """{
    const bytes = Uint8Array.from(atob('%s'), c => c.charCodeAt(0));
    const form = new FormData();
    form.append('file', new File([bytes], 'theirs.npz'));
    const sent = {method: 'POST', mode: 'no-cors', body: form};
    await fetch('%s/v1/datasets', sent);
}"""
CANCEL = "{ await fetch('%s', {method: 'POST', mode: 'no-cors'}); }"
FORM = """{
    const form = document.createElement('form');
    [form.method, form.action] = ['POST', '%s'];
    document.body.append(form);
    form.submit();
}"""
POSTED = "{ return (await fetch('%s', {method: 'POST'})).status; }"
READ = "{ return await (await fetch('%s')).text(); }"


@pytest.fixture
def job(http: httpx.Client, spec: dict[str, Any]) -> str:
    return str(create(http, spec)["id"])


def state(http: httpx.Client, job: str) -> str:
    return str(http.get(f"/v1/jobs/{job}").json()["state"])


def dataset(value: int) -> bytes:
    file = io.BytesIO()
    images = np.full((20, 8, 8), value, np.uint8)
    np.savez(file, images=images, labels=np.arange(20) % CLASSES)
    return file.getvalue()


ORIGINS = ["evil.example", "127.0.0.1"]
"""Cross-site, and same-site: another port of this machine."""


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_page_cannot_cancel(
    page: Page, attacker: int, running: Running, http: httpx.Client, job: str,
    monkeypatch: pytest.MonkeyPatch, origin: str,
) -> None:  # fmt: skip
    attack = CANCEL % f"{running.url}/v1/jobs/{job}/cancel"
    page.open(f"http://{origin}:{attacker}/")
    page.run(attack)
    assert state(http, job) == "queued"
    monkeypatch.setattr(origins, "check_origin", lambda *_: None)
    page.run(attack)
    assert state(http, job) == "canceled"


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_form_of_another_page_cannot_cancel(
    page: Page, attacker: int, running: Running, http: httpx.Client, job: str,
    monkeypatch: pytest.MonkeyPatch, origin: str,
) -> None:  # fmt: skip
    target = f"{running.url}/v1/jobs/{job}/cancel"
    page.open(f"http://{origin}:{attacker}/")
    page.leave(FORM % target, target)
    assert "request.cross_site" in page.run("{ return document.body.innerText; }")
    assert state(http, job) == "queued"
    monkeypatch.setattr(origins, "check_origin", lambda *_: None)
    page.open(f"http://{origin}:{attacker}/")
    page.leave(FORM % target, target)
    assert state(http, job) == "canceled"


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_page_cannot_upload(
    page: Page, attacker: int, running: Running, http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch, origin: str,
) -> None:  # fmt: skip
    def names() -> list[str]:
        return [row["name"] for row in http.get("/v1/datasets").json()["items"]]

    content = dataset(ORIGINS.index(origin))
    attack = UPLOAD % (base64.b64encode(content).decode(), running.url)
    page.open(f"http://{origin}:{attacker}/")
    before = names()
    page.run(attack)
    assert names() == before
    monkeypatch.setattr(origins, "check_origin", lambda *_: None)
    page.run(attack)
    assert names() == ["theirs.npz", *before]


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_page_reads_nothing(
    page: Page, attacker: int, running: Running, origin: str
) -> None:
    page.open(f"http://{origin}:{attacker}/")
    assert "Failed to fetch" in page.run(READ % f"{running.url}/v1/jobs")


def test_a_name_that_was_bound_to_this_machine_reads_and_changes_nothing(
    page: Page, running: Running, http: httpx.Client, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.open(f"http://rebound.example:{urlsplit(running.url).port}/")
    assert page.run("{ return location.hostname; }") == "rebound.example"
    found = page.run(READ % "/v1/jobs")
    assert "request.host" in found
    assert job not in found
    cancel = POSTED % f"/v1/jobs/{job}/cancel"
    assert page.run(cancel) == 421
    assert state(http, job) == "queued"
    monkeypatch.setattr(origins, "check_host", lambda *_: None)
    assert job in page.run(READ % "/v1/jobs")
    assert page.run(cancel) == 200


@pytest.mark.parametrize("path", ["/docs", "/"])
def test_the_services_own_pages_work(
    page: Page, running: Running, http: httpx.Client, job: str, path: str
) -> None:
    assert page.open(f"{running.url}{path}") == ""
    assert "Espalier" in page.run("{ return document.title; }")
    assert job in page.run(READ % "/v1/jobs")
    cancel = POSTED % f"/v1/jobs/{job}/cancel"
    assert page.run(cancel) == 200
    assert state(http, job) == "canceled"
