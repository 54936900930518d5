"""Strangers' datasets over HTTP: refused with what is wrong, and nothing is left of them."""

from __future__ import annotations

import json
import struct

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.network import Network
from tests.api.fixtures import CLASSES, Running
from tests.api.test_problems import problem
from tests.api.test_uploads import stored
from tests.evaluation.data_files import npz


def safetensors(classes: str) -> bytes:
    whole = {"dtype": "U8", "shape": [4, 1], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"classes": classes}, "x": whole}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


NAN = np.zeros((4, 2, 2), np.float32)
NAN[2, 1, 0] = np.nan
FILES = {
    "lone surrogate": (safetensors('["a", "\\ud800"]'), "dataset.invalid", "class 1 with half"),
    "NUL": (safetensors('["a\\u0000b"]'), "dataset.invalid", "class 0 with a control"),
    "many names": (safetensors(json.dumps(["c"] * 100_001)), "dataset.limit", "100000 classes"),
    "long name": (safetensors(json.dumps(["c" * 201])), "dataset.limit", "201 characters"),
    "nested": (safetensors("[" * 200_000), "dataset.invalid", "nested"),
    "digits": (safetensors(f"[{'9' * 5000}]"), "dataset.invalid", "integer"),
    "NaN": (npz(x=NAN), "dataset.invalid", r"'x' holds NaN"),
    "labels": (npz(x=np.zeros((4, 2)), y=np.arange(4) - 1), "dataset.labels", "count from 0"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_dataset_is_refused_when_it_comes(
    http: httpx.Client, running: Running, name: str
) -> None:
    content, code, words = FILES[name]
    before = stored(running)
    listed = http.get("/v1/datasets").raise_for_status().json()
    found = problem(http.post("/v1/datasets", content=content), 422, code)
    assert words in found["detail"]
    assert stored(running) == before
    assert http.get("/v1/datasets").raise_for_status().json() == listed


@settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    classes=st.text(max_size=8) | st.lists(st.text(st.characters(), max_size=3)).map(json.dumps),
    edits=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=3),
)
def test_no_header_is_answered_by_a_fault_of_ours(
    http: httpx.Client, classes: str, edits: list[tuple[int, int]]
) -> None:
    """A few: each starts a process. Many more are in tests/evaluation/test_data_properties.py."""
    content = bytearray(safetensors(classes))
    for place, value in edits:
        content[place % len(content)] = value
    answer = http.post("/v1/datasets", content=bytes(content))
    assert answer.status_code < 500, answer.text
    assert http.get("/v1/datasets").status_code == 200


def test_a_network_that_names_too_few_classes_starts_no_job(
    http: httpx.Client, running: Running, spec: dict[str, object]
) -> None:
    """One that came before its names were compared with its outputs."""
    with running.service.database.transaction() as session:
        row = session.get(Network, spec["network"])
        assert row is not None
        described = dict(row.description)
        row.description = {**described, "classes": ["only", "two"]}
    try:
        for path in ("/v1/jobs", "/v1/jobs/validate"):
            found = problem(http.post(path, json=spec), 422, "dataset.mismatch")
            assert f"2 classes are named, but the network gives {CLASSES}" in found["detail"]
            assert found["errors"][0]["field"] == "network"
    finally:
        with running.service.database.transaction() as session:
            row = session.get(Network, spec["network"])
            assert row is not None
            row.description = described


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate"])
def test_labels_beyond_the_outputs_start_no_job(
    http: httpx.Client, spec: dict[str, object], path: str
) -> None:
    images = np.zeros((200, 8, 8), np.uint8)
    content = npz(images=images, labels=np.arange(200) % (CLASSES + 1))
    dataset = http.post("/v1/datasets", content=content).raise_for_status().json()["id"]
    found = problem(http.post(path, json={**spec, "dataset": dataset}), 422, "dataset.mismatch")
    assert f"the labels reach {CLASSES}" in found["detail"]


def test_the_range_of_tokens_is_known_from_the_upload(http: httpx.Client) -> None:
    """So tokens beyond an embedding's rows are refused before a job starts."""
    content = npz(inputs=np.array([[3, 99]] * 4), labels=np.arange(4) % 2)
    view = http.post("/v1/datasets", content=content).raise_for_status().json()
    assert view["description"]["input_range"] == [3, 99]
