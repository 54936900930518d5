"""Whatever stands in headers, cursors and queries is answered below 500, errors as problems."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.api.fixtures import Running, publish
from tests.api.test_jobs import create

PLACES = [
    ("GET", "/v1/jobs/{job}/artifacts/file", "Range"),
    ("GET", "/v1/jobs/{job}/artifacts/file", "If-Range"),
    ("GET", "/v1/jobs/{job}/artifacts/file", "If-None-Match"),
    ("GET", "/v1/jobs/{job}/events", "Last-Event-ID"),
    ("GET", "/v1/jobs/{job}/events", "Accept"),
    ("GET", "/v1/jobs/{job}?wait=0.1", "If-None-Match"),
    ("POST", "/v1/jobs", "Idempotency-Key"),
    ("POST", "/v1/jobs", "Content-Type"),
    ("POST", "/v1/networks", "Content-Type"),
    ("POST", "/v1/networks", "Repr-Digest"),
    ("POST", "/v1/datasets", "Content-Disposition"),
    ("POST", "/v1/jobs/{job}/cancel", "Origin"),
    ("GET", "/v1/jobs", "Host"),
]
PARAMETERS = [
    "/v1/jobs?cursor={}", "/v1/jobs?limit={}", "/v1/jobs?state={}", "/v1/networks?name={}",
    "/v1/networks?cursor={}", "/v1/datasets?cursor={}", "/v1/jobs/{job}/trials?cursor={}",
    "/v1/jobs/{job}/events?after={}", "/v1/jobs/{job}?wait={}", "/v1/jobs/{job}/trials/{}/network",
    "/v1/jobs/{job}/artifacts/{}", "/v1/jobs/{}", "/{}",
]  # fmt: skip

NUMBERS = st.sampled_from(
    ["9" * 5000, "-" + "9" * 5000, "1e999", "nan", "inf", "-0", "0x1", "1_0", "²"]
)
NESTED = st.builds(
    lambda opening, count: opening * count,
    st.sampled_from(["(", "[", '"', "<", "{", "a=(", ";a=", ",", "W/", "*", "bytes=", "-"]),
    st.integers(1, 8000),
)
PIECES = st.sampled_from(
    ["bytes=", "0-", "-", ",", ";", "=", '"', "W/", "*", "sha-256=:", ":", "multipart/form-data",
     "boundary=", "application/json", "charset=utf-16", "text/event-stream", "localhost", "http://",
     "filename*=", "''", "%", "\\", " ", "\t", "é", "1"]
)  # fmt: skip
RANGES = st.builds(
    "bytes={}-{}".format,
    st.one_of(st.just(""), NUMBERS, st.integers(0, 2000)),
    st.one_of(st.just(""), NUMBERS, st.integers(0, 2000)),
)
VALUES = st.one_of(
    RANGES,
    st.text(st.characters(max_codepoint=255, exclude_characters="\0\r\n"), max_size=30),
    NUMBERS,
    NESTED,
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(st.one_of(PIECES, NUMBERS), max_size=4).map("".join),
)
PROPERTY = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def job(running: Running, uploads: dict[str, str]) -> str:
    spec = {**uploads, "budget": {"macs": "50%"}, "strategy": {"name": "uniform"}}
    spec |= {"evaluation": {"calibration": 20, "holdout": 50}}
    with httpx.Client(base_url=running.url, timeout=30) as http:
        made = str(create(http, spec)["id"])
    publish(running.service, made, {"file": b"x" * 1000})
    return made


def is_fine(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    kind = answer.headers.get("content-type", "")
    plain = answer.text == "Invalid HTTP request received."  # by the parser of HTTP, not by us
    if answer.status_code >= 400 and not plain:
        assert kind == "application/problem+json"


@PROPERTY
@given(place=st.sampled_from(PLACES), value=VALUES)
@example(place=PLACES[0], value=f"bytes={'9' * 5000}-")
@example(place=PLACES[0], value=f"bytes=-{'9' * 5000}")
def test_headers(http: httpx.Client, job: str, place: tuple[str, str, str], value: str) -> None:
    method, path, header = place
    encoded = value.strip(" \t").encode("latin-1", "ignore")
    try:
        answer = http.request(
            method,
            path.format(job=job),
            content=b'{"a": [1]}' if path == "/v1/jobs" else None,
            headers={header.encode(): encoded},
        )
    except httpx.LocalProtocolError:  # the client does not send such a header
        return
    is_fine(answer)


@PROPERTY
@given(path=st.sampled_from(PARAMETERS), value=VALUES)
def test_parameters(http: httpx.Client, job: str, path: str, value: str) -> None:
    where = path.replace("{job}", job).replace("{}", "@")
    filled = where.replace("@", httpx.QueryParams({"x": value[:6000]})["x"])
    try:
        answer = http.get(filled)
    except (httpx.InvalidURL, httpx.LocalProtocolError):
        return
    is_fine(answer)
