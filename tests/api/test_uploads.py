"""Uploads: whole or not at all, checked, and never more than allowed."""

from __future__ import annotations

import base64
import hashlib
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch

from espalier.format.build import load
from espalier.format.lift import pack
from tests.api.fixtures import CLASSES, MACS, MAX_UPLOAD_BYTES, PARAMS, Files, Running
from tests.api.test_problems import problem


def stored(running: Running) -> set[Path]:
    """Every file in the blob store, finished or not."""
    folder = running.service.settings.home / "blobs"
    return {path for path in folder.rglob("*") if path.is_file()}


def another(files: Files, path: Path, name: str) -> bytes:
    """A package of other bytes than any before; its own name is `name`."""
    return pack(load(files.package), torch.zeros(1, 1, 8, 8), path, name=name).read_bytes()


def test_a_network_is_described(http: httpx.Client, files: Files, tmp_path: Path) -> None:
    content = another(files, tmp_path / "other", "described")
    answer = http.post("/v1/networks", content=content, params={"name": "mine"})
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"/v1/networks/{view['id']}"
    assert view["name"] == "mine"
    assert view["sha256"] == hashlib.sha256(content).hexdigest()
    assert view["size_bytes"] == len(content)
    about = view["description"]
    assert about["cost"]["macs"] == MACS
    assert about["cost"]["params"] == PARAMS
    # One channel left in each group, counted by hand.
    assert about["smallest_cost"]["macs"] == 64 * (9 + 9) + 3
    assert about["groups"] == [
        {"name": "first", "channels": 8, "macs": 64 * (9 * 8 + 9 * 8 * 16)},
        {"name": "second", "channels": 16, "macs": 64 * 9 * 8 * 16 + 16 * CLASSES},
    ]
    (kept,) = about["excluded"]
    assert (kept["name"], kept["channels"]) == ("classifier", 3)
    assert kept["reason"]
    assert about["inputs"] == [{"name": "x", "shape": [1, 8, 8], "dtype": "float32"}]
    assert about["operators"]["Conv2d"] == 2
    assert http.get(answer.headers["location"]).json() == view
    assert view in http.get("/v1/networks", params={"name": "mine"}).json()["items"]


def test_a_dataset_is_described(http: httpx.Client, files: Files) -> None:
    view = http.post("/v1/datasets", content=files.dataset.read_bytes()).json()
    assert view["description"]["train_examples"] == 200
    assert view["description"]["example_shape"] == [8, 8]
    assert http.get(f"/v1/datasets/{view['id']}").json() == view


def test_a_package_has_its_own_name_unless_another_is_asked_for(
    http: httpx.Client, files: Files, tmp_path: Path
) -> None:
    for asked, shown in (({}, "own"), ({"name": "asked"}, "asked")):
        content = another(files, tmp_path / "other", f"own {len(asked)}")
        form = {"file": ("the-files.espalier", content)}
        answer = http.post("/v1/networks", files=form, params=asked)
        assert answer.status_code == 201, answer.text
        assert answer.json()["name"].removesuffix(" 0") == shown


@pytest.mark.parametrize("thing", ["networks", "datasets"])
def test_equal_files_are_one_whatever_their_name(
    http: httpx.Client, files: Files, tmp_path: Path, thing: str
) -> None:
    made = files.dataset.with_name("equal.npz")
    np.savez(made, images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % CLASSES)
    dataset = made.read_bytes()
    content = dataset if thing == "datasets" else another(files, tmp_path / "other", "equal")
    first = http.post(f"/v1/{thing}", content=content, params={"name": "first"})
    assert first.status_code == 201
    for method, options in (
        ("POST", {"content": content, "params": {"name": "second"}}),
        ("PUT", {"content": content}),
        ("POST", {"files": {"file": ("third", content)}}),
    ):
        again = http.request(method, f"/v1/{thing}", **options)
        assert again.status_code == 200
        assert again.json() == first.json()
    same = [row for row in http.get(f"/v1/{thing}").json()["items"] if row == first.json()]
    assert len(same) == 1


def test_parallel_uploads_of_one_file_under_many_names_are_one(
    http: httpx.Client, files: Files, tmp_path: Path
) -> None:
    content = another(files, tmp_path / "other", "parallel")

    def send(number: int) -> httpx.Response:
        return http.post("/v1/networks", content=content, params={"name": f"name {number}"})

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(send, range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_form_is_as_good_as_a_raw_body(http: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "form.npz"
    np.savez(path, images=np.ones((20, 8, 8), np.uint8), labels=np.arange(20) % CLASSES)
    content = path.read_bytes()
    form = http.post(
        "/v1/datasets",
        data={"comment": "before the file"},
        files={"file": ("C:\\data\\digits\u00e9.npz", content)},
    )
    assert form.status_code == 201, form.text
    assert form.json()["name"] == "digits\u00e9.npz"
    assert form.json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_what_is_larger_than_allowed_is_refused_by_its_length(
    http: httpx.Client, running: Running
) -> None:
    before = stored(running)
    answer = http.post("/v1/datasets", content=b"x" * (MAX_UPLOAD_BYTES + 1))
    found = problem(answer, 413, "upload.too_large")
    assert found["limit_bytes"] == MAX_UPLOAD_BYTES
    assert stored(running) == before


@pytest.mark.parametrize("form", [False, True])
def test_what_grows_larger_than_allowed_is_refused_on_the_way(
    http: httpx.Client, running: Running, form: bool
) -> None:
    before = stored(running)
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    kind = "multipart/form-data; boundary=B" if form else "application/octet-stream"

    def endless() -> Iterator[bytes]:
        if form:
            yield head
        for _ in range(12):
            yield b"x" * 1_000_000

    answer = http.post("/v1/networks", content=endless(), headers={"Content-Type": kind})
    problem(answer, 413, "upload.too_large")
    assert stored(running) == before


def test_an_announced_digest_is_checked(http: httpx.Client, running: Running, files: Files) -> None:
    content = files.dataset.read_bytes()
    right, wrong = hashlib.sha256(content), hashlib.sha256(b"other")
    before = stored(running)
    for digest in (wrong, right):
        encoded = base64.b64encode(digest.digest()).decode()
        header = {"Repr-Digest": f"md5=:aaaa:, sha-256=:{encoded}:"}
        query = {"sha256": digest.hexdigest().upper(), "name": "by query"}
        for options in ({"headers": header}, {"params": query}):
            answer = http.post("/v1/datasets", content=content, **options)  # type: ignore[arg-type]  # options of httpx
            if digest is right:
                assert answer.is_success
            else:
                problem(answer, 422, "upload.digest_mismatch")
                assert stored(running) == before


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"content": b""}, 422, "upload.empty"),
        ({"content": b"x", "params": {"sha256": "short"}}, 422, "request.invalid"),
        ({"content": b"x", "headers": {"Repr-Digest": "sha-256=:eA==:"}}, 422,
         "upload.digest_invalid"),
        ({"json": {"a": 1}}, 415, "upload.media_type"),
        ({"files": {"file": (None, b"no name")}}, 400, "upload.malformed"),
        ({"content": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=B"}},
         400, "upload.malformed"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400,
         "upload.malformed"),
        ({"content": b"x",
          "headers": {"Content-Type": "multipart/form-data; boundary=" + "B" * 300}},
         400, "upload.malformed"),
    ],
)  # fmt: skip
def test_uploads_that_cannot_be_read(
    http: httpx.Client, options: dict[str, object], status: int, code: str
) -> None:
    problem(http.request("POST", "/v1/networks", **options), status, code)  # type: ignore[arg-type]  # options of httpx


def test_hostile_packages_are_refused_by_name(
    http: httpx.Client, running: Running, files: Files, tmp_path: Path
) -> None:
    flipped = bytearray(files.package.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    strange = tmp_path / "strange.zip"
    with zipfile.ZipFile(strange, "w") as archive:
        archive.writestr("../../etc/passwd", "root")
    before = stored(running)
    for content in (bytes(flipped), strange.read_bytes(), b"\x80\x04pickle", b"PK\x03\x04"):
        answer = http.post("/v1/networks", content=content)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"].startswith("format.")
    assert stored(running) == before


def test_hostile_datasets_are_refused_by_name(http: httpx.Client, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, images=np.array([{"a": 1}], dtype=object))
    for content in (pickled.read_bytes(), b"\x80\x04pickle", b"some text"):
        answer = http.post("/v1/datasets", content=content)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"].startswith("dataset.")


def test_a_client_that_hangs_up_leaves_nothing(running: Running) -> None:
    before = stored(running)
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            b"POST /v1/networks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n"
            + b"x" * 1_500_000
        )
    end = time.monotonic() + 30
    while stored(running) != before and time.monotonic() < end:
        time.sleep(0.01)
    assert stored(running) == before


def test_sending_a_damaged_file_again_mends_it(
    http: httpx.Client, running: Running, files: Files
) -> None:
    content = files.dataset.read_bytes()
    view = http.post("/v1/datasets", content=content, params={"name": "mended"}).json()
    path = running.service.blobs.local_path(view["sha256"])
    assert path is not None
    path.write_bytes(b"x" + content[1:])
    again = http.post("/v1/datasets", content=content, params={"name": "mended"})
    assert (again.status_code, again.json()["id"]) == (200, view["id"])
    assert path.read_bytes() == content
