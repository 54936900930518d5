"""Sensitivity curves as a result: the file, the plot, the report's section, and a whole job."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from espalier.format.build import load
from search import engine
from search.cost import Budget, CostModel, choices_of
from search.export import Result
from search.export.multiples import Panel, small_multiples, ticks
from search.export.report import report
from search.export.sensitivity import sensitivity_facts, sensitivity_svg
from search.files import FolderFiles
from search.pruning import select
from search.records import Finished, Inputs, Trial
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, RoundingSpec
from search.strategies.base import Outcome, Problem
from search.strategy_specs import SensitivitySpec
from tests.conformance.problems import Toy, play
from tests.evaluation.digits import digits, evaluator, job
from tests.export.finished import changed, finished
from tests.export.test_report import EVIL, Page

_DROP = {"type": ["number", "null"]}
_NUMBERS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}}
_WHOLE = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}}


def _closed(**properties: Any) -> dict[str, Any]:
    """An object of exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_RATIO = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
SCHEMA = _closed(
    metric={"enum": ["top1", "top5", "cross_entropy", "agreement"]},
    original=_closed(score={"type": "number"}, metrics=_NUMBERS, cost=_WHOLE),
    groups={
        "type": "array",
        "items": _closed(
            name={"type": "string"},
            channels={"type": "integer", "minimum": 1},
            points={
                "type": "array",
                "items": _closed(
                    trial={"type": "integer", "minimum": 0},
                    level=_RATIO,
                    kept={"type": "integer", "minimum": 1},
                    keep_ratio=_RATIO,
                    score=_DROP,
                    drop=_DROP,
                    fitted_drop=_DROP,
                    metrics={**_NUMBERS, "minProperties": 0},
                    cost=_WHOLE,
                ),
            },
        ),
    },
    allocated={
        "oneOf": [
            {"type": "null"},
            _closed(
                trial={"type": "integer"},
                plan={"type": "array", "items": {"type": "integer", "minimum": 1}},
                tolerated_drop=_DROP,
                score=_DROP,
            ),
        ]
    },
)


@functools.cache
def job_alone() -> tuple[Finished, FolderFiles]:
    """Curves alone: a whole job at a budget of 100 % without fine-tuning, once a process."""
    files = FolderFiles(Path(tempfile.mkdtemp(prefix="curves-")))
    spec = job(
        strategy=SensitivitySpec(levels=3),
        budget=BudgetSpec(macs="100%"),
        finetune=FineTuneSpec(epochs=0),
        evaluation=EvaluationSpec(calibration=64, holdout=200, batch_size=64),
        rounding=RoundingSpec(multiple=2),
    )
    inputs = Inputs(spec, files.put(digits().package), files.put(digits().data))
    return engine.run(inputs, files, slots=2), files


def _file(name: str) -> Path:
    finished, files = job_alone()
    (digest,) = (item.digest for item in finished.artifacts if item.name == name)
    return files.path(digest)


def metrics() -> dict[str, Any]:
    """What a report wants to know besides."""
    found: dict[str, Any] = json.loads(_file("metrics.json").read_text())
    return found


def searched(*, metric: Any = "top1", share: float = 0.5, fails: int | None = None) -> Result:
    """`finished()` as if its strategy had been this one, scored by widths alone.

    Each group loses 0.3 times the share removed, squared.

    Args:
        fails: number of a trial that fails.
    """
    made = copy.copy(evaluator(job()))
    spec = made.spec.model_copy(
        update={
            "strategy": SensitivitySpec(levels=4),
            "evaluation": made.spec.evaluation.model_copy(update={"metric": metric}),
        }
    )
    made.spec = spec
    cost, choices = CostModel(made.space), choices_of(made.space, spec.rounding, spec.version)
    budget = {"macs": int(share * cost.full["macs"])}
    baseline = made.score(made.baseline())
    assert baseline is not None

    def score(plan: tuple[int, ...]) -> float:
        removed = [1 - w / full for w, full in zip(plan, made.space.full, strict=True)]
        return baseline - sum(0.3 * part**2 for part in removed)

    problem = Problem(cost, Budget(budget), choices, 0, baseline)
    proposals = play(SensitivitySpec(levels=4), Toy(problem, score)).proposals
    trials = []
    for proposal in proposals:
        value = None if proposal.number == fails else score(proposal.plan)
        found = {} if value is None else {metric: abs(value)}
        outcome = Outcome(proposal.number, proposal.plan, value, found, cost.of(proposal.plan))
        trials.append(Trial(proposal, outcome))
    winner = trials[-1].proposal.number
    return changed(evaluator=made, choices=choices, trials=trials, winner=winner)


def test_the_facts_say_what_was_measured() -> None:
    result = searched()
    facts = json.loads(json.dumps(sensitivity_facts(result), allow_nan=False))
    Draft202012Validator(SCHEMA).validate(facts)
    assert [group["name"] for group in facts["groups"]] == [g.name for g in result.space.groups]
    assert facts["original"]["cost"] == dict(result.before)
    cost = CostModel(result.space)
    for index, group in enumerate(facts["groups"]):
        full = result.space.full[index]
        assert [p["kept"] for p in group["points"]] == [
            round(level * full) for level in (0.8, 0.6, 0.4, 0.2)
        ]
        for point in group["points"]:
            plan = list(result.space.full)
            plan[index] = point["kept"]
            assert point["cost"] == cost.of(tuple(plan))
            assert point["keep_ratio"] == point["kept"] / full
            assert point["drop"] == pytest.approx(0.3 * (1 - point["keep_ratio"]) ** 2)
            assert point["fitted_drop"] == pytest.approx(point["drop"])
    assert facts["allocated"]["plan"] == list(result.trials[-1].proposal.plan)
    assert 0 < facts["allocated"]["tolerated_drop"] < 0.3


def test_a_failed_trial_ends_its_groups_curve() -> None:
    result = searched(fails=1)
    facts = sensitivity_facts(result)
    Draft202012Validator(SCHEMA).validate(facts)
    first = facts["groups"][0]["points"]
    assert [point["drop"] is None for point in first] == [False, True, False, False]
    assert [point["fitted_drop"] is None for point in first] == [False, True, True, True]
    assert "failed" in Page(report(result, metrics())).text


def test_the_report_shows_plot_and_table() -> None:
    result = searched()
    page = Page(report(result, metrics()))
    assert page.tags.count("svg") == 3
    assert "How sensitive each group is" in page.text
    for words in ("20 %", "80 %", "19.2", "in points", "The ring marks", "Plan keeps", "a drop of"):
        assert words in page.text, words
    assert page.text.index("Before and after") < page.text.index("How sensitive")
    assert report(result, metrics()) == report(result, metrics())


def test_curves_alone_come_first_and_mark_no_plan() -> None:
    result = searched(share=1.0)
    whole = tuple(tuple(range(group.channels)) for group in result.space.groups)
    page = Page(report(dataclasses.replace(result, kept=whole), metrics()))
    assert page.text.index("How sensitive") < page.text.index("Before and after")
    assert not re.search(r"\bring\b", page.text)
    assert "Plan keeps" not in page.text


def test_a_loss_rises() -> None:
    found = metrics()
    page = Page(report(searched(metric="cross_entropy"), found))
    assert "cross-entropy on the hold-out rises above the original's" in page.text
    assert "points" not in page.text[page.text.index("How sens") : page.text.index("Against")]
    assert "it tolerates a rise of" in page.text


def test_other_strategies_have_no_curves() -> None:
    assert "How sensitive" not in report(finished(), metrics())


def test_names_from_strangers_are_drawn_and_escaped() -> None:
    result = searched()
    groups = tuple(dataclasses.replace(group, name=EVIL) for group in result.space.groups)
    made = copy.copy(result.evaluator)
    made.space = dataclasses.replace(result.space, groups=groups)
    evil = dataclasses.replace(result, evaluator=made)
    raw = report(evil, metrics())
    assert "script" not in Page(raw).tags
    assert "<script" not in raw + sensitivity_svg(sensitivity_facts(evil))


@pytest.mark.parametrize("count", [0, 1, 3, 33])
def test_any_number_of_groups_is_drawn(count: int) -> None:
    points = [(0.1 * step, 0.002 * step - 0.003) for step in range(1, 10)]
    panels = [Panel(f"layer{i}", 16, points if i % 2 else [], 0.3) for i in range(count)]
    drawn = small_multiples(panels, "top1")
    assert drawn.startswith("<svg")
    assert all(f"<!-- layer{i} -->" in drawn for i in range(count))


@pytest.mark.parametrize("most", [0.003, 0.5, 1.0, 7.0, 99.9, 2345.0])
def test_ticks_are_round_and_apart(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0
    assert 3 <= len(found) <= 4
    assert 0.2 * most < found[-1] <= most
    assert all(b > 1.9 * a for a, b in itertools.pairwise(found))
    assert all(re.fullmatch(r"[125]e[+-]\d+", f"{tick:.0e}") for tick in found[1:])


# --- a whole job --------------------------------------------------------------------------------


def test_where_nothing_has_to_go_the_original_comes_back() -> None:
    """To the last bit, batch-norm statistics included."""
    network, original = load(_file("network.espalier")), digits().network
    expected = original.state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    summary = job_alone()[0].summary
    assert summary["test_accuracy"]["before"] == summary["test_accuracy"]["after"]
    assert summary["test_agreement"] == 1
    assert summary["macs"]["before"] == summary["macs"]["after"]
    assert all(timing["macs_ratio"] == 1 for timing in summary["timings"])
    assert summary["warnings"] == []
    assert summary["winner"] == summary["trials"] - 1


def test_the_curves_are_those_of_the_network() -> None:
    facts = json.loads(_file("sensitivity.json").read_text())
    Draft202012Validator(SCHEMA).validate(facts)
    spec = job(evaluation=EvaluationSpec(calibration=64, holdout=200, batch_size=64))
    made = evaluator(spec)
    assert facts["original"]["metrics"] == pytest.approx(made.baseline())
    for index, group in enumerate(facts["groups"]):
        assert all(point["kept"] % 2 == 0 for point in group["points"])
        point = group["points"][-1]
        plan = list(made.space.full)
        plan[index] = point["kept"]
        kept = select(made.original, made.space, tuple(plan), "l1", torch.Generator())
        score = made.evaluate(kept).score
        assert score == pytest.approx(point["score"])
        assert point["drop"] == pytest.approx(facts["original"]["score"] - point["score"])
    assert facts["allocated"]["plan"] == list(made.space.full)
    assert facts["allocated"]["tolerated_drop"] == 0


def test_the_plot_is_a_file_of_its_own() -> None:
    plot = _file("sensitivity.svg").read_text()
    assert 'xmlns="http://www.w3.org/2000/svg"' in plot
    types = {item.name: item.media_type for item in job_alone()[0].artifacts}
    assert types["sensitivity.svg"] == "image/svg+xml"
    page = Page(_file("report.html").read_text())
    assert page.text.index("How sensitive") < page.text.index("Before and after")
