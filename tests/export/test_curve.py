"""What allocation leaves: the losses of single groups, the curve of budgets, and their sections."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from search import engine
from search.cost import choices_of
from search.evaluation.leveling import level
from search.evaluation.seeds import generator
from search.export import Result
from search.export.curve import curve_facts, points_of
from search.export.levels import levels_facts
from search.export.plot import Landscape, Point, landscape
from search.export.report import _landscape, report
from search.files import FolderFiles
from search.records import Finished, Inputs, Trial
from search.spec import JobSpec
from search.strategies.base import Outcome, Proposal
from search.strategy_specs import AllocateSpec
from tests.evaluation.digits import digits, evaluator, job
from tests.export.finished import changed, finished
from tests.export.metrics_page import OF_A_SEARCH, documented, fields
from tests.export.test_report import EVIL, Page
from tests.export.test_report import metrics as some_metrics


def spec() -> JobSpec:
    return job(strategy=AllocateSpec(trials=2, finalists=1, points=2))


@functools.cache
def whole_job() -> tuple[Finished, FolderFiles]:
    """Once a process."""
    files = FolderFiles(Path(tempfile.mkdtemp(prefix="curve-")))
    inputs = Inputs(spec(), files.put(digits().package), files.put(digits().data))
    return engine.run(inputs, files), files


def read(name: str) -> str:
    done, files = whole_job()
    (digest,) = (item.digest for item in done.artifacts if item.name == name)
    return files.path(digest).read_text()


def searched(levels: Any = None, points: int = 3, fails: int | None = None) -> Result:
    """`finished()` as if its strategy had been this one; its trials are levels, then points.

    Args:
        levels: taken over from an earlier job.
        fails: number of a trial that fails.
    """
    result = finished()
    made = copy.copy(result.evaluator)
    made.spec = result.spec.model_copy(update={"strategy": AllocateSpec(points=points)})
    trials, groups = list[Trial](), len(made.space.groups)
    for number, trial in enumerate(result.trials):
        group = number if number < groups and levels is None else None
        tags = {} if group is None else {"group": group}
        if group is None and number < groups + points:
            tags = {"point": number - groups + 1}
        full = made.space.full[number % groups]
        losses = tuple(1 / width - 1 / full for width in range(1, full + 1))
        outcome = dataclasses.replace(
            trial.outcome,
            score=None if number == fails else trial.outcome.score,
            losses=None if group is None or number == fails else losses,
        )
        proposal = Proposal(number, trial.proposal.plan, tags=tags, levels_of=group)
        trials.append(Trial(proposal, outcome))
    return changed(evaluator=made, trials=trials, levels=levels)


# --- a whole job --------------------------------------------------------------------------------


def test_the_levels_are_those_of_the_network() -> None:
    facts, made = json.loads(read("levels.json")), evaluator(spec())
    assert facts["taken_over"] is False
    choices = choices_of(made.space, spec().rounding, spec().version)
    for index, (group, shown) in enumerate(zip(made.space.groups, facts["groups"], strict=True)):
        assert (shown["name"], shown["channels"]) == (group.name, group.channels)
        _, losses = level(made, index, choices[index], generator(0, 0))
        assert losses is not None
        assert shown["losses"] == pytest.approx(list(losses))
        assert [point["kept"] for point in shown["anchors"]] == [
            round(share * group.channels) for share in (0.8, 0.6, 0.4, 0.2)
        ]
        assert all(p["loss"] == shown["losses"][p["kept"] - 1] for p in shown["anchors"])


def test_the_page_of_metrics_documents_what_such_a_search_adds() -> None:
    found = set(fields(json.loads(read("metrics.json"))))
    assert OF_A_SEARCH < found <= set(documented())


def test_the_curve_rises_from_the_budget_to_the_original() -> None:
    facts, summary = json.loads(read("curve.json")), whole_job()[0].summary
    networks = [facts["winner"], *facts["points"], facts["original"]]
    costs = [network["cost"]["macs"] for network in networks]
    assert len(facts["points"]) == 2
    assert all(a < b for a, b in itertools.pairwise(costs))
    assert costs[0] <= facts["limits"]["macs"] == costs[-1] // 2
    assert facts["winner"]["trial"] == summary["winner"]
    assert facts["winner"]["cost"]["macs"] == summary["macs"]["after"]
    assert all(network["score"] == network["metrics"]["top1"] for network in networks)
    assert summary["points"] == [
        {"trial": point["trial"], "cost": point["cost"], "score": point["score"]}
        for point in facts["points"]
    ]
    trials = {trial["number"]: trial for trial in json.loads(read("trials.json"))["trials"]}
    for index, point in enumerate(facts["points"]):
        trial = trials[point["trial"]]
        assert trial["tags"] == {"point": index + 1}
        assert {**point, "tags": trial["tags"]}.items() <= {
            **trial,
            "trial": point["trial"],
        }.items()


def test_the_page_tells_how_to_get_each_network() -> None:
    page, facts = Page(read("report.html")), json.loads(read("curve.json"))
    assert "Exact allocation" in page.text
    assert "Criterion obs" in page.text
    assert f"espalier download JOB --trial {facts['points'][0]['trial']}" in page.text
    for network in (facts["winner"], *facts["points"]):
        assert f"Trial {network['trial']}" in page.text
        assert f"{network['cost']['macs']:,}" in page.text
        assert f"{100 * network['metrics']['top1']:.2f} %" in page.text
    for group in digits().space.groups:
        assert f"<!-- {group.name} -->" in read("report.html")
    assert page.tags.count("svg") == 5  # curve, its divergence, search, levels, fine-tuning


# --- the parts ----------------------------------------------------------------------------------


def test_levels_of_an_earlier_job_are_shown_as_such() -> None:
    full = finished().space.full
    levels = tuple(tuple(float(count - width) for width in range(count)) for count in full)
    result = searched(levels)
    facts = levels_facts(result)
    assert facts["taken_over"] is True
    assert [tuple(group["losses"]) for group in facts["groups"]] == list(levels)
    assert "An earlier job" in Page(report(result, some_metrics())).text


def test_a_group_that_could_not_be_measured_has_no_losses() -> None:
    result = searched(fails=1)
    facts = json.loads(json.dumps(levels_facts(result), allow_nan=False))
    assert [group["losses"] is None for group in facts["groups"]] == [False, True]
    assert facts["groups"][1]["anchors"] == []
    assert "What each group loses" in Page(report(result, some_metrics())).text


def test_a_point_that_failed_is_left_out() -> None:
    groups = len(finished().space.groups)
    result = searched(fails=groups + 1)
    assert [trial.proposal.number for trial in points_of(result)] == [groups, groups + 2]
    assert len(curve_facts(result, {})["points"]) == 2


def test_without_points_there_is_no_curve_and_other_strategies_have_neither() -> None:
    page = report(searched(points=0), some_metrics())
    assert "many budgets" not in page
    assert "What each group loses" in page
    page = report(finished(), some_metrics())
    assert "many budgets" not in page
    assert "What each group loses" not in page


def test_single_cuts_are_not_drawn_among_the_trials() -> None:
    """They were measured on a part of the hold-out."""
    result = searched()
    drawn = _landscape(result, some_metrics()).trials
    assert len(drawn) == len(result.trials) - len(result.space.groups)


def test_two_plots_of_the_curve_for_each_limit() -> None:
    result = searched()
    both = dataclasses.replace(result, limits={**result.limits, "params": result.before["params"]})
    pages = [Page(report(each, some_metrics())) for each in (result, both)]
    assert pages[1].tags.count("svg") == pages[0].tags.count("svg") + 3


def test_a_metric_that_a_point_lacks_is_a_dash() -> None:
    result = searched()
    groups, trials = len(result.space.groups), list(result.trials)
    old = trials[groups]
    outcome = Outcome(old.outcome.number, old.outcome.plan, 0.5, {"kl": 1.0}, old.outcome.cost)
    trials[groups] = dataclasses.replace(old, outcome=outcome)
    page = Page(report(dataclasses.replace(result, trials=trials), some_metrics()))
    assert "–" in page.text[page.text.index("many budgets") : page.text.index("Against")]


def test_names_from_strangers_are_escaped() -> None:
    result = searched()
    groups = tuple(dataclasses.replace(group, name=EVIL) for group in result.space.groups)
    made = copy.copy(result.evaluator)
    made.space = dataclasses.replace(result.space, groups=groups)
    raw = report(dataclasses.replace(result, evaluator=made), some_metrics())
    assert "script" not in Page(raw).tags


def test_a_curve_is_drawn_without_trials() -> None:
    point = Point({"macs": 1000}, 0.9)
    drawn = landscape(Landscape("top1", point, (), (), None, None, curve=(point,)), "macs", 1000)
    assert "<!-- Points -->" in drawn
    assert "<!-- Trials -->" not in drawn
