"""What a small file may cost: bytes unpacked, memory taken and calls made, never seconds."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from search.evaluation import image_headers, tar
from search.evaluation.data import describe_dataset, load_dataset
from search.evaluation.errors import DatasetError, DatasetTooLarge, LabelsInvalid
from search.evaluation.limits import DataLimits
from tests.evaluation.data_files import png, tarred, with_text, zipped

MIB = 2**20


def test_text_of_a_png_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(*_: Any) -> bytes:
        raise AssertionError("a text was unpacked")

    path = zipped(
        tmp_path / "d",
        {f"{'ab'[i % 2]}/{i}": with_text(png(i), bytes(900_000)) for i in range(4)},
    )
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", unpacked)
    assert describe_dataset(path)["train_examples"] == 4
    assert load_dataset(path).train.inputs[:, 0, 0].tolist() == [0, 2, 1, 3]


def test_describing_images_opens_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a WebP allocates its canvas, opening a PNG reads it to the pixels."""

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", opened)
    path = zipped(tmp_path / "d", {"a/1.png": png(1), "b/1.png": png(2)})
    assert describe_dataset(path)["example_shape"] == [8, 8]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_member_costs_the_same_among_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Headers and blocks read for n pictures are n times those of one: 50,000 are welcome."""
    calls = {"header": 0, "block": 0}

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            calls[name] += 1
            return call(*arguments)

        return count

    monkeypatch.setattr(
        "search.evaluation.images.read_header", counted("header", image_headers.read_header)
    )
    monkeypatch.setattr(tar, "_checked", counted("block", tar._checked))
    members = {f"{'ab'[i % 2]}/{i}.png": png(i % 256) for i in range(2000)}
    path = tmp_path / f"d.{kind}"
    if kind == "zip":
        zipped(path, members)
    else:
        tarred(path, members)
    assert describe_dataset(path)["train_examples"] == 2000
    assert calls == {"header": 2000, "block": 0 if kind == "zip" else 2000}


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_numbers_are_looked_at_in_pieces(tmp_path: Path) -> None:
    """Of labels and inputs of 32 MiB each, no more than a few pieces are held at once."""
    path = tmp_path / "d.npz"
    count = 32 * MIB
    labels = np.zeros(count, np.uint8)
    labels[-1] = 7
    np.savez(path, x=np.zeros((count, 1), np.uint8), y=labels)
    found: dict[str, Any] = {}
    assert peak(lambda: found.update(describe_dataset(path))) < 20 * MIB
    assert found["largest_label"] == 7
    save_file({"x": np.zeros((count, 1), np.uint8), "y": labels}, path)
    assert peak(lambda: found.update(describe_dataset(path))) < 20 * MIB


def test_what_a_file_unpacks_to_is_in_proportion_to_it(tmp_path: Path) -> None:
    limits = DataLimits(free_bytes=MIB)
    path = tmp_path / "d"
    few = {"x": np.zeros((10, 1)), "y": np.arange(10)}
    with path.open("wb") as file:
        np.savez_compressed(file, **few)  # type: ignore[arg-type]
    assert describe_dataset(path, limits)["train_examples"] == 10
    # Labels are taken as 64 bits each.
    many = {"x": np.zeros((400_000, 1), np.uint8), "y": np.arange(400_000, dtype=np.uint8)}
    with path.open("wb") as file:
        np.savez_compressed(file, **many)  # type: ignore[arg-type]
    with pytest.raises(DatasetTooLarge, match="less compression"):
        describe_dataset(path, limits)
    pictures = {f"{'ab'[i % 2]}/{i}": png(0, (600, 600)) for i in range(4)}
    with pytest.raises(DatasetTooLarge, match="4 images of 600 x 600 take"):
        describe_dataset(zipped(path, pictures, zipfile.ZIP_DEFLATED), limits)
    info = tarfile.TarInfo("a/1.png")
    info.size = 8 * MIB
    path.write_bytes(gzip.compress(info.tobuf() + bytes(9 * MIB)))
    with pytest.raises(DatasetTooLarge, match="unpacks to more"):
        describe_dataset(path, limits)


def test_a_file_of_many_arrays_is_refused_by_its_directory(tmp_path: Path) -> None:
    path = zipped(tmp_path / "d", {f"{i}.npy": b"" for i in range(30)})
    with pytest.raises(DatasetTooLarge, match="30 arrays, above the limit of 16"):
        describe_dataset(path)


# --- names of classes ---------------------------------------------------------------------------

LIMITS = DataLimits(max_classes=50, max_name=20, max_names_bytes=200)
NAMES: dict[str, tuple[list[str], str]] = {
    "too many": (["c"] * 51, "more than 50 classes"),
    "too long": (["c" * 21, "d"], r"limit of 20|to 20 characters"),
    "too large": ([f"{i:>15}" for i in range(20)], "more than 200 bytes together"),
    "NUL": (["a", "b\0c"], "class 1 with a control character"),
    "lone surrogate": (
        ["a", "b", "\ud800"],
        "class 2 with (what is no Unicode text|half of a surrogate pair)",
    ),
}


def stored_in(kind: str, folder: Path, names: list[str]) -> Path:
    """A dataset whose classes are so named, or were it not for its names."""
    path = folder / f"d.{kind}"
    if kind == "npz":
        numbers: Any = np.array(names)
        if "\ud800" in names:
            numbers = np.zeros(len(names), "<U1")
            numbers.view("<u4")[:] = [ord(name) for name in names]
        np.savez(path, x=np.zeros((4, 1), np.uint8), class_names=numbers)
    else:
        save_file({"x": np.zeros((4, 1), np.uint8)}, path, metadata={"classes": json.dumps(names)})
    return path


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_are_few_short_and_text(tmp_path: Path, kind: str, name: str) -> None:
    names, words = NAMES[name]
    path = stored_in(kind, tmp_path, names)
    with pytest.raises(DatasetError, match=words):
        describe_dataset(path, LIMITS)


def test_bytes_are_no_names_unless_they_are_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros((4, 1)), class_names=np.array(["ä".encode(), b"b"]))
    assert describe_dataset(path)["classes"] == ["ä", "b"]
    np.savez(path, x=np.zeros((4, 1)), class_names=np.array(["ä".encode("latin-1"), b"b"]))
    with pytest.raises(DatasetError, match="no Unicode text"):
        describe_dataset(path)


def test_a_wide_type_of_names_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros((4, 1)), class_names=np.zeros(3, "U400000"))
    with pytest.raises(DatasetTooLarge, match="1600000 bytes"):
        describe_dataset(path)


@pytest.mark.parametrize("name", [b"b\xff", b"b\x07ell", b"n" * 300, b"b" * 1200])
def test_names_of_folders_are_text(tmp_path: Path, name: bytes) -> None:
    with tarfile.open(tmp_path / "d", "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ("a", name.decode("utf-8", "surrogateescape")):
            info = tarfile.TarInfo(f"{folder}/1.png")
            info.size = len(png(1))
            archive.addfile(info, io.BytesIO(png(1)))
    with pytest.raises(DatasetError, match=r"names in UTF-8|shorte"):
        describe_dataset(tmp_path / "d")


# --- numbers that cannot be used ----------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_numbers_that_are_not_finite_are_found_when_the_data_come(
    tmp_path: Path, kind: str, order: Any
) -> None:
    values = np.zeros((300, 70, 70), np.float32, order=order)  # more than one piece
    values[271, 3, 5] = np.nan
    values[290:, 1, 2] = np.inf
    path = tmp_path / "d"
    arrays = {"images": values, "labels": np.arange(300) % 2}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    if kind == "safetensors":
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    first = r"\(290, 1, 2\)" if (kind, order) == ("npz", "F") else r"\(271, 3, 5\)"
    for call in (describe_dataset, load_dataset):
        with pytest.raises(DatasetError, match=rf"'images' .* 11 of 1470000, the first .*{first}"):
            call(path)


def test_labels_and_names_are_compared_when_the_data_come(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros((4, 1)), y=np.arange(4), class_names=np.array(["a", "b", "c"]))
    with pytest.raises(LabelsInvalid, match="reach 3, but there are names for 3"):
        describe_dataset(path)
    np.savez(path, x=np.zeros((4, 1)), y=np.array([0, 1, 2, 2**32]))
    with pytest.raises(LabelsInvalid, match="reach 4294967296, above the limit"):
        describe_dataset(path)
