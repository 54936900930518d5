"""What is read of a dataset's file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from search.evaluation.data import describe_dataset, load_dataset
from tests.evaluation.data_files import arrays, png, tarred, zipped


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_gives_the_arrays_back(tmp_path: Path, compressed: bool) -> None:
    stored = {"train_images": arrays()["images"], "train_labels": arrays()["labels"]}
    stored |= {"test_images": arrays(4)["images"], "test_labels": arrays(4)["labels"]}
    stored |= {"val_images": arrays(5)["images"] // 2, "val_labels": arrays(5)["labels"]}
    stored["class_names"] = np.array(["a", "b", "ü"])
    path = tmp_path / "blob"  # the kind is told by the content
    with path.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **stored)  # type: ignore[arg-type]
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.train.inputs, stored["train_images"])
    assert dataset.test is not None
    np.testing.assert_array_equal(dataset.test.inputs, stored["test_images"])
    assert dataset.holdout is not None
    np.testing.assert_array_equal(dataset.holdout.inputs, stored["val_images"])
    assert dataset.description.holdout_examples == 5
    assert dataset.train.labels is not None
    np.testing.assert_array_equal(dataset.train.labels, stored["train_labels"])
    assert dataset.description.classes == ("a", "b", "ü")
    assert describe_dataset(path) == dataset.description.model_dump(mode="json")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1"])
def test_npz_keeps_values_in_any_memory_order(tmp_path: Path, order: Any, dtype: str) -> None:
    x = np.arange(24).reshape(4, 3, 2).astype(dtype)
    np.savez(tmp_path / "d.npz", x=np.asarray(x, order=order))
    inputs = load_dataset(tmp_path / "d.npz").train.inputs
    np.testing.assert_array_equal(inputs, x)
    assert inputs.dtype.isnative


def test_safetensors_gives_the_arrays_back(tmp_path: Path) -> None:
    path = tmp_path / "d"
    save_file(arrays(), path, metadata={"classes": json.dumps(["a", "b", "c"])})
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.train.inputs, arrays()["images"])
    assert dataset.description.classes == ("a", "b", "c")
    assert dataset.description.largest_label == 2


@pytest.mark.parametrize(
    ("pack", "around"),
    [(zipped, ""), (zipped, "digits/"), (tarred, ""), (tarred, "digits/"), (tarred, "./")],
)
def test_image_folders_become_classes(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path], around: str
) -> None:
    members = {
        f"{around}train/one/b.png": png(10),
        f"{around}train/nil/a.png": png(20),
        f"{around}train/one/a.png": png(30),
        f"{around}test/nil/x.png": png(40),
        f"{around}val/one/x.png": png(50),
        f"{around}train/.DS_Store": b"junk",
    }
    dataset = load_dataset(pack(tmp_path / "d", members))
    assert dataset.description.classes == ("nil", "one")
    assert dataset.train.inputs.shape == (3, 8, 8)
    assert dataset.train.inputs[:, 0, 0].tolist() == [20, 30, 10]
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [0, 1, 1]
    assert dataset.test is not None
    assert dataset.test.inputs[0, 0, 0] == 40
    assert dataset.holdout is not None
    assert dataset.holdout.inputs[0, 0, 0] == 50
    assert dataset.holdout.labels is not None
    assert dataset.holdout.labels.tolist() == [1]


def test_colour_and_grey_images_become_colour(tmp_path: Path) -> None:
    path = zipped(tmp_path / "d", {"a/1.png": png(10), "b/1.png": png(20, mode="RGB")})
    inputs = load_dataset(path).train.inputs
    assert inputs[:, 0, 0].tolist() == [[10, 10, 10], [20, 0, 235]]


def test_images_without_folders_are_unlabelled(tmp_path: Path) -> None:
    dataset = load_dataset(zipped(tmp_path / "d", {"1.png": png(1), "2.png": png(2)}))
    assert not dataset.labelled
    assert len(dataset.train) == 2


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8])
def test_integer_inputs_tell_their_range(tmp_path: Path, dtype: Any) -> None:
    np.savez(tmp_path / "d.npz", inputs=np.array([[3, 4], [5, 99]], dtype))
    assert load_dataset(tmp_path / "d.npz").description.input_range == (3, 99)


def test_describing_imports_no_torch() -> None:
    code = (
        "import sys, search.evaluation.data, search.evaluation.fit; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
