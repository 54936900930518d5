"""One search and one fine-tuning in this process, each trial written down as soon as it is known.

The journal of trials lies in a folder of its own. A search that is killed goes on where it was:
the strategy is played through again, and only trials that are not in the journal are evaluated.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.record import environment
from search import engine
from search.context import context_of
from search.evaluation.metrics import finite
from search.evaluation.recalibrate import tracked_norms
from search.files import FolderFiles
from search.records import Inputs, Prepared, TrialResult
from search.spec import JobSpec
from search.steps import tuner_of
from search.strategies.base import Outcome, Proposal


@dataclass
class Clock:
    """Seconds of this process's own computing, and of the wall."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.monotonic()
        try:
            yield
        finally:
            self.cpu_s += time.process_time() - cpu
            self.wall_s += time.monotonic() - wall

    def rounded(self) -> dict[str, float]:
        return {"cpu_s": round(self.cpu_s, 2), "wall_s": round(self.wall_s, 2)}


@dataclass
class Found:
    """What a search gave.

    Attributes:
        trials: every proposal with its outcome, in order.
        clock: of proposing and evaluating, those before an interruption included.
    """

    winner: TrialResult
    trials: list[tuple[Proposal, Outcome]]
    clock: Clock


class Compression:
    """The steps of one job on files of one network and dataset.

    Args:
        folder: of its own; holds the journal and tuned weights until `clear`.
        seconds: see `search.steps.prepare`.

    Raises:
        RuntimeError: the folder's journal is of another search.
    """

    def __init__(
        self,
        spec: JobSpec,
        package: Path,
        data: Path,
        folder: Path,
        seconds: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.files = FolderFiles(folder / "files")
        self.inputs = Inputs(spec, self.files.put(package), self.files.put(data))
        self._journal = folder / "trials.jsonl"
        self._known = self._read()
        self.prepared: Prepared = engine.prepare(self.inputs, self.files, seconds=seconds)

    def _read(self) -> dict[int, dict[str, Any]]:
        """Trials by their number; a last line that was cut short is dropped."""
        header = {"inputs": self.inputs.to_json(), "commit": environment()["commit"]}
        lines = self._journal.read_text().split("\n")[:-1] if self._journal.exists() else []
        if lines and json.loads(lines[0]) != header:
            lines = []
        if not lines:
            self._journal.write_text(json.dumps(header) + "\n")
        else:
            self._journal.write_text("\n".join(lines) + "\n")
        return {entry["number"]: entry for entry in map(json.loads, lines[1:])}

    def evaluate(self, proposal: Proposal, parent: TrialResult | None) -> tuple[TrialResult, Clock]:
        """A trial's result, from the journal if it is there."""
        if proposal.number in self._known:
            entry = self._known[proposal.number]
            result = TrialResult.from_json(entry["result"])
            if result.outcome.plan != tuple(proposal.plan):
                raise RuntimeError(f"{self._journal} is of another search: delete {self.folder}")
            return result, Clock(entry["cpu_s"], entry["wall_s"])
        clock = Clock()
        with clock.running():
            result = engine.evaluate(self.inputs, self.prepared, proposal, parent, self.files)
        entry = {"number": proposal.number, **clock.rounded(), "result": result.to_json()}
        with self._journal.open("a") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
        return result, clock

    def search(self) -> Found:
        """The whole search, one trial at a time.

        Raises:
            SearchFailed: no trial within the budget succeeded.
        """
        clock = Clock()
        state: dict[str, Any] | None = None
        outcomes: list[Outcome] = []
        results: dict[int, TrialResult] = {}
        trials: list[tuple[Proposal, Outcome]] = []
        while True:
            with clock.running():
                advanced = engine.advance(self.inputs, self.prepared, state, outcomes, 1)
            state = advanced.state
            if advanced.done:
                break
            (proposal,) = advanced.proposals
            parent = None if proposal.parent is None else results[proposal.parent]
            result, took = self.evaluate(proposal, parent)
            clock = Clock(clock.cpu_s + took.cpu_s, clock.wall_s + took.wall_s)
            results[proposal.number] = result
            trials.append((proposal, result.outcome))
            outcomes = [result.outcome]
        if advanced.best is None:
            raise engine.SearchFailed(f"none of {len(trials)} trials within the budget succeeded")
        return Found(results[advanced.best], trials, clock)

    def finish(self, winner: TrialResult) -> dict[str, Any]:
        """Fine-tune a trial, and measure it before and after, on the test split once each.

        Returns:
            `holdout` and `test`: metrics of the network `untuned` and `final` (the latter only if
            there is any fine-tuning); `finetune`: its seconds.
        """
        context, clock = context_of(self.inputs, self.files), Clock()
        networks = {"untuned": tuner_of(context, winner, None, self.files).network()}
        if self.inputs.spec.finetune.epochs:
            with clock.running():
                tuned = engine.tune(self.inputs, self.prepared, winner, None, self.files)
            final = tuner_of(context, winner, tuned.checkpoint, self.files).network()
            networks["final"] = final
        figures: dict[str, Any] = {"finetune": clock.rounded()}
        for split in ("holdout", "test"):
            figures[split] = {
                name: finite(context.evaluator.measure(network, split))
                for name, network in networks.items()
            }
        return figures

    def original(self) -> dict[str, Any]:
        """Metrics of the original on the hold-out and the test split, and its cost."""
        evaluator = context_of(self.inputs, self.files).evaluator
        return {
            "holdout": self.prepared.baseline,
            "test": finite(evaluator.measure(evaluator.original, "test")),
            "cost": self.prepared.cost,
        }

    def sizes(self) -> tuple[int, int, bool]:
        """Images for calibration and of the hold-out, and whether statistics are recalibrated."""
        evaluator = context_of(self.inputs, self.files).evaluator
        splits = evaluator.splits
        norms = bool(tracked_norms(evaluator.original))
        return len(splits.calibration), len(splits.holdout), norms

    def clear(self) -> None:
        """Delete the folder: what is worth keeping is written elsewhere."""
        shutil.rmtree(self.folder)
