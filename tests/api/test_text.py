"""Text is checked where it comes in, and what is stored all the same never breaks an answer."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from sqlalchemy import text

from espalier.text import mended, unfit
from models import stored_json
from models.database import Database
from models.uploads import create_dataset
from tests.api.fixtures import CLASSES, Files, Running, fail
from tests.api.test_jobs import create
from tests.api.test_problems import problem
from tests.evaluation.data_files import npz

JSON = {"Content-Type": "application/json"}
LISTS = ["/v1/networks", "/v1/datasets", "/v1/jobs"]


@pytest.mark.parametrize("code", ["%00", "%0A", "%1B[2J", "%7F", "%C2%85"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/a{}",
        "/v1/jobs?name=a{}",
        "/v1/jobs?a{}=b",
        "/v1/networks/a{}",
        "/v1/datasets?name={}",
    ],
)
def test_control_characters_in_paths_and_queries(http: httpx.Client, path: str, code: str) -> None:
    problem(http.get(path.format(code)), 422, "request.unstorable")


@pytest.mark.parametrize("code", ["%FF", "%ED%A0%80", "%C0%80", "%C3", "%F5%80%80%80"])
@pytest.mark.parametrize("path", ["/v1/jobs/a{}", "/v1/jobs?name=a{}", "/v1/networks?name={}"])
def test_paths_and_queries_that_are_no_utf8(http: httpx.Client, path: str, code: str) -> None:
    problem(http.get(path.format(code)), 400, "request.malformed")


@pytest.mark.parametrize("thing", ["networks", "datasets"])
def test_names_of_uploads(http: httpx.Client, files: Files, thing: str) -> None:
    for name in ("a%00", "a%0Ab", "%ED%A0%80"):
        answer = http.post(f"/v1/{thing}?name={name}", content=files.dataset.read_bytes())
        assert answer.status_code in (400, 422)
        assert answer.json()["code"].startswith("request.")


TEXTS = {
    r'"\u0000"': (422, "request.unstorable"),
    r'"a\nb"': (422, "request.unstorable"),
    r'"\u0085"': (422, "request.unstorable"),
    r'"\ud800"': (400, "request.malformed"),
    r'"\udc00\ud800"': (400, "request.malformed"),
    '"\x00"': (400, "request.malformed"),
}


@pytest.mark.parametrize("wrong", TEXTS)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate"])
def test_strings_and_keys_of_json(
    http: httpx.Client, spec: dict[str, Any], path: str, wrong: str
) -> None:
    status, code = TEXTS[wrong]
    as_value = json.dumps({**spec, "name": "here"}).replace('"here"', wrong)
    as_key = json.dumps({**spec, "here": 1}).replace('"here"', wrong)
    nested = json.dumps({**spec, "strategy": {"name": "here"}}).replace('"here"', wrong)
    before = len(http.get("/v1/jobs").json()["items"])
    for content in (as_value, as_key, nested):
        problem(http.post(path, content=content, headers=JSON), status, code)
    assert len(http.get("/v1/jobs").json()["items"]) == before


@pytest.mark.parametrize("key", [b"\xff", b"caf\xc3\xa9", b"a\tb", b"x" * 256, b""])
def test_idempotency_keys(http: httpx.Client, spec: dict[str, Any], key: bytes) -> None:
    answer = http.post("/v1/jobs", json=spec, headers={b"Idempotency-Key": key})
    (error,) = problem(answer, 422, "request.invalid")["errors"]
    assert error["field"] == "Idempotency-Key"


# --- in files ------------------------------------------------------------------------------------


def repacked(files: Files, **changes: Any) -> bytes:
    """The package with other facts in its manifest, escaped as JSON may be."""
    made = io.BytesIO()
    with zipfile.ZipFile(files.package) as old, zipfile.ZipFile(made, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "manifest.json":
                content = json.dumps({**json.loads(content), **changes}).encode()
            new.writestr(item, content)
    return made.getvalue()


@pytest.mark.parametrize(
    "name", ["\ud800", "a\udfff", "a\0", "a\nb", "\x1b[31m", "\x85", "x" * 201]
)
@pytest.mark.parametrize("field", ["name", "classes", "extra"])
def test_names_in_packages(http: httpx.Client, files: Files, name: str, field: str) -> None:
    value: Any = {"name": name, "classes": [name, "b", "c"], "extra": {"note": name}}[field]
    answer = http.post("/v1/networks", content=repacked(files, **{field: value}))
    if field == "extra" and name in ("a\nb", "\x1b[31m", "\x85", "x" * 201):
        assert answer.status_code == 201  # a note may have lines, and is in no list
    else:
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"].startswith("format.")
    assert [http.get(path).status_code for path in LISTS] == [200] * 3


IMAGES = np.zeros((30, 8, 8), np.uint8)
LABELS = np.arange(30) % CLASSES


def tensors(classes: str) -> bytes:
    return safetensors.numpy.save({"images": IMAGES, "labels": LABELS}, {"classes": classes})


@pytest.mark.parametrize(
    "content",
    [
        npz(images=IMAGES, labels=LABELS, class_names=np.array(["a", "b", "\ud800"])),
        npz(images=IMAGES, labels=LABELS, class_names=np.array([b"a", b"b", b"\xed\xa0\x80"])),
        npz(images=IMAGES, labels=LABELS, class_names=np.array(["a\0b", "b", "c"])),
        tensors('["a", "b", "\\ud800"]'),
        tensors('["a", "b", "\\u0000"]'),
        tensors("[" * 100_000),
        tensors("9" * 5_000),
    ],
    ids=lambda content: str(len(content)),
)
def test_names_in_datasets(http: httpx.Client, content: bytes) -> None:
    answer = http.post("/v1/datasets", content=content)
    assert answer.status_code < 500
    assert [http.get(path).status_code for path in LISTS] == [200] * 3


# --- in the database -----------------------------------------------------------------------------


def test_a_row_of_before_that_cannot_be_shown_breaks_no_list(
    http: httpx.Client, running: Running, spec: dict[str, Any]
) -> None:
    """Written as the service wrote it when it did not check."""
    bad = r'{"classes": ["a", "\ud800", "\udfff\u0000"], "train_examples": 1}'
    with running.service.database.transaction() as session:
        row = create_dataset(session, name="bad", digest="d" * 64, size_bytes=1, description={})
        session.flush()
        session.execute(
            text("update datasets set description = :bad where id = :id"),
            {"bad": bad, "id": row.id},
        )
    job = create(http, spec)["id"]
    stored = json.dumps({**spec, "name": "x"}).replace('"x"', r'"\ud800"')
    with running.service.database.transaction() as session:
        session.execute(
            text("update jobs set spec = :bad where id = :id"), {"bad": stored, "id": job}
        )
    for path, found in (("datasets", row.id), ("jobs", job)):
        items = http.get(f"/v1/{path}").json()["items"]
        (shown,) = [item for item in items if item["id"] == found]
        assert http.get(f"/v1/{path}/{found}").json() == shown
        assert "\ufffd" in json.dumps(shown, ensure_ascii=False)


def test_what_a_worker_stores_can_be_shown(
    database: Database, http: httpx.Client, running: Running, spec: dict[str, Any]
) -> None:
    """On both kinds of database; its messages quote names of files, say."""
    job = create(http, spec)["id"]
    fail(running.service, job, "step.failed", "cannot read 'a\udcff\0'")
    assert http.get(f"/v1/jobs/{job}").json()["error"]["message"] == "cannot read 'a\ufffd\ufffd'"
    with database.transaction() as session:
        given = {"notes": ["\0", "\udcff", "fine"], "\ud800": 1}
        row = create_dataset(session, name="x", digest="e" * 64, size_bytes=1, description=given)
    with database.transaction(write=False) as session:
        session.refresh(session.merge(row))
        found = session.get_one(type(row), row.id).description
    assert found == {"notes": ["\ufffd", "\ufffd", "fine"], "\ufffd": 1}


@pytest.mark.parametrize("value", ["plain", "\\u0000", "\\ud800", "\U0001f600", {"a": [1.5, None]}])
def test_what_can_be_stored_is_stored_as_it_is(value: Any) -> None:
    assert stored_json.loads(stored_json.dumps(value)) == value
    assert mended(value) == value


def test_what_is_unfit_is_named() -> None:
    assert unfit("naïve 名前 \U0001f600") is None
    assert unfit("a\0") == "a control character (U+0000)"
    assert unfit("\ud800") == "half of a surrogate pair (U+D800)"
