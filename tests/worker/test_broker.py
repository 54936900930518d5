"""What strangers put into Redis: dropped and logged, and the worker does the next job."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import redis

from models.bell import QUEUE, TASK
from models.job import State
from tests.worker.service import Service, wait_until


def _message(**changes: Any) -> dict[str, Any]:
    """As Celery sends it."""
    body = base64.b64encode(json.dumps([[1], {}, {}]).encode()).decode()
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": TASK, "id": "x"},
        "properties": {
            "delivery_tag": "x",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "delivery_mode": 2,
            "body_encoding": "base64",
            "correlation_id": "x",
            "reply_to": "",
        },
    } | changes


VALUES: list[Any] = [
    None,
    7,
    "text",
    [],
    {},
    {"properties": {}},
    {"properties": None},
    _message(body=None),
    _message(body="no base64!"),
    _message(body=base64.b64encode(b"no JSON").decode()),
    _message(body=base64.b64encode(b'[["1"], {}, {}]').decode()),
    _message(headers=None),
    _message(headers=[]),
    _message(headers={}),
    _message(headers={"task": TASK}),
    _message(headers={"task": {"un": "hashable"}, "id": "x"}),
    _message(headers={"task": "another", "id": "x"}),
    _message(headers={"task": TASK, "id": "x", "eta": "soon", "timelimit": 3}),
    _message(properties={"delivery_tag": {}, "delivery_info": {}}),
    _message(properties={"delivery_tag": "x", "delivery_info": 3}),
]
GARBAGE = [
    b"",
    b"garbage",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"__type__": "uuid", "__value__": {"hex": "no"}}',
    *(json.dumps(value).encode() for value in VALUES),
]


@pytest.mark.parametrize("ringing", ["sqlite"], indirect=True)
def test_garbage_in_the_queue_does_not_end_the_worker(ringing: Service) -> None:
    path = ringing.settings.redis_url.removeprefix("redis+socket://")
    with redis.Redis(unix_socket_path=path) as client:
        client.lpush(QUEUE, *GARBAGE)
        worker = ringing.worker()
        wait_until(lambda: client.llen(QUEUE) == 0)
        for channel in (b"/0.celery.pidbox", b"/0.celeryev/worker.heartbeat"):
            for message in (b"garbage", b"7", b"{}", b'{"properties": 3}'):
                client.publish(channel, message)
        job_id = ringing.submit(trials=1)
        wait_until(ringing.finished(job_id))
        wait_until(lambda: client.llen(QUEUE) == 0)
    assert ringing.job(job_id).state == State.SUCCEEDED
    assert worker.poll() is None
    log = Path(ringing.folder / "processes.log").read_text()
    assert log.count("message.dropped") >= len(GARBAGE) - 1  # all but the one that only looks odd
    assert "Unrecoverable" not in log
    assert "Connection to broker lost" not in log
