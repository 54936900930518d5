"""What the steps of one job share, loaded once a process: network, costs, data, evaluator."""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch
from torch.fx import GraphModule

from espalier.format.build import load
from espalier.format.codec import graph_from_json
from espalier.format.ir import Graph
from espalier.format.manifest import Manifest
from espalier.format.package import read_package
from search.cost import Budget, CostModel, choices_of
from search.cost.staircase import Probe
from search.evaluation.data import Dataset, load_dataset
from search.evaluation.evaluator import Evaluator
from search.evaluation.guard import require_sound
from search.files import Files
from search.graph import space_of
from search.records import Inputs
from search.space import SearchSpace
from search.spec import JobSpec


class Problem:
    """A network's channel groups and what their plans cost; needs no weights and no data.

    Args:
        graph: of the original network.
    """

    def __init__(self, graph: Graph) -> None:
        self.space: SearchSpace = space_of(graph)
        self.cost = CostModel(self.space)

    @cached_property
    def probe(self) -> Probe:
        """What to time of the network, to learn which widths a target likes."""
        return Probe(self.space)

    def choices(self, spec: JobSpec) -> tuple[tuple[int, ...], ...]:
        """Allowed widths per group, as the rounding asks for them."""
        return choices_of(self.space, spec.rounding, spec.version)

    def budget(self, spec: JobSpec) -> Budget:
        """The limits in absolute numbers."""
        return Budget.resolve(spec.budget, self.cost.full)


@lru_cache(maxsize=4)
def problem_of(graph: str) -> Problem:
    """The problem of a graph in its JSON form; the process keeps the last few."""
    return Problem(graph_from_json(graph))


class Context:
    """All of a job that is loaded from files; each part at its first use.

    Args:
        inputs: the job.
        files: asked for the network and the data when they are read, since a local copy may go
            in the meantime.
    """

    def __init__(self, inputs: Inputs, files: Files) -> None:
        self.inputs = inputs
        self._files = files

    @cached_property
    def problem(self) -> Problem:
        """From the package's header alone."""
        return Problem(read_package(self._files.path(self.inputs.network)).graph)

    @cached_property
    def network(self) -> GraphModule:
        """The original, in eval mode."""
        return load(self._files.path(self.inputs.network))

    @property
    def manifest(self) -> Manifest:
        manifest: Manifest = self.network.meta["manifest"]
        return manifest

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self._files.path(self.inputs.dataset))

    @property
    def device(self) -> str:
        """The accelerator if there is one."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    def require_training(self) -> None:
        """See that gradients are right where they are computed.

        Raises:
            UnsoundTorch: they are not.
        """
        if self.device == "cpu":
            require_sound()

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(
            self.network,
            self.problem.space,
            self.dataset,
            self.manifest,
            self.inputs.spec,
            self.device,
        )


_last: Context | None = None


def context_of(inputs: Inputs, files: Files) -> Context:
    """The job's context; the process keeps the last one, since a worker's steps come in runs."""
    global _last
    if _last is None or _last.inputs != inputs:
        _last = None  # the old network and data go before the new ones come
        _last = Context(inputs, files)
    return _last


def forget() -> None:
    """Let go of what the process keeps."""
    global _last
    _last = None
    problem_of.cache_clear()
