"""Who may ask: the Host allow-list, and pages of other origins. In a browser: `tests/browser`."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from models.settings import Settings
from tests.api.fixtures import Running, exchange, serving
from tests.api.test_problems import problem

LOOPBACK = ["localhost", "LocalHost:8765", "127.0.0.1", "127.8.9.10:1", "[::1]", "[::1]:8765"]
STRANGE = [
    "evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil.example",
    "testserver", "10.0.0.1", "0.0.0.1", "[::]", "localhost.", "xn--localhost-",
]  # fmt: skip
MALFORMED = ["", "localhost:x", "localhost:80:80", "me@localhost", "[::1", "::1", "local host", "/"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_answered_under_all_its_names(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", STRANGE)
@pytest.mark.parametrize("path", ["/v1/jobs", "/healthz", "/docs", "/openapi.json", "/nowhere"])
def test_another_name_is_refused_whatever_is_asked(
    http: httpx.Client, host: str, path: str
) -> None:
    found = problem(http.get(path, headers={"Host": host}), 421, "request.host")
    assert "ESPALIER_HOSTS" in found["detail"]


@pytest.mark.parametrize("host", MALFORMED)
def test_a_malformed_host_is_refused(http: httpx.Client, host: str) -> None:
    problem(http.get("/v1/jobs", headers={"Host": host}), 400, "request.host")


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\n" * 2])
def test_none_or_two_hosts_are_refused(running: Running, hosts: bytes) -> None:
    answer = exchange(running, b"GET /v1/jobs HTTP/1.1\r\n" + hosts + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"request.host"' in answer


@pytest.fixture(scope="module")
def named(running: Running) -> Iterator[httpx.Client]:
    """The service under names of its operator's."""
    settings = running.service.settings.model_copy(
        update={"hosts": "Espalier.example, api,192.168.7.7"}
    )
    with serving(settings) as other, httpx.Client(base_url=other.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("host", ["espalier.example", "ESPALIER.EXAMPLE:443", "api", "192.168.7.7"])
def test_names_of_the_operators(named: httpx.Client, host: str) -> None:
    assert named.get("/v1/jobs", headers={"Host": host}).status_code == 200
    same = {"Host": host, "Origin": f"https://{host}", "Sec-Fetch-Site": "same-origin"}
    problem(named.post("/v1/jobs/job_x/cancel", headers=same), 404, "not_found")


def test_other_names_stay_refused(named: httpx.Client) -> None:
    problem(named.get("/v1/jobs", headers={"Host": "example"}), 421, "request.host")


CHANGING = [
    ("POST", "/v1/networks"), ("PUT", "/v1/networks"), ("POST", "/v1/datasets"),
    ("PUT", "/v1/datasets"), ("POST", "/v1/jobs"), ("POST", "/v1/jobs/validate"),
    ("DELETE", "/v1/jobs/job_x"), ("POST", "/v1/jobs/job_x/cancel"),
    ("POST", "/v1/jobs/job_x/pause"), ("POST", "/v1/jobs/job_x/resume"), ("PATCH", "/nowhere"),
]  # fmt: skip
CROSS = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost"},  # another port
    {"Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none", "Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8765"},
]


@pytest.mark.parametrize(("method", "path"), CHANGING)
@pytest.mark.parametrize("headers", CROSS)
def test_pages_of_other_origins_change_nothing(
    http: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = http.request(method, path, headers={"Host": "localhost:8765", **headers})
    problem(answer, 403, "request.cross_site")


@pytest.mark.parametrize("path", [path for method, path in CHANGING if "job_x/" in path])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8765"},
        {"Origin": "http://localhost:8765", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_the_services_own_pages_and_programs_pass(
    http: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = http.post(path, headers={"Host": "localhost:8765", **headers})
    problem(answer, 404, "not_found")


def test_every_operation_that_may_change_something_is_among_them(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    changing = {
        (method.upper(), path.replace("{job}", "job_x"))
        for path, methods in paths.items()
        for method in methods
        if method not in ("get", "head")
    }
    assert changing <= set(CHANGING)


def test_answers_can_be_framed_by_nobody(http: httpx.Client) -> None:
    for path in ("/docs", "/", "/v1/jobs", "/nowhere"):
        headers = http.get(path).headers
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"


def test_names_in_the_settings() -> None:
    assert Settings().host_names == frozenset()
    assert Settings(hosts=" A.example ,,b ").host_names == {"a.example", "b"}
