from __future__ import annotations

import errno
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from search.evaluation.data import describe_dataset, load_dataset
from search.evaluation.errors import DatasetError, DatasetTooLarge, LabelsInvalid
from search.evaluation.limits import LIMITS, DataLimits
from search.evaluation.sources import _file_kind, open_source

Array = np.ndarray[Any, np.dtype[Any]]


def arrays(count: int = 12) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    return {
        "images": generator.integers(0, 256, (count, 8, 8, 3), np.uint8),
        "labels": np.arange(count) % 3,
    }


def png(value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    colour = value if mode == "L" else (value, 0, 255 - value)
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # mode is a variable
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def npy(array: Array, *, header: bytes | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    content = stream.getvalue()
    if header is None:
        return content
    padded = header + b" " * (117 - len(header)) + b"\n"
    body = content[10 + struct.unpack("<H", content[8:10])[0] :]
    return content[:8] + struct.pack("<H", len(padded)) + padded + body


# --- what is read -------------------------------------------------------------------------------


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


# --- what is refused ----------------------------------------------------------------------------

BAD_ARRAYS: dict[str, tuple[dict[str, Array], type[DatasetError], str]] = {
    "unknown name": ({**arrays(), "more": np.zeros(3)}, DatasetError, "'more' has no known"),
    "no inputs": ({"labels": np.arange(3)}, DatasetError, "no inputs"),
    "two inputs": ({**arrays(), "x": np.zeros((12, 1))}, DatasetError, "keep one"),
    "label count": ({**arrays(), "labels": np.arange(5)}, LabelsInvalid, "5 labels for 12"),
    "label type": ({**arrays(), "labels": np.zeros(12)}, LabelsInvalid, "whole numbers"),
    "one-hot": ({**arrays(), "labels": np.eye(12, dtype=int)}, LabelsInvalid, "one class number"),
    "negative": ({**arrays(), "labels": np.arange(12) - 1}, LabelsInvalid, "count from 0"),
    "one class": ({**arrays(), "labels": np.ones(12, int)}, LabelsInvalid, "one label"),
    "too few names": ({**arrays(), "classes": np.array(["a"])}, LabelsInvalid, "names for 1"),
    "empty": ({"x": np.zeros((0, 4))}, DatasetError, "no examples"),
    "scalar": ({"x": np.array(1.0)}, DatasetError, "no input"),
    "strings": ({"x": np.array(["a", "b"])}, DatasetError, "no input"),
    "empty test": ({**arrays(), "test_images": arrays(0)["images"]}, DatasetError, "no examples"),
    "half labelled": ({**arrays(), "test_images": arrays(4)["images"]}, LabelsInvalid, "neither"),
    "other test": ({"x": np.zeros((4, 2)), "x_test": np.zeros((4, 3))}, DatasetError, "alike"),
    "test labels": ({**arrays(), "y_test": np.arange(3)}, DatasetError, "no test inputs"),
    "bare hold-out": ({**arrays(), "x_val": arrays(4)["images"]}, LabelsInvalid, "the hold-out"),
    "other hold-out": ({"x": np.zeros((4, 2)), "x_val": np.zeros((4, 3))}, DatasetError, "alike"),
    "NaN": ({"x": np.full((4, 2), np.nan)}, DatasetError, "NaN"),
    "infinity": ({"x": np.full((4, 2), np.inf, np.float16)}, DatasetError, "infinity"),
    "beyond float32": ({"x": np.full((4, 2), -1e300)}, DatasetError, "beyond those of float32"),
    "float128": ({"x": np.ones((4, 2), np.longdouble)}, DatasetError, "'x' .* store it as float32"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_make_no_dataset_are_refused(tmp_path: Path, name: str) -> None:
    stored, kind, words = BAD_ARRAYS[name]
    np.savez(tmp_path / "d.npz", **stored)  # type: ignore[arg-type]
    with pytest.raises(kind, match=words):
        load_dataset(tmp_path / "d.npz")


class Explosive:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("exploded").touch, ())


def test_pickles_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=np.array([Explosive()] * 3, object))
    with pytest.raises(DatasetError, match="Python objects"):
        load_dataset(Path("d.npz"))
    assert not Path("exploded").exists()


HEADERS = {
    "more than there is": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}",
    "less than there is": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}",
    "structured": b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,)}",
    "subarray": b"{'descr': '(1000000,1000000)f4', 'fortran_order': False, 'shape': (4,)}",
    "code": b"{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os')}",
    "nonsense": b"{{{",
    "no bytes": b"{'descr': 'U0', 'fortran_order': False, 'shape': (4,)}",
}


@pytest.mark.parametrize("name", HEADERS)
def test_lying_array_headers_are_refused(tmp_path: Path, name: str) -> None:
    content = npy(np.zeros(4, np.float32), header=HEADERS[name])
    with pytest.raises(DatasetError):
        load_dataset(zipped(tmp_path / "d", {"x.npy": content}))


def test_zip_bombs_are_refused_before_unpacking(tmp_path: Path) -> None:
    bomb = npy(np.zeros(4 * 2**20, np.uint8))
    path = zipped(tmp_path / "d", {"x.npy": bomb}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DatasetTooLarge, match=r"unpacks to .* less compression"):
        describe_dataset(path, DataLimits(free_bytes=2**20))
    with pytest.raises(DatasetTooLarge, match=r"unpacks to .* fewer"):
        describe_dataset(path, DataLimits(max_bytes=2**20, max_ratio=10**6))
    many = {f"{i}.png": png(1) for i in range(50)}
    for archive in (zipped(tmp_path / "e", many), tarred(tmp_path / "f", many)):
        with pytest.raises(DatasetTooLarge, match="members"):
            describe_dataset(archive, DataLimits(max_files=20))


def test_a_member_larger_than_declared_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "d", {"x.npy": npy(np.ones(4000))}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    small = npy(np.ones(4))
    size = struct.pack("<L", len(npy(np.ones(4000))))
    content = content.replace(size, struct.pack("<L", len(small)))
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        load_dataset(path)


def tar_of(path: Path, info: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(info, io.BytesIO(b"\0" * min(info.size, 4096)) if info.size else None)
    return path


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"3", b"6"])
def test_links_and_devices_in_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a/1.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DatasetError, match="link or device"):
        describe_dataset(tar_of(tmp_path / "d", info))


def test_links_in_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a/1.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "d", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DatasetError, match="link or device"):
        describe_dataset(tmp_path / "d")


def test_tar_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE):
        info = tarfile.TarInfo("a/1.png")
        info.type, info.size = kind, 2**33
        path = tmp_path / f"d{kind.decode()}"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240)
        with pytest.raises(DatasetError):
            describe_dataset(path)


def test_tar_bombs_are_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "d", {"a/1.png": b"\0" * 2**20, "a/2.png": b"\0" * 2**20})
    with pytest.raises(DatasetTooLarge, match="unpacks to more"):
        describe_dataset(path, DataLimits(max_bytes=2**19))


@pytest.mark.parametrize(
    "name", ["../1.png", "/etc/1.png", "a/../../1.png", "a\\1.png", "C:/1.png"]
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_paths_out_of_the_archive_are_refused(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    with pytest.raises(DatasetError, match="plain relative paths"):
        describe_dataset(pack(tmp_path / "d", {name: png(1)}))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_files_without_a_name_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "d"
    if kind == "tar":
        tarred(path, {"": png(1)})
    else:
        with zipfile.ZipFile(path, "w") as archive, archive.open(zipfile.ZipInfo(""), "w") as file:
            file.write(png(1))
    with pytest.raises(DatasetError, match="plain relative paths"):
        describe_dataset(path)


BAD_IMAGES: dict[str, tuple[dict[str, bytes], str]] = {
    "no image": ({"a/1.png": b"GIF89a not", "b/2.png": png(1)}, "no image"),
    "text": ({"a/1.png": png(1), "b/read.txt": b"hello"}, "no image"),
    "cut off": ({"a/1.png": png(1, (64, 64))[:60], "b/1.png": png(1, (64, 64))}, "cannot be read"),
    "sizes": ({"a/1.png": png(1), "b/1.png": png(1, (9, 8))}, "resize all of them"),
    "one class": ({"a/1.png": png(1), "a/2.png": png(1)}, "one label"),
    "mixed": ({"a/1.png": png(1), "2.png": png(1)}, "use one or the other"),
    "deep": ({"x/a/b/1.png": png(1), "y/a/1.png": png(1)}, "too deep"),
    "new class": ({"train/a/1.png": png(1), "train/b/1.png": png(1), "test/c/1.png": png(1)}, "c"),
    "only test": ({"test/a/1.png": png(1), "test/b/1.png": png(1)}, "no folder train"),
    "nothing": ({".hidden": b""}, "no images"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_archives_that_make_no_dataset_are_refused(tmp_path: Path, name: str) -> None:
    members, words = BAD_IMAGES[name]
    with pytest.raises(DatasetError, match=words):
        load_dataset(zipped(tmp_path / "d", members))


def test_huge_pixels_are_refused_by_their_header(tmp_path: Path) -> None:
    header = struct.pack(">LLBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + chunk
    bomb += struct.pack(">L", zlib.crc32(chunk)) + struct.pack(">L", 0) + b"IDAT"
    bomb += struct.pack(">L", zlib.crc32(b"IDAT"))
    with pytest.raises(DatasetTooLarge, match=r"pixels|exceeds"):
        describe_dataset(zipped(tmp_path / "d", {"a/1.png": bomb, "b/1.png": png(1)}))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_raise_only_dataset_errors(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    kinds: list[Callable[[], Path]] = [
        lambda: zipped(tmp_path / "d", {"a/1.png": png(1), "b/1.png": png(2)}),
        lambda: tarred(tmp_path / "d", {"a/1.png": png(1), "b/1.png": png(2)}, "w"),
        lambda: tarred(tmp_path / "d", {"a/1.png": png(1), "b/1.png": png(2)}, "w:xz"),
        lambda: zipped(tmp_path / "d", {"x.npy": npy(np.ones((5, 2)))}, zipfile.ZIP_DEFLATED),
    ]
    path = kinds[seed % len(kinds)]()
    content = bytearray(path.read_bytes())
    for _ in range(int(generator.integers(1, 20))):
        content[generator.integers(len(content))] = generator.integers(256)
    if seed % 3 == 0:
        content = content[: generator.integers(len(content))]
    path.write_bytes(content)
    try:
        load_dataset(path)
    except DatasetError:
        return


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO])
@pytest.mark.parametrize("kind", ["npz", "safetensors", "zip", "tar"])
def test_errors_of_the_system_are_not_the_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: int
) -> None:
    """A copy that was evicted between two reads, say: another attempt may find it."""
    path = tmp_path / "d"
    if kind == "npz":
        zipped(path, {"x.npy": npy(np.ones((4, 2)))})
    elif kind == "safetensors":
        save_file(arrays(), path)
    else:
        (zipped if kind == "zip" else tarred)(path, {"a/1.png": png(1), "b/1.png": png(2)})

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    kind_of = _file_kind(path)
    monkeypatch.setattr("search.evaluation.sources._file_kind", lambda _: kind_of)
    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(OSError, match=os.strerror(error)):
        load_dataset(path)


def test_an_array_whose_file_goes_before_it_is_read_is_not_damaged(tmp_path: Path) -> None:
    for name, save in (("d", np.savez), ("e", lambda path, x: save_file({"x": x}, path))):
        path = tmp_path / f"{name}.npz"
        save(path, x=np.ones((4, 2)))
        source = open_source(path, LIMITS)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            source.train.read()


def test_an_archive_that_points_before_its_start_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with path.open("wb") as file:
        file.write(b"PK" + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 0))
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0))
    with pytest.raises(DatasetError, match="damaged"):
        load_dataset(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(DatasetError, match="no dataset that is read"):
        describe_dataset(path)
    path.write_bytes(b"")
    with pytest.raises(DatasetError):
        describe_dataset(path)


def test_describing_imports_no_torch() -> None:
    code = (
        "import sys, search.evaluation.data, search.evaluation.fit; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
