"""Our reader of tar files against `tarfile`, and what it refuses."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.evaluation import tar
from search.evaluation.errors import DatasetError, DatasetTooLarge
from search.evaluation.unpacking import Unpacked

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
CONTENTS = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=5)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def written(members: dict[str, bytes], format: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def read(data: bytes, *, limit: int = 2**24, most: int = 1000) -> dict[str, bytes]:
    stream = Unpacked(io.BytesIO(data), limit)
    return {m.name: m.read() for m in tar.members(stream, most) if m.regular}


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(members=CONTENTS, format=FORMATS, long=st.integers(0, 150))
def test_members_are_those_that_tarfile_wrote(
    members: dict[str, bytes], format: int, long: int
) -> None:
    members = {f"{'folder/' * (long // 7)}{name}": data for name, data in members.items()}
    try:
        data = written(members, format)
    except ValueError:  # ustar has no room for long names
        return
    assert read(data) == members


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_compressed_streams_may_be_several(pack: Callable[[bytes], bytes]) -> None:
    members = {f"{i}": bytes([i]) * 40_000 for i in range(10)}
    data = written(members, tarfile.GNU_FORMAT)
    assert read(pack(data[:70_000]) + pack(data[70_000:])) == members
    assert read(pack(data) + bytes(1024)) == members


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_what_ends_early_is_told(pack: Callable[[bytes], bytes]) -> None:
    data = pack(written({"a": bytes(range(256)) * 20}, tarfile.GNU_FORMAT))
    for length in (10, len(data) // 4):
        with pytest.raises((DatasetError, lzma.LZMAError, EOFError)):
            read(data[:length])


def test_members_that_are_not_read_are_passed_over() -> None:
    data = written({"a": bytes(3000), "b": b"12"}, tarfile.PAX_FORMAT)
    stream = Unpacked(io.BytesIO(gzip.compress(data)), 2**20)
    found = {m.name: m.read() for m in tar.members(stream, 10) if m.name == "b"}
    assert found == {"b": b"12"}


def test_a_small_file_does_not_unpack_without_end() -> None:
    bomb = gzip.compress(written({"a": bytes(2**22)}, tarfile.GNU_FORMAT))
    with pytest.raises(DatasetTooLarge, match="unpacks to more than 1048576"):
        read(bomb, limit=2**20)


def test_xz_may_not_ask_for_gigabytes() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**28}]
    packed = lzma.compress(written({"a": b"1"}, tarfile.GNU_FORMAT), filters=filters)
    with pytest.raises(lzma.LZMAError, match="Memory"):
        read(packed)


def test_headers_of_headers_are_short_and_few() -> None:
    """`tarfile` copies global headers for every member: their product was the work."""
    info = tarfile.TarInfo("a")
    head = info.create_pax_global_header({f"k{i}": "v" for i in range(20_000)})
    with pytest.raises(DatasetTooLarge, match="shorter names"):
        read(head + written({"a": b"1"}, tarfile.GNU_FORMAT))
    small = info.create_pax_global_header({"comment": "v"})
    assert read(small * 7 + written({"a": b"1"}, tarfile.GNU_FORMAT)) == {"a": b"1"}
    with pytest.raises(DatasetTooLarge, match="more than 8 headers"):
        read(small * 8 + written({"a": b"1"}, tarfile.GNU_FORMAT))


def test_members_are_counted_and_not_their_headers() -> None:
    """Python writes PAX headers for times with fractions, so for whatever it adds from a disk."""
    members = {f"ü{i}": b"1" for i in range(20)}
    data = written(members, tarfile.PAX_FORMAT)
    assert read(data, most=20) == members
    with pytest.raises(DatasetTooLarge, match="more than 19 members"):
        read(data, most=19)
