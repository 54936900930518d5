"""The client: what it sends arrives once, what it waits for ends, what it downloads is whole."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from espalier import connection
from espalier.client import ApiError, Client, DownloadCorrupt, NotReady, Unreachable
from tests.api.fixtures import Files, Running, fail, note, publish

CONTENT = random.Random(1).randbytes(3_000_000)
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts; everything else that sleeps here is a server or a thread of its own."""

    class Clock:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(_: float) -> None:
            time.sleep(0.01)

    monkeypatch.setattr(connection, "time", Clock)


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url) as found:
        yield found


class Flaky(httpx.BaseTransport):
    """The real service behind a line that fails as told: `before` or `after` it has answered."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        self.sent: list[httpx.Request] = []
        self._real = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            raise httpx.ConnectError("refused")
        answer = self._real.handle_request(request)
        if fault == "after":
            answer.read()
            answer.close()
            raise httpx.ReadError("connection reset")
        if fault.isdecimal():
            answer.read()
            answer.close()
            return httpx.Response(int(fault), text="<html>proxy error</html>", request=request)
        return answer

    def close(self) -> None:
        self._real.close()


# --- uploads and submissions ----------------------------------------------------------------------


def test_a_job_from_file_to_submission(client: Client, files: Files) -> None:
    progress: list[tuple[int, int]] = []
    network = client.upload_network(files.package, progress=lambda *state: progress.append(state))
    size = files.package.stat().st_size
    assert progress[-1] == (size, size)
    assert network["name"] == "tiny"
    assert client.network(network["id"]) == network
    dataset = client.upload_dataset(files.dataset, name="numbers")
    assert client.dataset(dataset["id"])["name"] == "numbers"
    wanted = {
        "network": network["id"],
        "dataset": dataset["id"],
        "budget": {"macs": "50%"},
        "evaluation": {"calibration": 20, "holdout": 50},
    }
    assert client.validate(wanted)["groups"] == 2
    job = client.submit(wanted)
    assert client.job(job["id"]) == job
    assert job["id"] in [view["id"] for view in client.jobs(network=network["id"])]


def test_a_submit_over_a_bad_line_makes_one_job(
    running: Running, client: Client, spec: dict[str, Any]
) -> None:
    line = Flaky(["before", "after", "502", "after"])
    with Client(running.url, transport=line) as flaky:
        job = flaky.submit({**spec, "name": "bad line"})
    assert len(line.sent) == 5
    assert len({request.headers["idempotency-key"] for request in line.sent}) == 1
    assert [view["id"] for view in client.jobs(name="bad line")] == [job["id"]]


def test_an_upload_over_a_bad_line_makes_one_network(running: Running, files: Files) -> None:
    line = Flaky(["after", "503", "before"])
    with Client(running.url, transport=line) as flaky:
        network = flaky.upload_network(files.package, name="once")
        same = [view["id"] for view in flaky.networks() if view["sha256"] == network["sha256"]]
    assert same == [network["id"]]


def test_what_the_service_refuses_is_not_tried_again(
    running: Running, spec: dict[str, Any]
) -> None:
    line = Flaky([])
    with (
        Client(running.url, transport=line) as flaky,
        pytest.raises(ApiError, match="cannot be met") as refused,
    ):
        flaky.submit({**spec, "budget": {"macs": 10}})
    assert (refused.value.code, refused.value.status) == ("budget.unreachable", 422)
    assert refused.value.problem["smallest"]["macs"] > 10
    assert refused.value.errors[0]["field"] == "budget.macs"
    assert len(line.sent) == 1


def test_a_service_that_is_not_there_is_named() -> None:
    with (
        Client("http://127.0.0.1:9", attempts=2) as nowhere,
        pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9.*espalier serve"),
    ):
        nowhere.job("job_x")


def test_an_answer_that_is_not_ours_is_told_as_it_is() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(404, text="<html>nginx</html>"))
    with Client("http://elsewhere", transport=transport) as other, pytest.raises(ApiError) as error:
        other.job("job_x")
    assert error.value.code == "http.404"
    assert "http://elsewhere/v1/jobs/job_x" in str(error.value)


def test_names_from_users_stay_one_segment_of_the_path(client: Client) -> None:
    with pytest.raises(ApiError) as error:
        client.job("../networks?x")
    assert error.value.status == 404


# --- waiting --------------------------------------------------------------------------------------


def test_watching_shows_every_stage_it_sees_and_ends(
    running: Running, client: Client, spec: dict[str, Any]
) -> None:
    job = client.submit(spec)["id"]

    def work() -> None:
        time.sleep(0.3)
        note(running.service, job)
        time.sleep(0.3)
        publish(running.service, job, {})

    thread = threading.Thread(target=work)
    thread.start()
    views = list(client.watch(job, timeout=30))
    thread.join()
    versions = [view["version"] for view in views]
    assert versions == sorted(set(versions)), "each change once"
    assert [view["terminal"] for view in views] == [False] * (len(views) - 1) + [True]
    assert views[-1]["state"] == "succeeded"


@pytest.mark.parametrize("state", ["failed", "canceled"])
def test_nobody_waits_for_ever_on_a_job_that_will_not_succeed(
    running: Running, client: Client, spec: dict[str, Any], state: str
) -> None:
    job = client.submit(spec)["id"]

    def end() -> None:
        time.sleep(0.3)
        if state == "failed":
            fail(running.service, job, "work.attempts", "it never worked")
        else:
            httpx.post(f"{running.url}/v1/jobs/{job}/cancel")

    thread = threading.Thread(target=end)
    thread.start()
    view = client.wait(job, timeout=60)
    thread.join()
    assert view["state"] == state
    assert client.wait(job, timeout=60)["state"] == state, "also when it has ended before"
    with pytest.raises(NotReady, match="it will have none"):
        client.download(job)


def test_waiting_ends_with_its_time(client: Client, spec: dict[str, Any]) -> None:
    job = client.submit(spec)["id"]
    with pytest.raises(TimeoutError, match="still queued"):
        client.wait(job, timeout=0.4)


def test_watching_survives_a_bad_line(
    running: Running, client: Client, spec: dict[str, Any]
) -> None:
    job = client.submit(spec)["id"]
    client.pause(job)
    assert client.resume(job)["state"] == "queued"
    client.cancel(job)
    with Client(running.url, transport=Flaky(["before", "500", "after"])) as flaky:
        assert flaky.wait(job)["state"] == "canceled"


def test_events_come_whole(running: Running, client: Client, spec: dict[str, Any]) -> None:
    job = client.submit(spec)["id"]
    for step in range(3):
        note(running.service, job, step=step)
    assert [event["number"] for event in client.events(job)] == [1, 2, 3, 4]
    assert [event["data"]["step"] for event in client.events(job, after=2)] == [1, 2]
    assert list(client.trials(job)) == []


# --- downloads ------------------------------------------------------------------------------------


@pytest.fixture
def job(running: Running, client: Client, spec: dict[str, Any]) -> str:
    found: str = client.submit(spec)["id"]
    publish(running.service, found, {"network.bin": CONTENT, "r\u00e9sum\u00e9 1.txt": b"two"})
    return found


def test_a_download_is_whole(client: Client, job: str, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    paths = client.download(job, tmp_path / "a" / "b", progress=lambda *at: done.append(at))
    assert {path.name: path.read_bytes() for path in paths} == {
        "network.bin": CONTENT,
        "r\u00e9sum\u00e9 1.txt": b"two",
    }
    assert done[-1] == (len(CONTENT) + 3, len(CONTENT) + 3)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(
        path.name for path in paths
    )


def test_a_download_goes_on_where_it_stopped(running: Running, job: str, tmp_path: Path) -> None:
    (tmp_path / "network.bin.part").write_bytes(CONTENT[:2_000_000])
    line = Flaky([])
    with Client(running.url, transport=line) as client:
        client.download(job, tmp_path)
        ranges = [request.headers.get("range") for request in line.sent]
        assert "bytes=2000000-" in ranges
        assert (tmp_path / "network.bin").read_bytes() == CONTENT
        line.sent.clear()
        client.download(job, tmp_path)
        assert len(line.sent) == 1, "what is there is not fetched again"


def test_a_download_that_breaks_continues(running: Running, job: str, tmp_path: Path) -> None:
    class Breaking(httpx.SyncByteStream):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __iter__(self) -> Iterator[bytes]:
            sent = 0
            for piece in self.inner:
                sent += len(piece)
                yield piece
                if sent > 1_000_000:
                    raise httpx.ReadError("connection reset")

        def close(self) -> None:
            self.inner.close()

    class Line(Flaky):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.url.path.endswith("network.bin"):
                answer.stream = Breaking(answer.stream)
            return answer

    line = Line([])
    with Client(running.url, transport=line) as client:
        client.download(job, tmp_path)
    assert (tmp_path / "network.bin").read_bytes() == CONTENT
    starts = [request.headers.get("range", "") for request in line.sent]
    assert sum(start.startswith("bytes=") for start in starts) >= 2


@pytest.mark.parametrize("left", [b"x" * 2_000_000, b"x" * len(CONTENT), b"x" * 4_000_000])
def test_a_wrong_part_is_thrown_away(client: Client, job: str, tmp_path: Path, left: bytes) -> None:
    """Of another file, exactly as long, or longer."""
    (tmp_path / "network.bin.part").write_bytes(left)
    (tmp_path / "network.bin").write_bytes(b"an older result")
    client.download(job, tmp_path)
    assert (tmp_path / "network.bin").read_bytes() == CONTENT
    assert not (tmp_path / "network.bin.part").exists()


def test_damage_after_the_last_byte_is_no_success(
    running: Running, client: Client, job: str, tmp_path: Path
) -> None:
    """The stored file is flipped in its last byte: all bytes come, and it is still no result."""
    path = running.service.blobs.local_path(hashlib.sha256(CONTENT).hexdigest())
    assert path is not None
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    try:
        with pytest.raises(DownloadCorrupt, match=r"network\.bin.* damaged"):
            client.download(job, tmp_path)
    finally:
        path.write_bytes(CONTENT)
    assert not (tmp_path / "network.bin").exists()


@pytest.mark.parametrize("name", ["../escape", "/escape", "..", "a/b"])
def test_a_hostile_service_cannot_choose_the_folder(tmp_path: Path, name: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        item = {"name": name, "sha256": "0" * 64, "size_bytes": 1, "media_type": "x/x"}
        return httpx.Response(200, json={"items": [item]})

    with (
        Client("http://hostile", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(DownloadCorrupt, match="refused"),
    ):
        client.download("job_x", tmp_path / "results")
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]
