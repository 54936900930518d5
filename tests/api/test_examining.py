"""A file that takes too much to look at is refused, and meanwhile the service answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

import migrations
from benchmarks.attack.networks import outer_product, package
from espalier.format.ir import Graph
from models.settings import Settings
from tests.api.fixtures import Running, serving
from tests.api.test_problems import problem
from tests.costly import long_chain, many_reads, wide_layer


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that examines one file at a time, with little time and memory."""
    home = tmp_path_factory.mktemp("strict")
    settings = Settings(
        home=home, examination_cpu_s=0.4, examination_memory_bytes=2**28, examinations=1
    )
    migrations.upgrade(settings.database)
    with serving(settings) as started:
        yield started


def examinations() -> list[psutil.Process]:
    """Those that this process has started and that still run."""
    children = psutil.Process().children()
    return [each for each in children if "search.examination.child" in each.cmdline()]


def test_a_file_that_burns_time_is_refused_and_the_service_answers(
    strict: Running, tmp_path: Path
) -> None:
    content = package(long_chain(19_000), tmp_path / "long").read_bytes()
    answers = 0
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(httpx.post, f"{strict.url}/v1/networks", content=content, timeout=120)
        while not sent.done():
            assert httpx.get(f"{strict.url}/healthz", timeout=60).status_code == 200
            answers += 1
    found = problem(sent.result(), 422, "network.too_costly")
    assert "processor time" in found["detail"]
    assert "ESPALIER_EXAMINATION_CPU_S" in found["detail"]
    assert answers > 2
    assert httpx.get(f"{strict.url}/v1/networks").json()["items"] == []
    assert not examinations()


def test_a_file_that_takes_memory_is_refused(strict: Running, tmp_path: Path) -> None:
    content = package(wide_layer(2**20), tmp_path / "wide").read_bytes()
    answer = httpx.post(f"{strict.url}/v1/networks", content=content, timeout=120)
    assert "256 MiB of memory" in problem(answer, 422, "network.too_costly")["detail"]


@pytest.mark.parametrize(
    ("make", "code"),
    [(lambda: outer_product(3, 90), "cost.too_large"), (many_reads, "graph.limit")],
    ids=["terms", "reads"],
)
def test_a_network_that_is_dear_to_analyse_is_refused(
    running: Running, tmp_path: Path, make: Callable[[], Graph], code: str
) -> None:
    content = package(make(), tmp_path / "dear").read_bytes()
    answer = httpx.post(f"{running.url}/v1/networks", content=content, timeout=120)
    assert "limit" in problem(answer, 422, code)["detail"]


def test_an_examination_ends_with_its_client(running: Running, tmp_path: Path) -> None:
    """A client that goes away frees its turn, and its file is not kept."""
    content = package(long_chain(1000), tmp_path / "long").read_bytes()
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/networks HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + content)
        while not examinations():
            time.sleep(0.01)
        child = examinations()[0]
        child.suspend()  # as one that never ends
    child.wait(timeout=60)
    names = {item["name"] for item in httpx.get(f"{running.url}/v1/networks").json()["items"]}
    assert "made by hand" not in names
