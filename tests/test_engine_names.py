"""A job on a network whose names need care, and of which a part is frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import espalier
from search import engine
from search.files import FolderFiles
from search.records import Inputs
from search.spec import JobSpec

FIRST, NORM, SECOND, HEAD = "$a^$", "[/b]", "class", "<b>& ﬁ"


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module(FIRST, nn.Conv2d(1, 6, 3, bias=False))
        self.add_module(NORM, nn.BatchNorm2d(6))
        self.add_module(SECOND, nn.Conv2d(6, 8, 3))
        self.add_module(HEAD, nn.Linear(8, 4))
        self.register_buffer("a b", torch.full((8, 1, 1), 2.0), persistent=False)
        self.get_submodule(FIRST).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        first, norm, second, head = (self.get_submodule(n) for n in (FIRST, NORM, SECOND, HEAD))
        x = second(norm(first(x)).relu()) * self.get_buffer("a b")
        result: Tensor = head(x.relu().mean((2, 3)))
        return result


def test_a_job_from_the_package_to_the_report(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Named().eval()
    package = espalier.pack(network, torch.zeros(2, 1, 8, 8), tmp_path / "n.espalier")
    images = np.random.default_rng(0).normal(size=(300, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=images)
    spec = JobSpec.model_validate(
        {
            "network": "mine",
            "dataset": "mine",
            "budget": {"macs": "60%"},
            "strategy": {"name": "allocate", "trials": 4, "finalists": 1},
            "evaluation": {"metric": "agreement"},
            "finetune": {"epochs": 1},
            "rounding": {"multiple": 1},
        }
    )
    files = FolderFiles(tmp_path / "library")
    done = engine.run(Inputs(spec, files.put(package), files.put(tmp_path / "d.npz")), files)
    digests = {item.name: item.digest for item in done.artifacts}
    found = espalier.load(files.path(digests["network.espalier"]))
    assert list(found.state_dict()) == list(network.state_dict())
    assert [p.requires_grad for p in found.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]
    kept = found.get_submodule(FIRST).weight
    assert isinstance(kept, Tensor)
    assert len(kept) < 6
    assert "&lt;b&gt;&amp;" in files.path(digests["report.html"]).read_text()
