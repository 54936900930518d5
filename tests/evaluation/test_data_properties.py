"""Whatever a file's headers say: a dataset is described, or a `DatasetError` says what is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search.evaluation.data import describe_dataset
from search.evaluation.errors import DatasetError
from tests.evaluation.data_files import png

MANY = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "dataset"


def accepts_or_says(path: Path, content: bytes) -> str | None:
    """What is wrong, as text that can be sent; nothing other than a `DatasetError` gets out."""
    path.write_bytes(content)
    try:
        found = describe_dataset(path)
    except DatasetError as error:
        message = str(error)
        message.encode()
        assert len(message) < 2000, "a message is read by people"
        return message
    json.dumps(found, ensure_ascii=False).encode()
    return None


# --- .npz ---------------------------------------------------------------------------------------


def npz(header: bytes, data: bytes, name: str = "x.npy", version: bytes = b"\1\0") -> bytes:
    length = struct.pack("<H" if version == b"\1\0" else "<L", len(header))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"\x93NUMPY" + version + length + header + data)
    return stream.getvalue()


DESCR = st.one_of(
    st.sampled_from(["|u1", "<f4", ">f8", "<i8", "|b1", "<U1", "|S2", "|O", "<c8", "<M8[s]", ""]),
    st.text("<>|=?biufcOSUVmM0123456789,() ", max_size=30),
    st.integers(0, 10**12).map(lambda n: f"<U{n}"),
).map(repr)
NESTED = st.sampled_from("([{-+~").flatmap(lambda c: st.integers(1, 4000).map(lambda n: c * n))
SHAPE = st.one_of(
    st.lists(st.integers(-2, 9), max_size=20).map(lambda dims: f"({', '.join(map(str, dims))},)"),
    st.integers(1, 9000).map(lambda n: f"({'9' * n}, 0)"),
    st.integers(0, 10**19).map(lambda n: f"({n}, {n})"),
    NESTED,
    st.sampled_from(["()", "(3)", "3", "(2**9**9,)", "(1,)*9**9", "(True,)", "(3L, 1L)", "None"]),
    st.text(max_size=50),
)
HEADERS = st.builds(
    lambda descr, order, shape, around: around.replace(
        "@", f"'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}"
    ),
    DESCR,
    st.sampled_from(["True", "False", "0", "None", "[]"]),
    SHAPE,
    st.sampled_from(["{@}", "{@, }", "{@}\n", "{@,@}", "@", "{{@}}", "{@, 'more': 1}"]),
)


@MANY
@given(header=HEADERS, data=st.binary(max_size=40), version=st.sampled_from([b"\1\0", b"\2\0"]))
@example("{'descr':'|u1','fortran_order':False,'shape':(" + "-" * 9000 + "1,)}", b"", b"\1\0")
@example("{'descr':'|u1','fortran_order':False,'shape':" + "(" * 4000 + "}", b"", b"\1\0")
@example("{'descr':'" + "i4," * 3000 + "','fortran_order':False,'shape':(1,)}", b"", b"\1\0")
def test_headers_of_npy(path: Path, header: str, data: bytes, version: bytes) -> None:
    text = header.encode("utf-8", "surrogatepass")[:60_000]
    accepts_or_says(path, npz(text, data, version=version))


@MANY
@given(points=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), text=st.booleans())
def test_names_in_npz(path: Path, points: list[int], text: bool) -> None:
    kind = "<U1" if text else "|S4"
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(points)},), }}"
    names = npz(header.encode(), struct.pack(f"<{len(points)}L", *points), "classes.npy")
    stream = io.BytesIO(names)
    with zipfile.ZipFile(stream, "a") as archive:
        data = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1), }\n"
        archive.writestr("x.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(data)) + data + b"\1\2")
    accepts_or_says(path, stream.getvalue())


# --- safetensors --------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["U8", "F32", "BF16", "F8_E4M3", "x"]) | JSON,
        "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=20) | JSON,
        "data_offsets": st.tuples(st.integers(0, 9), st.integers(0, 9)) | JSON,
        "more": JSON,
    },
)
CLASSES = st.one_of(
    JSON.map(json.dumps),
    st.lists(st.text(st.characters(), max_size=4)).map(json.dumps),
    NESTED,
    st.integers(1, 9000).map(lambda n: f"[{'9' * n}]"),
    st.just('["\\ud800", "a\\u0000b"]'),
    JSON,
)
FILE = st.dictionaries(
    st.sampled_from(["x", "y", "inputs", "a\0b", "z" * 900]), ENTRY | JSON, max_size=3
)


@MANY
@given(entries=FILE, classes=CLASSES, data=st.binary(max_size=12))
def test_headers_of_safetensors(path: Path, entries: object, classes: object, data: bytes) -> None:
    assert isinstance(entries, dict)
    header = json.dumps({"__metadata__": {"classes": classes}, **entries}).encode()
    accepts_or_says(path, struct.pack("<Q", len(header)) + header + data)


@pytest.mark.parametrize("nested", ["[" * 200_000, "[" * 90_000 + "]" * 90_000, '{"a":' * 90_000])
def test_nesting_of_json_is_told(path: Path, nested: str) -> None:
    whole = {"dtype": "U8", "shape": [4, 1], "data_offsets": [0, 4]}
    inside = json.dumps({"__metadata__": {"classes": nested}, "x": whole}).encode()
    message = accepts_or_says(path, struct.pack("<Q", len(inside)) + inside + bytes(4))
    assert message is not None
    outside = f'{{"x": {nested}'.encode()
    assert accepts_or_says(path, struct.pack("<Q", len(outside)) + outside) is not None


# --- archives -----------------------------------------------------------------------------------


def zip_of_images() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", png(1))
        archive.writestr("b/1.png", png(2))
    return stream.getvalue()


def tar_of_images() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a/1.png", "b/ü.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            archive.addfile(info, io.BytesIO(png(1)))
    return stream.getvalue()


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8)


def edited(content: bytes, edits: list[tuple[float, int]]) -> bytes:
    changed = bytearray(content)
    for place, value in edits:
        changed[int(place * (len(changed) - 1))] = value
    return bytes(changed)


@MANY
@given(edits=EDITS, cut=st.floats(0, 1) | st.just(1.0))
def test_zip_archives(path: Path, edits: list[tuple[float, int]], cut: float) -> None:
    content = edited(zip_of_images(), edits)
    accepts_or_says(path, content[: int(cut * len(content))])


@MANY
@given(edits=EDITS, cut=st.floats(0, 1) | st.just(1.0), pack=st.sampled_from([gzip, bz2, lzma]))
def test_compressed_archives(
    path: Path, edits: list[tuple[float, int]], cut: float, pack: ModuleType
) -> None:
    content = edited(pack.compress(tar_of_images()), edits)
    accepts_or_says(path, content[: int(cut * len(content))])


def summed(block: bytes) -> bytes:
    """A tar header with the checksum that its bytes have."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


@MANY
@given(
    which=st.integers(0, 6),
    field=st.sampled_from([(0, 100), (124, 136), (148, 156), (156, 157), (257, 265), (345, 500)]),
    value=st.binary(min_size=1, max_size=155),
    sums=st.booleans(),
)
def test_tar_headers(
    path: Path, which: int, field: tuple[int, int], value: bytes, sums: bool
) -> None:
    content = tar_of_images()
    at, (start, stop) = 512 * which, field
    block = bytearray(content[at : at + 512])
    block[start:stop] = value[: stop - start].ljust(stop - start, b"\0")
    header = summed(bytes(block)) if sums else bytes(block)
    accepts_or_says(path, content[:at] + header + content[at + 512 :])


@MANY
@example(b".", b"path")  # a file whose name is the archive's own folder
@given(records=st.binary(max_size=600), keyed=st.sampled_from([b"path", b"size", b"GNU.sparse.x"]))
def test_pax_records(path: Path, records: bytes, keyed: bytes) -> None:
    def record(value: bytes) -> bytes:
        body = b" " + keyed + b"=" + value + b"\n"
        length = len(body) + 2
        return b"%d" % (length + (length > 99)) + body

    for data in (records, record(records)):
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(data)
        head = info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
        accepts_or_says(path, head + tar_of_images())
