"""Events: numbered without gaps, and none lost over a reconnection."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api.routes import events
from tests.api.fixtures import Running, note, publish
from tests.api.test_jobs import create
from tests.api.test_problems import problem

Spec = dict[str, Any]


def frames(text: str) -> list[dict[str, str]]:
    """The events of a stream, by the rules of the standard (field, colon, one space)."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":")
        )
        if "data" in fields:
            found.append(fields)
    return found


def test_the_stream_ends_after_the_terminal_event(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = create(http, spec)["id"]

    def work() -> None:
        for step in range(3):
            time.sleep(0.1)
            note(running.service, job, step=step, text="line\nbreak: caf\u00e9")
        publish(running.service, job, {})

    thread = threading.Thread(target=work)
    thread.start()
    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    thread.join()
    found = frames(text)
    assert [int(frame["id"]) for frame in found] == list(range(1, len(found) + 1))
    assert found[-1]["event"] == "state"
    assert json.loads(found[-1]["data"])["data"]["to"] == "succeeded"
    notes = [json.loads(frame["data"])["data"] for frame in found if frame["event"] == "progress"]
    assert [item["step"] for item in notes] == [0, 1, 2]
    assert notes[0]["text"] == "line\nbreak: caf\u00e9"


def test_a_reader_that_reconnects_misses_nothing_and_sees_nothing_twice(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = create(http, spec)["id"]
    stop = threading.Event()

    def work() -> None:
        for step in range(30):
            note(running.service, job, step=step)
            time.sleep(0.02)
        publish(running.service, job, {})
        stop.set()

    thread = threading.Thread(target=work)
    thread.start()
    seen: list[int] = []
    connections = 0
    while True:
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        with http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            connections += 1
            if answer.status_code == 204:
                break
            taken = 0
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    seen.append(int(line[4:]))
                    taken += 1
                if taken == 5:
                    break  # hang up in the middle of it
    thread.join()
    assert connections > 5
    total = http.get(f"/v1/jobs/{job}").json()["version"]
    assert seen == list(range(1, total + 1))


def test_a_silent_stream_beats(
    http: httpx.Client, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)
    job = create(http, spec)["id"]
    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        beats = 0
        for line in answer.iter_lines():
            beats += line.startswith(":")
            if beats == 2:
                break
    http.post(f"/v1/jobs/{job}/cancel")


def test_a_slow_reader_gets_everything_and_holds_up_nobody(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    """More than socket buffers hold, to a reader that does not read at first."""
    job = create(http, spec)["id"]
    for _ in range(60):
        note(running.service, job, text="x" * 100_000)
    publish(running.service, job, {})
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        connection.settimeout(20)
        request = (
            f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(request.encode())
        time.sleep(1)
        note_job = create(http, spec)["id"]  # a write goes through meanwhile
        assert http.post(f"/v1/jobs/{note_job}/cancel").is_success
        received = bytearray()
        while piece := connection.recv(1 << 20):
            received += piece
    assert received.count(b"event: progress") == 60
    assert received.count(b"event: state") == 4


def test_events_as_a_list(http: httpx.Client, running: Running, spec: Spec) -> None:
    job = create(http, spec)["id"]
    note(running.service, job, step=1)
    by_query = http.get(f"/v1/jobs/{job}/events", params={"after": 1})
    assert [event["number"] for event in by_query.json()["items"]] == [2]
    by_header = http.get(f"/v1/jobs/{job}/events", headers={"Accept": "application/json"})
    assert [event["number"] for event in by_header.json()["items"]] == [1, 2]
    assert by_header.json()["items"][1]["data"] == {"step": 1}


def test_last_event_id_must_be_a_number(http: httpx.Client, spec: Spec) -> None:
    job = create(http, spec)["id"]
    for wrong in ("x", "-1", "1e3", "9" * 30):
        answer = http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": wrong})
        problem(answer, 400, "events.last_event_id")
