"""`espalier serve`: one command starts everything, keeps it running, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from espalier.cli import processes

COMMAND = [sys.executable, "-m", "espalier", "serve", "--port", "0", "--data"]


def until(condition: Callable[[], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_it_survives_its_parts_and_they_do_not_survive_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([*COMMAND, str(home)], stdout=out, stderr=out)
    parts: list[psutil.Process] = []
    try:
        assert until((home / "url").exists, 60), (tmp_path / "out").read_text()
        url = (home / "url").read_text().strip()
        assert ready(url)
        assert url in (tmp_path / "out").read_text()

        second = subprocess.run([*COMMAND, str(home)], capture_output=True, text=True)
        assert second.returncode == 1
        assert "another `espalier serve`" in second.stderr

        children = psutil.Process(process.pid).children()
        assert len(children) == 4
        for child in children:
            if "celery" not in child.cmdline():
                child.kill()  # the API, Redis and the reaper at once
        assert until(lambda: ready(url), 30), "the listening socket outlived the API"
        parts = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(parts, timeout=30)
        assert not alive
    finally:
        process.kill()
        process.wait()
        for part in parts:
            if part.is_running():
                part.kill()


@pytest.mark.parametrize("how", ["--data", "ESPALIER_HOME"])
def test_a_port_that_is_taken_is_told(tmp_path: Path, how: str) -> None:
    home = str(tmp_path / "home")
    given, env = ([how, home], {}) if how == "--data" else ([], {how: home})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND[:-1], *given, "--port", port],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (tmp_path / "home" / "serve.lock").exists()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ESPALIER_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/x", "ESPALIER_DATABASE_URL"),
        ("ESPALIER_BLOBS", "ftp://somewhere", "file:///FOLDER"),
        ("ESPALIER_LEASE_S", "1", "raise ESPALIER_LEASE_S"),
    ],
)
def test_settings_that_cannot_work_are_told_in_a_line(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    done = subprocess.run(
        [*COMMAND, str(tmp_path)],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(tmp_path / ("x" * 100))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "choose a shorter --data or ESPALIER_HOME" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_log_that_grows_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 1000)
    code = "import time\nfor i in range(300):\n print(f'line {i:04}', flush=True); time.sleep(.003)"
    child = processes.Child("talker", [sys.executable, "-c", code], env=os.environ, folder=tmp_path)
    child.start()
    assert until(lambda: child.watch() is None and child.stopped(), 20)
    old = tmp_path / "talker.log.1"
    assert old.read_text().startswith("line 0"), "what came before is there"
    assert child.log.stat().st_size < 3000
    assert child.log.read_text().endswith("line 0299\n"), "the process wrote on"
    child.kill()
