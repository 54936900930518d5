"""All search methods on one evaluator, with equal numbers of evaluations and one fine-tuning.

    python -m benchmarks.methods --networks cifar10_resnet20a_holdout --seeds 0 1 2

For each network, seed, variant of the evaluator and method: a search for half the MACs, then the
same fine-tuning for every winner, then the test split, once. Afterwards, for the first of the
networks, random plans are scored and fine-tuned, to see what a score says of the accuracy to come.

Every finished run is a line in `benchmarks/results/methods/NETWORK.jsonl`; what is there is not run
again. A search that was killed goes on after its last trial (`var/benchmarks/methods`), so that the
same command can be given until it has nothing to do. Several processes may run at once on different
networks. One thread each.

How long it takes on one core (AMD EPYC, 2 cores, without reconstruction; an evaluation is 1,000
images of hold-out and 512 of calibration):

    network                           an evaluation   a search   fine-tuning   test
    cifar10_resnet20a(_holdout)               2.3 s      5 min          60 s   40 s (_holdout)
    cifar10_resnet56a                         6.7 s     33 min         150 s   15 s
    imagenet_mobilenet_v1_0.25_128            0.4 s      1 min             -    1 s

So one seed of the seven methods takes about 45 minutes for a ResNet-20, four hours for ResNet-56
and ten minutes for MobileNet; 24 random plans in two variants take an hour and a half.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.allotment import METHODS, LeftOut, strategy_of
from benchmarks.compression import Compression, Found
from benchmarks.record import RESULTS, described
from benchmarks.subjects import SUBJECTS, Subject
from espalier.format.package import read_package
from search.context import Problem
from search.evaluation.leveling import EXAMPLES
from search.levels import anchors
from search.spec import EvaluationSpec, JobSpec
from search.strategies.base import Problem as StrategyProblem
from search.strategies.base import Proposal
from search.strategies.random import random_plan

WORK = Path("var/benchmarks/methods")
VARIANTS = ("none", "parallel", "sequential")
CONTROL = ("uniform", "none")  # stands beside everything
PLAN = "plan"  # the "method" of a random plan in the correlation


class Store:
    """A file of finished runs, one a line, each found by what it is a run of.

    Args:
        path: made with the first line.
    """

    KEY = ("method", "variant", "seed", "number")

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._jobs = {self._key(record): record["job"] for record in map(json.loads, lines)}

    def _key(self, record: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in self.KEY)

    def has(self, job: dict[str, Any], **key: Any) -> bool:
        """Whether the run is there.

        Raises:
            SystemExit: it is, but with other settings.
        """
        recorded = self._jobs.get(self._key(key))
        if recorded is not None and recorded != job:
            raise SystemExit(f"{self._path} has {key} with other settings: name another --out")
        return recorded is not None

    def add(self, figures: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(described("benchmarks.methods", figures)) + "\n")
        self._jobs[self._key(figures)] = figures["job"]


class Runs:
    """The runs on one network."""

    def __init__(self, subject: Subject, options: argparse.Namespace) -> None:
        self.subject = subject
        self.options = options
        self.package, self.data = subject.write(WORK / "inputs")
        self.problem = Problem(read_package(self.package).graph)

    def store(self, part: str = "") -> Store:
        return Store(Path(self.options.out) / f"{self.subject.name}{part}.jsonl")

    def spec(self, variant: str, seed: int) -> JobSpec:
        """The job of every method, but for the strategy.

        Raises:
            LeftOut: the evaluator does not have the variant.
        """
        options, subject = self.options, self.subject
        evaluation: dict[str, Any] = {
            "metric": options.metric or subject.metric,
            "holdout": options.holdout,
            "calibration": options.calibration,
        }
        if "reconstruction" in EvaluationSpec.model_fields:
            evaluation["reconstruction"] = variant
        elif variant != "none":
            raise LeftOut(f"the evaluator has no reconstruction {variant!r}")
        epochs = subject.epochs if options.epochs is None else options.epochs
        fields = {
            "network": subject.name,
            "dataset": subject.name,
            "budget": {"macs": options.budget},
            "strategy": {"name": "uniform"},
            "evaluation": evaluation,
            "finetune": {
                "epochs": epochs,
                "learning_rate": 0.02,
                "batch_size": 64,
                "augment": subject.augment,
            },
            "rounding": {"multiple": 1},
            "seed": seed,
        }
        return JobSpec.model_validate(fields)

    def compression(self, spec: JobSpec, name: str) -> Compression:
        return Compression(spec, self.package, self.data, WORK / f"{self.subject.name}-{name}")

    def original(self) -> None:
        """What the networks are compared with."""
        spec, key = self.spec("none", 0), {"method": "original", "variant": "none", "seed": 0}
        store, job = self.store(), job_of(spec)
        if not store.has(job, **key):
            run = self.compression(spec, "original")
            store.add({"network": self.subject.name, **key, "job": job, **run.original()})
            run.clear()

    def method(self, method: str, variant: str, seed: int) -> None:
        """One search, its winner's fine-tuning and test."""
        spec = self.spec(variant, seed)
        evaluations = self.options.evaluations or self.subject.evaluations
        strategy = strategy_of(method, self.problem, spec, evaluations)
        # Validated anew: the default of the criterion follows from the strategy.
        fields = spec.model_dump(exclude={"criterion"}) | {"strategy": strategy}
        spec = JobSpec.model_validate(fields)
        store, job, key = self.store(), job_of(spec), _key(method, variant, seed)
        if store.has(job, **key):
            return
        run = self.compression(spec, f"{method}-{variant}-{seed}")
        found = run.search()
        figures = {"network": self.subject.name, **key, "job": job}
        figures |= _facts(run, found, spec) | run.finish(found.winner)
        store.add(figures)
        run.clear()
        self._say(figures)

    def plans(self, variant: str) -> None:
        """Random plans, each scored, fine-tuned and tested: the material of the correlation."""
        spec = self.spec(variant, 0)
        store, job = self.store("-plans"), job_of(spec)
        numbers = range(self.options.plans)
        missing = [n for n in numbers if not store.has(job, **_key(PLAN, variant, 0), number=n)]
        if not missing:
            return
        run = self.compression(spec, f"{PLAN}-{variant}")
        problem = StrategyProblem(
            self.problem.cost,
            self.problem.budget(spec),
            self.problem.choices(spec),
            spec.seed,
            run.prepared.score,
        )
        for number in missing:
            proposal = Proposal(number, random_plan(problem, number))
            result, _ = run.evaluate(proposal, None)
            figures = {"network": self.subject.name, **_key(PLAN, variant, 0), "number": number}
            figures |= {"job": job, "plan": list(proposal.plan), **run.finish(result)}
            store.add(figures)
            self._say(figures)
        run.clear()

    def _say(self, figures: dict[str, Any]) -> None:
        accuracy = {name: round(metrics["top1"], 4) for name, metrics in figures["test"].items()}
        names = ("network", "method", "variant", "seed", "number", "evaluations")
        print(*(figures[name] for name in names if name in figures), accuracy, flush=True)


def _key(method: str, variant: str, seed: int) -> dict[str, Any]:
    return {"method": method, "variant": variant, "seed": seed}


def job_of(spec: JobSpec) -> dict[str, Any]:
    """What differs from the defaults; records without a version are of the first.

    All widths are allowed, as they were by default when the first records were made.
    """
    strategy = spec.strategy.model_dump(mode="json", exclude_defaults=True)
    version = {"version": spec.version} if spec.version > 1 else {}
    fields = spec.model_dump(mode="json", exclude_defaults=True, exclude={"version", "rounding"})
    return {**fields, "strategy": strategy, **version}


def _facts(run: Compression, found: Found, spec: JobSpec) -> dict[str, Any]:
    """What the search found and what it took.

    `images` is what a plain evaluator puts through a network: for every plan that was not scored
    before the hold-out, the calibration images for each use of them (batch-norm statistics,
    sequential reconstruction; parallel reconstruction reads them once a search), and the batches
    of its tuning. A trial of `allocate` counts its own: those of the hold-out at each anchor, or
    the calibration images that it is solved on and the hold-out. `trials` has, one by one, the
    score and whether the plan was within the budget.
    """
    calibration, holdout, norms = run.sizes()
    groups = Problem(read_package(run.files.path(run.inputs.network)).graph).choices(spec)
    asked = 0  # by trials of levels and of drafts
    plain = set()
    for proposal, _ in found.trials:
        if proposal.levels_of is not None:
            asked += EXAMPLES * len(anchors(groups[proposal.levels_of]))
        elif proposal.solve is not None:
            asked += holdout + calibration // (4 if proposal.solve == "draft" else 1)
        elif not proposal.tuning_steps:
            plain.add(proposal.plan)
    tuned = [proposal for proposal, _ in found.trials if proposal.tuning_steps]
    steps = sum(proposal.tuning_steps for proposal in tuned)
    variant = getattr(spec.evaluation, "reconstruction", "none")
    uses = norms + (variant == "sequential")
    scored = (len(plain) + len(tuned)) * (holdout + uses * calibration)
    scored += calibration * (variant == "parallel") + asked
    limits, winner = run.prepared.limits, found.winner.outcome
    return {
        "plan": list(winner.plan),
        "cost": dict(winner.cost),
        "evaluations": len(found.trials),
        "different": len({proposal.plan for proposal, _ in found.trials}),
        "images": scored + steps * spec.evaluation.batch_size,
        "search": found.clock.rounded(),
        "trials": [
            [outcome.score, all(outcome.cost[name] <= limits[name] for name in limits)]
            for _, outcome in found.trials
        ],
    }


def _wanted(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Methods with their variants, the control first."""
    pairs = [(method, variant) for variant in options.variants for method in options.methods]
    if pairs and CONTROL not in pairs:
        yield CONTROL
    yield from pairs


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["parallel"])
    parser.add_argument("--evaluations", type=int, help="of every search; else by the network")
    parser.add_argument("--epochs", type=int, help="of every fine-tuning; else by the network")
    parser.add_argument("--plans", type=int, default=24, help="random plans; 0 for none")
    parser.add_argument(
        "--plan-variants", nargs="+", choices=VARIANTS, default=["none", "parallel"]
    )
    parser.add_argument("--budget", default="50%")
    parser.add_argument("--metric", help="that scores the trials; else by the network")
    parser.add_argument("--holdout", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--out", default=str(RESULTS / "methods"), help="folder of the results")
    return parser.parse_args()


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    runs = [Runs(SUBJECTS[name], options) for name in options.networks]
    for run in runs:
        run.original()
    for seed in options.seeds:
        for run in runs:
            for method, variant in _wanted(options):
                try:
                    run.method(method, variant, seed)
                except LeftOut as error:
                    print(f"left out, {method} on {run.subject.name}: {error}", flush=True)
    if options.plans:
        for variant in options.plan_variants:
            try:
                runs[0].plans(variant)
            except LeftOut as error:
                print(f"left out, random plans: {error}", flush=True)


if __name__ == "__main__":
    main()
