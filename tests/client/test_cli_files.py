"""The command line on files: packing, describing and listing them; and which version it is."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from torch import nn

from espalier.client import Client
from espalier.format.lift import pack
from tests.api.fixtures import Files, Running
from tests.client.commands import Run, refused


def test_the_version_is_that_of_the_package_and_of_the_service(run: Run, running: Running) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, version("espalier"))
    document = httpx.get(f"{running.url}/openapi.json").json()
    assert document["info"]["version"] == result.stdout.strip()


def test_describe_of_a_file_needs_no_service(
    run: Run, running: Running, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(running.url) as client:
        network, dataset = (
            client.upload_network(files.package),
            client.upload_dataset(files.dataset),
        )
    told = {view["id"]: run("describe", view["id"]).stdout for view in (network, dataset)}
    (tmp_path / "search.py").write_text("raise SystemExit('this is not ours')")
    monkeypatch.chdir(tmp_path)  # a user's folder, with modules of its own
    monkeypatch.setenv("ESPALIER_URL", "http://127.0.0.1:9")
    for path, view in ((files.package, network), (files.dataset, dataset)):
        found = json.loads(run("describe", path, "--json").stdout)
        assert found == {name: view[name] for name in ("name", "description", "size_bytes")}
        shown = run("describe", path).stdout
        assert shown == told[view["id"]].replace(f"  {view['id']}", "")
    wrong = tmp_path / "wrong.espalier"
    wrong.write_bytes(b"not a package" * 100)
    refused(run("describe", wrong), 1, "wrong.espalier", "no zip file", "espalier.pack")
    refused(run("describe", network["id"]), 1, "no answer from http://127.0.0.1:9")


def test_describe_goes_by_what_is_in_a_file(run: Run, files: Files, tmp_path: Path) -> None:
    """A package and data, each under names that do not tell."""
    png = io.BytesIO()
    Image.new("L", (2, 2)).save(png, "PNG")
    packed = tmp_path / "photos.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png.getvalue())
            archive.addfile(member, io.BytesIO(png.getvalue()))
    for path, words in ((packed, "labels: 0 to 1"), (files.dataset, "examples: "),
                        (files.package, "channel group")):  # fmt: skip
        for name in (path.name, "file"):
            same = shutil.copy(path, tmp_path / f"same-{name}")
            assert words in run("describe", same).stdout, same


def test_describe_shows_what_can_be_pruned_and_what_not(run: Run, files: Files) -> None:
    result = run("describe", files.package)
    assert result.exit_code == 0, result.output
    for words in ("first", "second", "78.4 k", "classifier", "the network's output"):
        assert words in result.stdout
    view = json.loads(run("describe", files.package, "--json").stdout)
    assert view["description"]["cost"]["macs"] == 78384


def test_describe_says_that_a_network_yields_probabilities(run: Run, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(dim=1))
    path = pack(network.eval(), torch.zeros(2, 6), tmp_path / "ended.espalier")
    result = run("describe", path)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("outputs: ")]
    assert line.endswith("3 float32: probabilities (softmax); jobs go by what feeds it")


def test_what_was_uploaded_is_listed_and_described(
    run: Run, running: Running, files: Files
) -> None:
    with Client(running.url) as client:
        network = client.upload_network(files.package)["id"]
        dataset = client.upload_dataset(files.dataset)["id"]
    (line,) = [line for line in run("networks").stdout.splitlines() if network in line]
    for words in ("tiny ", "78.4 k", "ago"):
        assert words in line
    (line,) = [line for line in run("datasets").stdout.splitlines() if dataset in line]
    for words in ("tiny.npz", "8x8 uint8", "200 training", "ago"):
        assert words in line
    assert dataset in [view["id"] for view in json.loads(run("datasets", "--json").stdout)]
    shown = run("describe", dataset).stdout
    for words in ("8x8 uint8", "200 training", "labels: 0 to 2"):
        assert words in shown


_SOURCE = """
import torch

def trained():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), \\
        torch.zeros(1, 4)

def no_example():
    return torch.nn.Linear(4, 2)

def broken():
    raise ValueError("no weights here")

class Squeezed(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze()  # the line

def squeezed():
    return Squeezed(4, 2), torch.zeros(1, 4)
"""


def test_pack_runs_the_users_own_function(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "packed_by_test.py"
    source.write_text(_SOURCE)
    target = tmp_path / "net.espalier"
    options: list[Any] = [
        "--classes",
        "cat, dog",
        "--scale",
        "0.5",
        "--mean",
        "1",
        "--name",
        "pets",
    ]
    result = run("pack", f"{source}:squeezed", "-o", target)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "warning: operator aten.squeeze.default" in said
    assert "# the line" in said
    described = " ".join(run("describe", target).stdout.split())
    assert "note: operator aten.squeeze.default" in described
    assert "# the line" not in described
    result = run("pack", f"{source}:trained", "-o", target, *options)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
    view = json.loads(run("describe", target, "--json").stdout)
    assert view["description"]["classes"] == ["cat", "dog"]
    assert view["description"]["cost"]["macs"] == 4 * 8 + 8 * 2
    refused(run("pack", f"{source}:broken", "-o", target), 1, "ValueError", ":12", "no weights")
    refused(run("pack", f"{source}:no_example", "-o", target), 2, "(network, example)")
    refused(run("pack", f"{source}:missing", "-o", target), 2, "it has trained, no_example")
    refused(run("pack", f"{tmp_path}/none.py:f", "-o", target), 2, "none.py")
    pack = ("pack", f"{source}:trained", "-o", tmp_path / "none.espalier")
    refused(run(*pack, "--std", "0"), 1, "preprocessing: ", "std must be positive")
    refused(run(*pack, "--scale", "nan"), 1, "preprocessing: scale: ", "finite")
    refused(run(*pack, "--name", "n" * 300), 1, "name: ", "at most 200")
    assert not (tmp_path / "none.espalier").exists()
    refused(run("pack", source, "-o", target), 2, "FILE.py:function")
    refused(run("pack", f"{source}:trained", "-o", tmp_path / "no" / "x"), 2, "no folder")
