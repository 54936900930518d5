"""Packages taken apart, mutated, and put together again."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile

MEMBERS = ("graph.json", "weights.safetensors", "manifest.json")


def mutated(data: bytes, source: random.Random) -> bytes:
    """The data with one to four changes."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed))
        kind = source.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del changed[at : at + source.randint(1, 40)]
        elif kind == 2:
            start = source.randrange(len(data))
            changed[at:at] = data[start : start + source.randint(1, 40)]
        else:
            changed[at : at + 1] = source.choice(
                [b"0", b"-1", b"null", b"[]", b'"', b"{", b"9" * 12]
            )
        if not changed:
            return b""
    return bytes(changed)


def members_of(package: bytes) -> dict[str, bytes]:
    """The members of a package, by name."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: archive.read(name) for name in MEMBERS}


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of the members; a package's are not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            info.external_attr = 0o100644 << 16
            target.writestr(info, data)
    return buffer.getvalue()


def sealed(members: dict[str, bytes]) -> dict[str, bytes]:
    """With the manifest's digests made right again, so that deeper checks are reached."""
    manifest = json.loads(members["manifest.json"])
    for name in MEMBERS[:2]:
        manifest["digests"][name] = hashlib.sha256(members[name]).hexdigest()
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def hostile(members: dict[str, bytes], source: random.Random, turn: int) -> bytes:
    """A package with mutations in the whole file, or in one member under right digests."""
    if turn % 4 == 0:
        return mutated(archive(members), source)
    name = MEMBERS[turn % 4 - 1]
    changed = {**members, name: mutated(members[name], source)}
    return archive(changed if name == "manifest.json" else sealed(changed))
