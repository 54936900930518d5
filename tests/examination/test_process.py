"""Strangers' files are examined in a process that cannot take more than its limits."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.attack.networks import package
from search.examination.bounds import Bounds, Kind
from search.examination.process import Examination, Refused, TooCostly
from tests.costly import long_chain, wide_layer

AMPLE = Bounds(cpu_s=60, memory_bytes=2**31, wall_s=200)


def examine(path: Path, kind: Kind = "network", bounds: Bounds = AMPLE) -> None:
    Examination(kind, path, bounds).verdict()


def test_what_takes_too_much_time_is_refused(tmp_path: Path) -> None:
    path = package(long_chain(19_000), tmp_path / "long.espalier")
    examine(path)
    with pytest.raises(TooCostly, match=r"more than 0\.4 s of processor time") as caught:
        examine(path, bounds=replace(AMPLE, cpu_s=0.4))
    assert caught.value.code == "network.too_costly"
    with pytest.raises(TooCostly, match="took longer than the limit"):
        examine(path, bounds=replace(AMPLE, wall_s=0.1))


def test_what_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = package(wide_layer(2**20), tmp_path / "wide.espalier")
    with pytest.raises(TooCostly, match="more than 256 MiB of memory") as caught:
        examine(path, bounds=replace(AMPLE, memory_bytes=2**28))
    assert caught.value.code == "network.too_costly"


def test_an_examination_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    running = Examination("network", package(long_chain(1000), tmp_path / "long"), AMPLE)
    running.stop()
    with pytest.raises(TooCostly, match="SIGKILL"):
        running.verdict()
    assert running._process.poll() is not None


_FOREVER = """
import sys
from pathlib import Path
from search.examination.bounds import Bounds
from search.examination.process import Examination

running = Examination("network", Path(sys.argv[1]), Bounds(60, 2**31, 200))
print(running._process.pid, flush=True)
running.verdict()
"""


def test_an_examination_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")  # to open it takes for ever
    command = [sys.executable, "-c", _FOREVER, str(tmp_path / "endless")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    end = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):
        while child.status() != psutil.STATUS_ZOMBIE:  # whoever inherits it may not reap it
            assert time.monotonic() < end, "the examination outlives who started it"
            time.sleep(0.01)


def test_errors_keep_their_codes_and_words(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.espalier"
    wrong.write_bytes(b"no zip" * 100)
    with pytest.raises(Refused, match="zip") as caught:
        examine(wrong)
    assert caught.value.code == "format.invalid"
    one_class = tmp_path / "one.npz"
    np.savez(one_class, images=np.zeros((8, 2, 2), np.uint8), labels=np.zeros(8, np.int64))
    with pytest.raises(Refused, match="all training examples have one label"):
        examine(one_class, "dataset")


def test_secrets_are_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATABASE_URL", "postgresql://espalier:secret@db/espalier")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    running = Examination("network", package(long_chain(1000), tmp_path / "chain"), AMPLE)
    environment, end = b"", time.monotonic() + 30
    while not environment and time.monotonic() < end:  # a program that is being loaded has none
        environment = Path(f"/proc/{running._process.pid}/environ").read_bytes()
    running.verdict()
    assert b"secret" not in environment
    assert b"LD_LIBRARY_PATH=/opt/python/lib\0" in environment  # an interpreter may need it


def test_the_command_prints_what_it_finds(tmp_path: Path) -> None:
    path = package(long_chain(3), tmp_path / "chain.espalier")

    def printed(kind: str) -> dict[str, object]:
        command = [sys.executable, "-m", "search.examination", kind, str(path)]
        found: dict[str, object] = json.loads(subprocess.check_output(command))
        return found

    assert printed("network")["name"] == "made by hand"
    assert printed("dataset").keys() == {"code", "message"}


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, search.description, search.evaluation.data; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code]).strip() == b"False"
