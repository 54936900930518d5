"""What each ingredient of `allocate` is worth, and its whole curve beside other strategies.

    python -m benchmarks.allocate --networks cifar10_resnet20a_holdout --seeds 0 1 2

*Ablation*: the search at half the MACs with one ingredient off at a time, each plan then solved on
all calibration images unless that is what is off. *Curve*: one `allocate` search with its points,
and at the same budgets uniform plans, `sensitivity`, and the family of one NetAdapt search
(searches that know nothing at first: `benchmarks.learners`). No gradient step anywhere. The test
split is measured once for each network that is named.

Writes `benchmarks/results/allocate/NETWORK-SEED.json`. One thread; seconds are of its CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from benchmarks.comparison import spread
from benchmarks.record import RESULTS, described
from benchmarks.subjects import SUBJECTS, Subject
from espalier.format.build import load
from search.allocation import Allocator
from search.context import Problem
from search.cost import Budget
from search.evaluation.data import load_dataset
from search.evaluation.evaluator import Evaluated, Evaluator
from search.evaluation.leveling import level
from search.pruning import apply
from search.space import Kept, Plan
from search.spec import JobSpec
from search.strategies import create
from search.strategies.allocate import Allocate
from search.strategies.base import Outcome, Proposal
from search.strategies.fitting import uniform_plan
from search.strategy_specs import AllocateSpec, NetAdaptSpec, SensitivitySpec, StrategySpec

WORK = Path("var/benchmarks/allocate")
FOLDER = RESULTS / "allocate"
SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Budgets of the curve, of the original's MACs."""

Levels = tuple[tuple[float, ...], ...]
Figures = dict[str, Any]


class Bench:
    """One network, with the examples that one seed draws."""

    def __init__(self, subject: Subject, seed: int, calibration: int) -> None:
        package, data = subject.write(WORK / "inputs")
        network, dataset = load(package), load_dataset(data)
        manifest = network.meta["manifest"]
        self.problem = Problem(network.meta["espalier"])
        self.metric, self.seed = subject.metric, seed

        def evaluator(criterion: str) -> Evaluator:
            evaluation = {"calibration": calibration, "metric": subject.metric}
            fields = {"criterion": criterion, "evaluation": evaluation, "seed": seed}
            base = {"network": subject.name, "dataset": subject.name, "budget": {"macs": "50%"}}
            spec = JobSpec.model_validate(base | fields)
            return Evaluator(network, self.problem.space, dataset, manifest, spec)

        self.evaluator = evaluator("obs")
        self.by_norm = evaluator("l1")
        self.choices = self.problem.choices(self.evaluator.spec)
        self.full = self.problem.cost.full["macs"]

    def budget(self, share: float) -> Budget:
        return Budget({"macs": int(share * self.full)})

    def random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def kept(self, plan: Plan, evaluator: Evaluator | None = None) -> Kept:
        return (evaluator or self.evaluator).choose(plan, self.random())

    def levels(self, evaluator: Evaluator) -> Levels:
        found = [level(evaluator, g, c, self.random())[1] for g, c in enumerate(self.choices)]
        assert all(losses is not None for losses in found)
        return tuple(losses for losses in found if losses is not None)

    def play(
        self,
        spec: StrategySpec,
        share: float,
        *,
        levels: Levels | None = None,
        evaluator: Evaluator | None = None,
        in_parallel: bool = False,
    ) -> tuple[Any, dict[int, tuple[Proposal, Evaluated]]]:
        """A search to its end; the strategy, and its trials by number.

        Args:
            in_parallel: drafts are solved for layer by layer on the original's inputs.
        """
        evaluator = evaluator or self.evaluator
        score = evaluator.score(evaluator.baseline())
        assert score is not None
        strategy = create(
            spec,
            self.problem.cost,
            self.budget(share),
            self.choices,
            self.seed,
            baseline=score,
            levels=levels,
        )
        trials: dict[int, tuple[Proposal, Evaluated]] = {}
        while not strategy.done:
            for proposal in strategy.ask(1):
                within = None if proposal.parent is None else trials[proposal.parent][1].kept
                kept = evaluator.choose(proposal.plan, self.random(), None, within)
                solve = None if in_parallel and proposal.solve == "draft" else proposal.solve
                found = evaluator.evaluate(kept, solve=solve)
                trials[proposal.number] = proposal, found
                cost = self.problem.cost.of(proposal.plan)
                strategy.tell(
                    Outcome(proposal.number, proposal.plan, found.score, found.metrics, cost)
                )
        return strategy, trials

    def solved(self, kept: Kept, passes: int | None = None) -> GraphModule:
        """Cut, and solved on all calibration images."""
        if passes is None:
            found = self.evaluator.evaluate(kept, solve="full")
            return self.evaluator.network(kept, (kept, found.state))
        cut = apply(self.evaluator.original, self.problem.space, kept).eval()
        return self.evaluator.in_sequence(cut, kept, passes=passes).network

    def figures(self, kept: Kept, network: GraphModule) -> Figures:
        plan = tuple(map(len, kept))
        return {
            "macs": self.problem.cost.of(plan)["macs"] / self.full,
            "plan": list(plan),
            "holdout": self.evaluator.measure(network, "holdout"),
            "test": self.evaluator.measure(network, "test"),
        }


def ablation(bench: Bench) -> Iterator[tuple[str, Figures]]:
    """The search at half the MACs, with one ingredient off at a time."""
    once = AllocateSpec(trials=1, finalists=1)
    searched = AllocateSpec()
    began = time.process_time()
    levels = bench.levels(bench.evaluator)
    measured = time.process_time() - began

    def best(spec: AllocateSpec = searched, **options: Any) -> Kept:
        given = {"levels": levels, **options}
        strategy, trials = bench.play(spec, 0.5, **given)
        kept: Kept = trials[strategy.best][1].kept
        return kept

    winner = best()
    seconds = {"seconds": round(time.process_time() - began, 1), "levels_s": round(measured, 1)}
    yield "allocate", bench.figures(winner, bench.solved(winner)) | seconds
    first = best(once)
    yield "no search: the first weights", bench.figures(first, bench.solved(first))
    kept = bench.kept(_unweighted(bench, levels))
    yield "no weights: measured losses as they are", bench.figures(kept, bench.solved(kept))
    errors = tuple(_errors(bench, group) for group in range(len(bench.choices)))
    kept = best(levels=errors)
    yield "errors for losses: nothing measured", bench.figures(kept, bench.solved(kept))
    kept = best(in_parallel=True)
    yield "drafts solved in parallel", bench.figures(kept, bench.solved(kept))
    by_norm = best(evaluator=bench.by_norm, levels=bench.levels(bench.by_norm))
    yield "channels by L1", bench.figures(by_norm, bench.solved(by_norm))
    yield "no passes for activations", bench.figures(winner, bench.solved(winner, 0))
    alone = bench.evaluator.network(winner)
    yield "solved in parallel, recalibrated", bench.figures(winner, alone)
    plan = uniform_plan(bench.problem.cost, bench.budget(0.5), bench.choices)
    kept = bench.kept(plan)
    yield "uniform plan", bench.figures(kept, bench.solved(kept))
    kept = bench.kept(plan, bench.by_norm)
    yield "uniform plan, channels by L1", bench.figures(kept, bench.solved(kept))
    yield "uniform plan, L1, solved in parallel", bench.figures(kept, bench.evaluator.network(kept))


def _unweighted(bench: Bench, levels: Levels) -> Plan:
    """Exact for the losses as they were measured."""
    losses = [
        np.array([loss[width - 1] for width in options]) + 1e-12 * np.arange(len(options), 0, -1)
        for loss, options in zip(levels, bench.choices, strict=True)
    ]
    return Allocator(bench.problem.cost, bench.budget(0.5), bench.choices).solve(losses).plan


def _errors(bench: Bench, group: int) -> tuple[float, ...]:
    removal = bench.evaluator.removal(group)
    if removal is None:
        raise SystemExit(f"group {group} is read by no layer that can be solved for")
    return removal.errors[::-1]


def curve(bench: Bench) -> Iterator[tuple[str, Figures]]:
    """Networks at `SHARES` of the MACs."""
    began = time.process_time()
    count = round((1 - min(SHARES)) / 0.1) - 1
    spec = AllocateSpec(points=count)
    strategy, trials = bench.play(spec, min(SHARES), levels=bench.levels(bench.evaluator))
    assert isinstance(strategy, Allocate)
    seconds = round(time.process_time() - began, 1)
    for number in (strategy.best, *strategy.points):
        assert number is not None
        kept, state = trials[number][1].kept, trials[number][1].state
        network = bench.evaluator.network(kept, (kept, state))
        yield "allocate", bench.figures(kept, network) | {"seconds": seconds}
    for share in SHARES:
        plan = uniform_plan(bench.problem.cost, bench.budget(share), bench.choices)
        kept = bench.kept(plan)
        yield "uniform, obs, in sequence", bench.figures(kept, bench.solved(kept))
        kept = bench.kept(plan, bench.by_norm)
        yield "uniform, L1, parallel", bench.figures(kept, bench.by_norm.network(kept))
        _, found = bench.play(SensitivitySpec(), share, evaluator=bench.by_norm)
        kept = found[max(found)][1].kept  # the one that follows from the curves
        yield "sensitivity, L1, parallel", bench.figures(kept, bench.by_norm.network(kept))
    adapt = NetAdaptSpec(first_step=0.06, decay=0.98, tuning_steps=0)
    netadapt, found = bench.play(adapt, min(SHARES), evaluator=bench.by_norm)
    costs = {
        number: bench.problem.cost.of(found[number][0].plan)["macs"] / bench.full
        for number in netadapt.family
    }
    for share in SHARES:
        within = [number for number, cost in costs.items() if cost <= share]
        if within:
            kept = found[within[0]][1].kept
            yield "netadapt, L1, parallel", bench.figures(kept, bench.by_norm.network(kept))


PARTS: dict[str, Callable[[Bench], Iterator[tuple[str, Figures]]]] = {
    "ablation": ablation,
    "curve": curve,
}


def recorded() -> dict[str, list[Figures]]:
    """What there is, by network: one entry a seed."""
    found: dict[str, list[Figures]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        figures = json.loads(path.read_text())
        found.setdefault(figures["network"], []).append(figures)
    return found


def worth() -> tuple[list[str], list[list[str]], list[Figures]]:
    """The ablation's table: head, rows, and the records that it is made of."""
    head = ["network, ingredient", "seeds", "test top-1, no FT", "hold-out divergence"]
    rows, records = [], []
    for network, runs in recorded().items():
        runs = [run for run in runs if run.get("ablation")]
        records += runs
        if runs:
            top1 = spread([100 * run["original"]["test"]["top1"] for run in runs])
            rows.append([f"{network}, original", str(len(runs)), top1, ""])
        for name in dict.fromkeys(entry["name"] for run in runs for entry in run["ablation"]):
            entries = [e for run in runs for e in run["ablation"] if e["name"] == name]
            rows.append(
                [
                    f"{network}, {name}",
                    str(len(entries)),
                    spread([100 * entry["test"]["top1"] for entry in entries]),
                    spread([entry["holdout"]["kl"] for entry in entries], 4),
                ]
            )
    return head, rows, records


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--calibration", type=int, default=1024)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.networks:
        for seed in options.seeds:
            path = FOLDER / f"{name}-{seed}.json"
            figures = json.loads(path.read_text()) if path.exists() else {}
            bench = Bench(SUBJECTS[name], seed, options.calibration)
            evaluator = bench.evaluator
            figures |= described("benchmarks.allocate", {"network": name, "seed": seed})
            figures["original"] = {
                split: evaluator.measure(evaluator.original, split) for split in ("holdout", "test")
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            for part in options.parts:
                figures[part] = []
                for label, found in PARTS[part](bench):
                    figures[part].append({"name": label, **found})
                    shown = {s: round(found[s][m], 4) for s, m in (("test", "top1"),)}
                    print(name, seed, label, f"{found['macs']:.4f}", shown, flush=True)
                    path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
