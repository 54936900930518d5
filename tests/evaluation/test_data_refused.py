"""Files that make no dataset are refused, with the reason."""

from __future__ import annotations

import errno
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from search.evaluation.data import describe_dataset, load_dataset
from search.evaluation.errors import DatasetError, DatasetTooLarge, LabelsInvalid
from search.evaluation.limits import LIMITS, DataLimits
from search.evaluation.sources import _file_kind, open_source
from tests.evaluation.data_files import Array, arrays, npy, png, tarred, zipped

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
