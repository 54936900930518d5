"""Mutated files: bytes flipped, cut, doubled and replaced in files that were sound.

Each is taken or refused; none is an error of the service, ends its process, or breaks a list.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.attack import datasets
from benchmarks.attack.processes import processes
from benchmarks.attack.target import HEALTHZ_S, Target
from benchmarks.demo import prepare_digits
from benchmarks.service import running

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


def _sent(target: Target, path: str, files: Iterable[bytes]) -> dict[str, Any]:
    """Upload them one after another; how often each status was the answer."""
    statuses: Counter[int] = Counter()
    with target.client() as client:

        def send() -> httpx.Response:
            for content in files:
                statuses[client.post(path, content=content).status_code] += 1
            return client.get(path)  # the list has to show whatever was taken

        answer = target.attack(path, send)
    held = answer.status == 200 and answer.healthz_s < HEALTHZ_S and max(statuses) < 500
    counts = {str(status): count for status, count in sorted(statuses.items())}
    return {"files": statuses.total(), "statuses": counts, **answer.to_json(), "held": held}


def attack(root: Path, seed: int, count: int) -> dict[str, Any]:
    """Upload `count` mutated packages and an eighth as many files of each kind of data."""
    source = random.Random(seed)  # noqa: S311  (a seed, no secret)
    package, _, _ = prepare_digits(root)
    members = members_of(package.read_bytes())
    found: dict[str, Any] = {}
    with running(root / "service") as service:
        target = Target(service)
        before = [process.pid for process in processes(service, "api")]
        packages = (hostile(members, source, turn) for turn in range(count))
        found["packages"] = _sent(target, "/v1/networks", packages)
        for kind, data in datasets.sound(source).items():
            files = (mutated(data, source) for _ in range(count // 8))
            found[kind] = _sent(target, "/v1/datasets", files)
        same = [process.pid for process in processes(service, "api")] == before
    held = same and all(part["held"] for part in found.values())
    return {"kinds": found, "api_survived": same, "held": held}
