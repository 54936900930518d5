"""Downloads: ranges and digests, and damaged bytes never end well."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import random
import tempfile
from typing import Any

import httpx
import pytest

from models.blobs import BlobStore
from models.errors import BlobUnreachable
from tests.api.fixtures import Running, publish
from tests.api.test_jobs import create
from tests.api.test_problems import problem

CONTENT = random.Random(0).randbytes(2_500_000)
NAME = "r\u00e9sultats 1.bin"


@pytest.fixture
def job(http: httpx.Client, running: Running, spec: dict[str, Any]) -> str:
    found: str = create(http, spec)["id"]
    publish(running.service, found, {NAME: CONTENT, "empty": b""})
    return found


def test_results_are_listed_with_their_digests(http: httpx.Client, job: str) -> None:
    items = {item["name"]: item for item in http.get(f"/v1/jobs/{job}/artifacts").json()["items"]}
    assert items[NAME]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert items[NAME]["size_bytes"] == len(CONTENT)
    assert items["empty"]["size_bytes"] == 0


def test_a_file_comes_whole(http: httpx.Client, job: str) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}")
    assert answer.status_code == 200
    assert answer.content == CONTENT
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(len(CONTENT))
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="r_sultats 1.bin"')
    assert "filename*=UTF-8''r%C3%A9sultats%201.bin" in disposition
    head = http.head(f"/v1/jobs/{job}/artifacts/{NAME}")
    assert head.content == b""
    for name in ("etag", "repr-digest", "content-length", "content-disposition", "content-type"):
        assert head.headers[name] == answer.headers[name]
    assert http.get(f"/v1/jobs/{job}/artifacts/empty").content == b""


@pytest.mark.parametrize(
    ("range_", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-", 1_000_000, len(CONTENT)),
        ("bytes=1048570-1048585", 1_048_570, 1_048_586),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=-99999999", 0, len(CONTENT)),
        ("bytes=5-99999999", 5, len(CONTENT)),
        pytest.param(f"bytes=5-{'9' * 5000}", 5, len(CONTENT), id="a long end"),
        pytest.param(f"bytes=-{'9' * 5000}", 0, len(CONTENT), id="a long suffix"),
        pytest.param(f"bytes={'0' * 5000}1-2", 1, 3, id="many zeros"),
    ],
)
def test_a_range(http: httpx.Client, job: str, range_: str, start: int, stop: int) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}", headers={"Range": range_})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


def test_a_range_of_thousands_of_digits_begins_behind_the_end(http: httpx.Client, job: str) -> None:
    headers = {"Range": f"bytes={'9' * 5000}-"}
    answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}", headers=headers)
    problem(answer, 416, "artifact.range")
    assert len(answer.text) < 1000


@pytest.mark.parametrize("range_", ["bytes=9-5", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "junk"])
def test_ranges_that_are_none_are_ignored(http: httpx.Client, job: str, range_: str) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}", headers={"Range": range_})
    assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))


@pytest.mark.parametrize("range_", [f"bytes={len(CONTENT)}-", "bytes=-0"])
def test_a_range_behind_the_end(http: httpx.Client, job: str, range_: str) -> None:
    answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}", headers={"Range": range_})
    problem(answer, 416, "artifact.range")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


def test_a_range_of_what_has_changed_is_the_whole(http: httpx.Client, job: str) -> None:
    url = f"/v1/jobs/{job}/artifacts/{NAME}"
    tag = http.head(url).headers["etag"]
    for if_range, status in ((tag, 206), ('"other"', 200)):
        answer = http.get(url, headers={"Range": "bytes=10-", "If-Range": if_range})
        assert answer.status_code == status
    assert http.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_a_damaged_blob_breaks_the_connection(
    http: httpx.Client, running: Running, job: str
) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = running.service.blobs.local_path(digest)
    assert path is not None
    damaged = bytearray(CONTENT)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    try:
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(f"/v1/jobs/{job}/artifacts/{NAME}")
        answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}", headers={"Range": "bytes=-10"})
        problem(answer, 500, "blob.corrupt")
        path.unlink()
        problem(http.get(f"/v1/jobs/{job}/artifacts/{NAME}"), 500, "blob.missing")
    finally:
        path.write_bytes(CONTENT)


def test_no_range_of_a_damaged_blob_is_delivered(
    http: httpx.Client, running: Running, spec: dict[str, Any]
) -> None:
    """Not even one whose own bytes are right, where the whole has never been seen to be."""
    found = create(http, spec)["id"]
    content = random.Random(1).randbytes(2_500_000)
    publish(running.service, found, {"damaged": content})
    path = running.service.blobs.local_path(hashlib.sha256(content).hexdigest())
    assert path is not None
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for wanted in ("bytes=0-99", "bytes=1500000-1500010", "bytes=-1"):
        answer = http.get(f"/v1/jobs/{found}/artifacts/damaged", headers={"Range": wanted})
        problem(answer, 500, "blob.corrupt")


def test_a_store_that_does_not_answer_is_asked_again_later(
    http: httpx.Client, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> int:
        raise BlobUnreachable("the blob store does not answer: see to it")

    monkeypatch.setattr(BlobStore, "size_bytes", away)
    answer = http.get(f"/v1/jobs/{job}/artifacts/{NAME}")
    problem(answer, 503, "blob.unreachable")
    assert int(answer.headers["retry-after"]) > 0


def test_what_is_made_on_a_full_disk_is_a_problem_of_its_own(
    http: httpx.Client, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/place")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    told = problem(http.get(f"/v1/jobs/{job}/study"), 507, "disk.full")
    assert told["detail"].startswith("disk: no room left (temporary files)")
    assert "secret" not in told["detail"]


def test_nothing_is_published_before_success(http: httpx.Client, spec: dict[str, Any]) -> None:
    job = create(http, spec)["id"]
    assert http.get(f"/v1/jobs/{job}/artifacts").json() == {"items": []}
    told = problem(http.get(f"/v1/jobs/{job}/artifacts/report.html"), 404, "not_found")
    assert told["detail"].endswith("it is queued: wait until it has succeeded")
    http.post(f"/v1/jobs/{job}/cancel")
    told = problem(http.get(f"/v1/jobs/{job}/artifacts/report.html"), 404, "not_found")
    assert "it is canceled and will have none" in told["detail"]


def test_a_file_that_a_job_does_not_have_is_told_with_those_that_it_has(
    http: httpx.Client, job: str
) -> None:
    told = problem(http.get(f"/v1/jobs/{job}/artifacts/plan.json"), 404, "not_found")
    assert told["detail"].endswith(f"it has empty, {NAME}")
    told = problem(http.get(f"/v1/jobs/{job}/artifacts/curve.json"), 404, "not_found")
    assert "strategy.points" in told["detail"]
