"""AMC against random search on problems without a network whose optimum is known.

The cost of a plan is linear in the widths, its worth `sum(value * log(width))`. Without rounding
the best widths are in proportion to value over cost, capped at the full width, so the regret of a
plan is known. Seeds are paired: the same problem, the same number of trials.

The agent's settings were chosen on problems of the first five seeds, so the recorded figures
flatter it. On seeds 100 to 109, looked at once afterwards, 160 trials left these shares of
uniform's regret (medians; wins of ten; one-sided signed-rank test):

    groups   random   amc                       amc with the default lower bound of 0.2
    8        0.301    0.169 (8 wins, p 0.019)   0.309 (6 wins, p 0.58)
    20       0.627    0.371 (9 wins, p 0.007)   0.494 (6 wins, p 0.12)

The best plans of these problems keep less than 0.2 of some groups, which the default rules out.

    python -m benchmarks.amc_toy [--trials N] [--seeds N] [--groups N] [--plot FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.record import save
from search.cost import Budget
from search.space import Plan, widths
from search.strategies import REGISTRY
from search.strategies.base import Outcome, Problem
from search.strategies.fitting import uniform_plan
from search.strategy_specs import AmcSpec, RandomSpec, StrategySpec
from tests.conformance.problems import Linear, logarithmic

FULL = 32
BUDGET = 0.4
LOWER_BOUND = 0.05  # the best plans keep less than the default of 0.2 of some groups


def water_filling(values: NDArray[Any], costs: NDArray[Any], limit: float) -> NDArray[Any]:
    """Widths, not rounded, of the largest worth within the limit.

    By the Karush-Kuhn-Tucker conditions `value / width = level * cost` below the full width.
    """
    low, high = 0.0, float((FULL * costs / values).max())
    for _ in range(200):
        level = (low + high) / 2
        spent = float(np.minimum(FULL, level * values / costs) @ costs)
        low, high = (level, high) if spent <= limit else (low, level)
    found: NDArray[Any] = np.minimum(FULL, low * values / costs)
    return found


def toy(groups: int, seed: int) -> tuple[Problem, Callable[[Plan], float]]:
    """A problem, and the regret of its plans: how much worth they lose against the optimum."""
    random = np.random.default_rng([seed, groups])
    costs = 1 + np.round(10 * np.exp(random.normal(0, 0.7, groups)))
    values = np.exp(random.normal(0, 1, groups))
    full = (FULL,) * groups
    cost = Linear(full, tuple(costs.astype(int).tolist()))
    limit = int(BUDGET * cost.of(full)["macs"])
    problem = Problem(cost, Budget({"macs": limit}), (widths(FULL),) * groups, seed, 0.0)
    score = logarithmic(values.tolist())
    best = float(values @ np.log(water_filling(values, costs, limit)))

    def regret(plan: Plan) -> float:
        worth = score(plan)
        assert worth is not None
        return best - worth

    return problem, regret


def search(spec: StrategySpec, problem: Problem, regret: Callable[[Plan], float]) -> NDArray[Any]:
    """`(trials,)` the regret of each trial, one at a time."""
    strategy, found = REGISTRY[type(spec)](spec, problem), []
    while not strategy.done:
        for proposal in strategy.ask(1):
            found.append(regret(proposal.plan))
            strategy.tell(Outcome(proposal.number, proposal.plan, -found[-1]))
    return np.array(found)


def curves(specs: dict[str, StrategySpec], groups: int, seeds: int) -> dict[str, NDArray[Any]]:
    """`(seeds, trials)` by name, as shares of the uniform plan's regret."""
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in specs}
    for seed in range(seeds):
        problem, regret = toy(groups, seed)
        uniform = regret(uniform_plan(problem.cost, problem.budget, problem.choices))
        for name, spec in specs.items():
            found[name].append(search(spec, problem, regret) / uniform)
            print(groups, seed, name, found[name][-1].min().round(3), flush=True)
    return {name: np.array(rows) for name, rows in found.items()}


def plot(results: dict[int, dict[str, NDArray[Any]]], path: Path) -> None:
    """Best so far (lines, with quartiles) and what single trials are worth (dots)."""
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(6 * len(results), 4), squeeze=False)
    for axis, (groups, runs) in zip(axes[0], results.items(), strict=True):
        for index, (name, rows) in enumerate(runs.items()):
            best, trials = np.minimum.accumulate(rows, 1), np.arange(1, rows.shape[1] + 1)
            axis.plot(trials, np.median(best, 0), color=f"C{index}", label=name)
            axis.fill_between(trials, *np.quantile(best, [0.25, 0.75], axis=0), alpha=0.15)
            axis.plot(trials, np.median(rows, 0), ".", ms=2, color=f"C{index}", alpha=0.5)
        axis.set(title=f"{groups} groups", xlabel="trial", ylabel="regret / that of uniform")
        axis.set_ylim(0, 1.6)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def cost_of_an_episode(groups: int = 32) -> dict[str, float]:
    """Processor seconds and bytes of an episode, the agent restored from its state each time."""
    problem, regret = toy(groups, 0)
    spec, trials = AmcSpec(trials=120, warmup=20), 60
    text, times = "", []
    for _ in range(trials):
        began = time.process_time()
        strategy = REGISTRY[AmcSpec](spec, problem)
        if text:
            strategy.load_state_dict(json.loads(text))
        (proposal,) = strategy.ask(1)
        strategy.tell(Outcome(proposal.number, proposal.plan, -regret(proposal.plan)))
        text = json.dumps(strategy.state_dict())
        times.append(time.process_time() - began)
    return {
        "groups": groups,
        "median_cpu_s": float(np.median(times[20:])),
        "state_bytes": len(text),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    specs: dict[str, StrategySpec] = {
        "random": RandomSpec(trials=options.trials),
        "amc": AmcSpec(trials=options.trials, lower_bound=LOWER_BOUND),
        "amc, learning off": AmcSpec(
            trials=options.trials, warmup=options.trials, lower_bound=LOWER_BOUND
        ),
    }
    results = {groups: curves(specs, groups, options.seeds) for groups in options.groups}
    figures: dict[str, Any] = {"trials": options.trials, "seeds": options.seeds, "toys": []}
    for groups, runs in results.items():
        best = {name: rows.min(1) for name, rows in runs.items()}
        row: dict[str, Any] = {"groups": groups}
        for name, values in best.items():
            row[name] = {
                "median_regret": float(np.median(values)),
                "regrets": values.round(4).tolist(),
                "median_by_quarter": [
                    float(np.median(part)) for part in np.array_split(runs[name], 4, axis=1)
                ],
                "better_than_random": float(np.mean(values < best["random"])),
                "p_better": float(stats.wilcoxon(values, best["random"], alternative="less").pvalue)
                if name != "random"
                else None,
            }
        figures["toys"].append(row)
    figures["episode"] = cost_of_an_episode()
    print(save("amc_toy", "benchmarks.amc_toy", figures))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
