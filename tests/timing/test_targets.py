from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from espalier import targets
from espalier.targets import Device, Target, fingerprint, processor

DEVICE = Device("host", "cpu", "A processor", "0123456789ab")
X86 = """processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 26
model		: 2
model name	: AMD EPYC
cpu MHz		: {mhz}
flags		: fpu {flags} tsc

processor	: 1
model name	: of another core
"""


def test_a_target_is_the_same_after_json() -> None:
    target = Target("openvino", "2026.4.1", DEVICE, threads=4, batch=32)
    assert Target.from_json(target.to_json()) == target
    assert Device.from_json(DEVICE.to_json()) == DEVICE
    with pytest.raises(ValidationError):
        Target.from_json(target.to_json() | {"runtime": "abacus"})


def test_the_key_of_a_target_is_of_the_model_not_of_the_host() -> None:
    target = Target("onnxruntime", "1.31.1", DEVICE)
    twin = Device("another host", "cpu", DEVICE.name, DEVICE.fingerprint)
    assert Target("onnxruntime", "1.31.1", twin).key == target.key
    others = [
        Target("onnxruntime", "1.31.2", DEVICE),
        Target("openvino", "1.31.1", DEVICE),
        Target("onnxruntime", "1.31.1", DEVICE, threads=2),
        Target("onnxruntime", "1.31.1", DEVICE, batch=2),
        Target("onnxruntime", "1.31.1", Device("host", "cpu", "A processor", "another")),
    ]
    assert len({target.key, *(other.key for other in others)}) == len(others) + 1


def _seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Device:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(targets, "_CPUINFO", tmp_path / "cpuinfo")
    return processor.__wrapped__()


def test_a_processor_is_known_by_what_decides_its_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = _seen(monkeypatch, tmp_path, X86.format(mhz=2596, flags="sse2 avx2"))
    assert plain.name == "AMD EPYC"
    faster_now = _seen(monkeypatch, tmp_path, X86.format(mhz=3100, flags="avx2 sse2 smap"))
    assert faster_now == plain
    wider = _seen(monkeypatch, tmp_path, X86.format(mhz=2596, flags="sse2 avx2 avx512f"))
    assert wider.fingerprint != plain.fingerprint


def test_a_machine_that_says_nothing_of_its_processor_has_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(targets, "_CPUINFO", tmp_path / "gone")
    found = processor.__wrapped__()
    assert found.name
    assert found.kind == "cpu"


def test_fingerprints_are_short_and_depend_on_no_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len(fingerprint({})) == 12


@pytest.mark.parametrize("module", ["espalier.targets", "espalier.timing", "espalier.runtimes"])
def test_no_runtime_is_imported_before_it_is_used(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "sys.exit(bool({'torch', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
