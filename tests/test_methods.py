"""The comparison of the search methods: equal evaluations, resuming, and what its figures are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.allotment import played, strategy_of
from benchmarks.comparison import best_so_far, correlate, spearman, spread
from benchmarks.compression import Compression
from benchmarks.methods import Store, job_of
from espalier.format.build import graph_of
from search.context import Problem
from search.strategies.base import Proposal
from search.strategy_specs import RandomSpec
from tests.evaluation.digits import digits, job


@pytest.mark.parametrize("method", ["random", "sensitivity", "netadapt"])
def test_every_method_gets_about_the_evaluations_and_not_more(method: str) -> None:
    problem, spec = Problem(graph_of(digits().network)), job()
    strategy = strategy_of(method, problem, spec, 24)
    trials = played(problem, spec.model_copy(update={"strategy": strategy}), 24, seed=7)
    assert 12 <= trials <= 24


def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    what, spec = digits(), job(strategy=RandomSpec(trials=5))
    whole = Compression(spec, what.package, what.data, tmp_path / "whole").search()

    class Killed(Exception):
        pass

    class Mortal(Compression):
        lives = 3

        def evaluate(self, proposal: Proposal, parent):  # type: ignore[no-untyped-def]
            if self.lives == 0:
                raise Killed
            self.lives -= 1
            return super().evaluate(proposal, parent)

    with pytest.raises(Killed):
        Mortal(spec, what.package, what.data, tmp_path / "cut").search()
    journal = tmp_path / "cut" / "trials.jsonl"
    journal.write_text(journal.read_text() + '{"number": 3, "res')  # killed while writing
    again = Mortal(spec, what.package, what.data, tmp_path / "cut")
    again.lives = 5
    found = again.search()
    assert found.trials == whole.trials
    assert found.winner == whole.winner
    assert len(journal.read_text().splitlines()) == 1 + 5


def test_a_finished_run_is_known_and_other_settings_are_refused(tmp_path: Path) -> None:
    key = {"method": "random", "variant": "none", "seed": 0}
    Store(tmp_path / "net.jsonl").add({**key, "job": {"trials": 3}})
    store = Store(tmp_path / "net.jsonl")
    assert store.has({"trials": 3}, **key)
    assert not store.has({"trials": 3}, **{**key, "seed": 1})
    with pytest.raises(SystemExit, match="other settings"):
        store.has({"trials": 4}, **key)


def test_runs_of_other_versions_do_not_share_a_file() -> None:
    """What was recorded before there were versions says none."""
    assert job_of(job()) == job_of(job(version=1)) | {"version": 2}
    assert "version" not in job_of(job(version=1))


def test_only_plans_within_the_budget_lead() -> None:
    found = best_so_far([(0.9, False), (None, True), (0.4, True), (0.3, True), (0.5, True)])
    assert all(map(math.isnan, found[:2]))
    assert found[2:].tolist() == [0.4, 0.4, 0.5]


def test_correlations_and_their_intervals() -> None:
    x = np.arange(30.0)
    noise = np.random.default_rng(1).normal(size=30)
    assert correlate(x, np.exp(x), spearman) == pytest.approx((1.0, 1.0, 1.0))
    value, low, high = correlate(noise, x, spearman)
    assert low < value < high
    assert low < 0 < high  # nothing is known of what is unrelated


def test_the_spread_is_half_the_range() -> None:
    assert spread([1.0, 2.0, 4.0]) == "2.33 ± 1.50"
    assert spread([2000.0, 2000.0], 0) == "2,000"
