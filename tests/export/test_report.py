from __future__ import annotations

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from espalier.targets import Device, Target
from search.cost import Budget, CostModel
from search.cost.shares import macs_around
from search.cost.staircase import Probe, Stair
from search.export.plot import Landscape, Point, landscape
from search.export.report import report
from search.export.widths import widths_text
from search.export.words import change_text, cost_text, points_text, seconds_text
from search.records import JobWarning, Staircase
from search.space import Exclusion
from search.spec import RoundingSpec
from tests.export.finished import changed, finished, written

EVIL = "<script>alert('x')</script>\"&$a_b^{c}$"


def metrics() -> dict[str, Any]:
    (file,) = (file for file in written().files if file.name == "metrics.json")
    found: dict[str, Any] = json.loads(file.path.read_text())
    return found


class Page(HTMLParser):
    """The page's text and tags; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.links += [value or "" for name, value in attrs if name == "xlink:href"]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_report_says_what_was_asked_and_what_came_of_it() -> None:
    result, found = finished(), metrics()
    page = Page(report(result, found))
    test, cost = found["test"], found["cost"]
    for words in (
        "NetAdapt",
        "12 trials",
        f"{result.limits['macs']:,}",
        "(50%)",
        f"{100 * test['before']['top1']:.2f} %",
        f"{100 * test['after']['top1']:.2f} %",
        f"{cost['before']['macs']:,}",
        f"{cost['after']['params']:,}",
        "Uniform plan, not fine-tuned",
        f"{100 * dict(result.control.metrics)['top1']:.2f} %" if result.control else "",
        *(group.name for group in result.space.groups),
        *(
            f"{len(k)} of {g.channels}"
            for k, g in zip(result.kept, result.space.groups, strict=True)
        ),
        *(item.reason for item in result.space.excluded),
        'espalier.load("network.espalier")',
        "onnxruntime.InferenceSession",
        "Verified.",
        "359 test examples",
    ):
        assert words in page.text
    assert page.tags.count("svg") == 2


def test_the_report_loads_nothing_and_is_the_same_twice() -> None:
    page = report(finished(), metrics())
    assert page == report(finished(), metrics())
    parsed = Page(page)
    assert all(link.startswith("#") for link in parsed.links)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert "default-src 'none'" in page


def test_warnings_come_before_the_figures() -> None:
    assert "Warnings" not in Page(report(finished(), metrics())).text
    # That of the little time saved depends on the machine.
    assert {warning["code"] for warning in metrics()["warnings"]} <= {"latency.little_saved"}
    warned = changed(warnings=[JobWarning("one", f"first {EVIL}"), JobWarning("two", "second")])
    page = Page(report(warned, metrics()))
    assert page.text.index("Warnings") < page.text.index(f"first {EVIL}")
    assert page.text.index("second") < page.text.index("Test accuracy")


def test_widths_of_a_number_say_what_it_cost() -> None:
    found = {**metrics(), "timings": [{**metrics()["timings"][0], "macs_ratio": 0.5, "ratio": 0.9}]}
    text = Page(report(finished(), found)).text
    assert "50 % of the MACs and takes 90 % of the time: 40 points" in text
    fast = {**found, "timings": [{**found["timings"][0], "ratio": 0.45}]}
    text = Page(report(finished(), fast)).text
    assert "All widths were allowed" in text
    assert "not saved in time" not in text


def test_widths_that_run_fast_are_shown_with_their_times() -> None:
    result = finished()
    first, second = result.space.groups
    stair = Stair(first.name, (4, 8, first.channels), ((1.0, 1.0), (3.0, 2.0), (4.0, 3.0)))
    target = Target("onnxruntime", "9.9", Device("host", "cpu", f"chip {EVIL}", "0"))
    staircase = Staircase(target, {"a": 1.0, "b": 1.0}, 1, (stair,), (first.name,), (second.name,))
    page = Page(report(changed(staircase=staircase, choices=((4, 8, 12),) * 2), metrics()))
    assert f"onnxruntime 9.9, 1 thread, batch 1, on chip {EVIL}" in page.text
    assert "4, 8, 12" in page.text
    assert "75 %" in page.text if 4 < result.plan[0] <= 8 else "25 %" in page.text
    assert "fewer ran no faster" in page.text
    assert "needed by the budget" in page.text
    assert "1 chains of layers were timed for this job, 1 were known" in page.text


def test_shares_of_macs_and_time_are_shown_with_the_staircase() -> None:
    """Every MAC takes as long: so the time has the shares of the MACs, counted as monomials."""
    result = finished()
    cost, probe, target = CostModel(result.space), Probe(result.space), Target(
        "onnxruntime", "9.9", Device("host", "cpu", "chip", "0")
    )  # fmt: skip
    text = Page(report(result, metrics())).text
    assert "MACs, original" in text
    assert "Time, original" not in text
    seconds = {name: float(chain.macs) for name, chain in probe.chains.items()}
    found = probe.decide(seconds, cost, Budget(result.limits))
    staircase = Staircase(target, seconds, 0, found.stairs, (), ())
    page = report(changed(staircase=staircase), metrics())
    text = Page(page).text
    for name, before, after in zip(
        [group.name for group in result.space.groups],
        macs_around(cost, result.space.full),
        macs_around(cost, result.plan),
        strict=True,
    ):
        shares = [f"{100 * macs / cost.full['macs']:.1f} %" for macs in (before, after)] * 2
        assert " ".join([name, *shares]) in text
        assert f"<!-- {name} -->" in page


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((3,), "3"),
        ((1, 2, 16), "1, 2, 16"),
        (tuple(range(16, 513, 16)), "16 to 512 in steps of 16"),
        ((*range(1, 9), 16), "1 to 8, 16"),
        ((*range(4, 17, 4), 32, 48, 64), "4 to 16 in steps of 4, 32 to 64 in steps of 16"),
    ],
)
def test_widths_in_words(options: tuple[int, ...], text: str) -> None:
    assert widths_text(options) == text


def test_groups_that_the_rounding_left_no_choice_are_named() -> None:
    result = finished()
    evaluator = copy.copy(result.evaluator)
    evaluator.spec = result.spec.model_copy(update={"rounding": RoundingSpec(multiple=1024)})
    whole = tuple((channels,) for channels in result.space.full)
    text = Page(report(changed(evaluator=evaluator, choices=whole), metrics())).text
    assert text.count("rounding.multiple 1024 takes steps of") == len(result.space.groups)


def test_one_plot_for_each_limit() -> None:
    both = changed(limits={**finished().limits, "params": finished().before["params"]})
    assert Page(report(both, metrics())).tags.count("svg") == 3


def test_names_from_strangers_are_escaped() -> None:
    result = finished()
    groups = tuple(dataclasses.replace(group, name=EVIL) for group in result.space.groups)
    space = dataclasses.replace(result.space, groups=groups, excluded=(Exclusion(EVIL, 3, EVIL),))
    evaluator = copy.copy(result.evaluator)
    evaluator.space = space
    evaluator.spec = result.spec.model_copy(update={"name": EVIL, "network": EVIL, "dataset": EVIL})
    raw = report(changed(evaluator=evaluator), metrics())
    page = Page(raw)
    assert "script" not in page.tags
    assert "<script" not in raw
    assert page.text.count(EVIL) >= 7


def test_a_report_without_labels_finite_control_or_fine_tuning() -> None:
    found = metrics()
    for part in (*found["test"].values(), *found["holdout"].values()):
        for name in ("top1", "top5", "cross_entropy"):
            part.pop(name, None)
    result = finished()
    evaluator = copy.copy(result.evaluator)
    evaluator.spec = result.spec.model_copy(
        update={"evaluation": result.spec.evaluation.model_copy(update={"metric": "cross_entropy"})}
    )
    control = dataclasses.replace(result.control, metrics={})
    bare = changed(evaluator=evaluator, control=control, history=())
    page = Page(report(bare, found))
    assert "Test accuracy" not in page.text
    assert "Agreement with the original" in page.text
    assert "Lower is better" in page.text
    assert page.tags.count("svg") == 1


def test_the_report_says_what_was_not_done() -> None:
    start = finished().history[0]
    assert "Winner, fine-tuned" in Page(report(finished(), metrics())).text
    untuned = Page(report(changed(history=(start,)), metrics())).text
    assert "Winner, fine-tuned" not in untuned
    assert "diverged" not in untuned
    stopped = changed(history=(start, {"epoch": 1, "diverged": True}))
    text = Page(report(stopped, metrics())).text
    assert "Winner, fine-tuned" not in text
    assert "Training diverged" in text


def test_the_report_tells_when_no_epoch_was_better_than_the_start() -> None:
    found = metrics()
    assert "better than the start" not in Page(report(finished(), found)).text
    found["holdout"]["final"] = found["holdout"]["untuned"]
    assert "set finetune.keep to last" in Page(report(finished(), found)).text


def test_what_short_tunings_taught_is_not_said_to_be_found_by_the_search() -> None:
    result = finished()
    assert "steps of tuning" not in Page(report(result, metrics())).text
    trials = [
        dataclasses.replace(each, proposal=dataclasses.replace(each.proposal, tuning_steps=3))
        for each in result.trials
    ]
    line = result.winner + 1  # each trial starts from the one before
    text = Page(report(changed(trials=trials), metrics())).text
    assert f"what its winner learned in {3 * line} steps of tuning" in text


def test_a_report_of_a_test_that_gave_no_numbers() -> None:
    found = metrics()
    del found["test"]["before"]["kl"], found["test"]["after"]["cross_entropy"]
    page = Page(report(finished(), found))
    assert "Test accuracy" in page.text
    assert "Before and after" in page.text


def test_a_budget_far_above_the_original_does_not_fill_the_plot() -> None:
    """Else all points would sit at the left end of the axis."""
    point = Point({"macs": 1000}, 0.9)
    shown = Landscape("top1", point, [point], [point], point, point)
    assert "<!-- Budget -->" in landscape(shown, "macs", 1000)
    assert "<!-- Budget -->" not in landscape(shown, "macs", 10**15)


def test_the_report_on_tokens_does_not_speak_of_preprocessing() -> None:
    evaluator = copy.copy(finished().evaluator)
    evaluator.fit = dataclasses.replace(evaluator.fit, dtype="int64")
    page = Page(report(changed(evaluator=evaluator), metrics()))
    assert "whole numbers (int64)" in page.text
    assert "preprocessed" not in page.text


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (cost_text("macs", 40_551_040), "40.55 M"),
        (cost_text("params", 999_999), "999,999"),
        (cost_text("weight_bytes", 1536), "1.5 KiB"),
        (cost_text("weight_bytes", 12), "12 B"),
        (change_text(200, 100), "−50.0 %"),
        (change_text(100, 100), "±0 %"),
        (change_text(0, 1), "–"),
        (points_text(0.9, 0.905), "+0.50 points"),
        (seconds_text(0.0042), "4.2 ms"),
        (seconds_text(0.00042), "420 µs"),
    ],
)
def test_numbers_read_well(found: str, expected: str) -> None:
    assert found == expected
