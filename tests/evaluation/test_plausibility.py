"""An original at chance is refused, and what looks odd in its answers is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.evaluation.plausibility import (
    Answers,
    BaselineAtChance,
    check_answers,
    check_scores,
    lower,
    upper,
)

Whole = np.ndarray[Any, np.dtype[np.int64]]
Scores = np.ndarray[Any, np.dtype[np.float32]]


def answered(labels: Whole, accuracy: float, classes: int, seed: int = 0) -> Whole:
    """Answers of which so many are right, the others any other class."""
    random = np.random.default_rng([seed, 1])  # not the stream of the labels
    wrong = (labels + random.integers(1, classes, len(labels))) % classes
    return np.where(random.random(len(labels)) < accuracy, labels, wrong)


def told(predicted: Whole, labels: Whole, **given: Any) -> list[str]:
    """Codes of the warnings."""
    found = check_answers(Answers(predicted, labels), allow_chance=False, **given)
    return [warning.code for warning in found]


def uniform(count: int, classes: int, seed: int = 9) -> Whole:
    return np.random.default_rng(seed).integers(0, classes, count)


@pytest.mark.parametrize(("count", "of"), [(0, 10), (3, 10), (10, 10), (115, 1000), (0, 1)])
def test_bounds_are_those_of_the_binomial(count: int, of: int) -> None:
    """At the upper bound so few or fewer are seen in one case of a hundred."""
    assert upper(count, of) == 1 if count == of else True
    if count < of:
        assert stats.binom.cdf(count, of, upper(count, of)) == pytest.approx(0.01)
    if count > 0:
        assert stats.binom.sf(count - 1, of, lower(count, of)) == pytest.approx(0.01)
    else:
        assert lower(count, of) == 0


def test_a_bound_holds_in_99_of_100_samples() -> None:
    random = np.random.default_rng(0)
    seen = random.binomial(200, 0.3, 4000)
    missed = np.mean([upper(int(count), 200) < 0.3 for count in seen])
    assert missed <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 4000)


def test_labels_off_by_one_are_refused_and_named() -> None:
    """1.5 % right of ten classes."""
    labels = uniform(1000, 10)
    predicted = answered(labels, 0.95, 10)
    with pytest.raises(BaselineAtChance, match="with every label one lower") as error:
        told(predicted, labels + 1)
    message = str(error.value)
    assert BaselineAtChance.code == "evaluation.chance"
    assert f"top-1 accuracy on the hold-out is {100 * np.mean(predicted == labels + 1):.1f} %" in (
        message
    )
    share = np.bincount(labels).max() / 1000
    assert f"gives {100 * share:.1f} %" in message
    assert "set evaluation.allow_chance to true" in message
    with pytest.raises(BaselineAtChance, match="with every label one higher"):
        told(predicted, labels - 1)
    found = check_answers(Answers(predicted, labels + 1), allow_chance=True)
    assert [warning.code for warning in found] == ["evaluation.chance", "evaluation.class_order"]
    assert "allow_chance" not in found[0].message


def test_a_network_that_knows_nothing_is_refused_where_the_hold_out_is_large_enough() -> None:
    """Or one class is so frequent that the answers are confidently worse than that."""
    labels = uniform(100_000, 10)
    assert told(uniform(1000, 10, 1), labels[:1000]) == ["evaluation.near_chance"]
    skewed = np.where(np.random.default_rng(2).random(1000) < 0.6, 0, labels[:1000])
    with pytest.raises(BaselineAtChance, match="always answering class 0 gives 6"):
        told(uniform(1000, 10, 3), skewed)
    constant = np.zeros(1000, np.int64)
    with pytest.raises(BaselineAtChance, match="check the preprocessing"):
        told(constant + 1, labels[:1000] % 9 + (labels[:1000] % 9 >= 1))


def test_the_upper_bound_decides() -> None:
    """The most frequent class has half of the hold-out; 99 % bound of 462 of 1000 is 0.4995."""
    labels = np.repeat([0, 1], 500)

    def right(count: int) -> Whole:
        return np.where(np.arange(1000) % 1000 < 1000 - count, 1 - labels, labels)

    least = next(count for count in range(500) if upper(count, 1000) > 0.5)
    assert 455 < least < 470
    with pytest.raises(BaselineAtChance):
        told(right(least - 1), labels)
    assert "evaluation.near_chance" in told(right(least), labels)


def test_forgotten_preprocessing_is_told() -> None:
    """11.5 % right of ten classes: within the bound, so it is a warning that names the package."""
    labels = uniform(1000, 10)
    answers = Answers(answered(labels, 0.115, 10), labels, (), preprocessed=False)
    (warning,) = check_answers(answers, allow_chance=False)
    assert warning.code == "evaluation.near_chance"
    assert "of which the package says nothing" in warning.message
    collapsed = np.where(np.random.default_rng(4).random(1000) < 0.7, 7, answers.predicted)
    assert told(collapsed, labels) == ["evaluation.near_chance", "evaluation.one_sided"]
    many = uniform(20_000, 10)  # confidently above chance, and as wrong
    assert lower(int(0.115 * 20_000), 20_000) > 0.105
    assert told(answered(many, 0.115, 10), many) == ["evaluation.near_chance"]


def test_classes_in_another_order_are_told() -> None:
    labels = uniform(1000, 10)
    order = np.random.default_rng(0).permutation(10)
    predicted = answered(labels, 0.9, 10)
    swapped = np.where(predicted == 3, 5, np.where(predicted == 5, 3, predicted))
    names = [f"name {number}" for number in range(10)]
    (warning,) = check_answers(Answers(swapped, labels, names), allow_chance=False)
    assert warning.code == "evaluation.class_order"
    assert "3 ('name 3') as 5 ('name 5'), 5 ('name 5') as 3 ('name 3'); read so" in warning.message
    try:
        found = told(order[predicted], labels)
    except BaselineAtChance as error:
        found = [str(error)]
    assert any("class_order" in text or "one for one" in text for text in found)


def test_a_class_that_is_always_answered_is_told() -> None:
    labels = uniform(1000, 10)
    predicted = np.where(np.random.default_rng(3).random(1000) < 0.6, 7, labels)
    (warning,) = check_answers(Answers(predicted, labels), allow_chance=False)
    assert warning.code == "evaluation.one_sided"
    assert warning.message.startswith("the original network answers class 7 for 6")


@pytest.mark.parametrize("accuracy", [0.4, 0.7, 0.95])
@pytest.mark.parametrize(("count", "classes"), [(1000, 10), (1000, 1000), (5000, 100), (450, 3)])
def test_sound_networks_are_not_told_of(accuracy: float, count: int, classes: int) -> None:
    if accuracy < 2 / classes:
        return
    for seed in range(20):
        labels = uniform(count, classes, seed)
        assert told(answered(labels, accuracy, classes, seed), labels) == []


def test_frequent_classes_do_not_make_a_sound_network_suspicious() -> None:
    random = np.random.default_rng(5)
    labels = np.where(random.random(2000) < 0.8, 0, random.integers(1, 5, 2000))
    assert told(answered(labels, 0.9, 5), labels) == []


def test_a_few_examples_say_little() -> None:
    """Nothing is refused for chance by itself."""
    assert told(np.array([0, 1, 1]), np.array([0, 1, 2])) == ["evaluation.near_chance"]


def shares(scores: Scores) -> Scores:
    weights = np.exp(scores)
    found: Scores = weights / weights.sum(1, keepdims=True)
    return found


def test_probabilities_that_no_head_explains_are_told() -> None:
    scores = np.random.default_rng(4).normal(0, 3, (200, 10)).astype(np.float32)
    hard: Scores = (scores / 6 + 0.5).clip(0, 1)
    for found in (shares(scores), 100 * shares(scores), hard):
        (warning,) = check_scores(found)
        assert warning.code == "evaluation.probabilities"
    for fine in (scores, np.maximum(scores, 0), np.log(shares(scores)), shares(scores)[:9]):
        assert check_scores(fine) == []


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_hold_out_of_one_class_refuses_nobody(count: int) -> None:
    """As one of a single example; that classes are missing is told apart."""
    labels = np.full(count, 3)
    for predicted in (labels, labels + 1):
        assert "evaluation.near_chance" in told(predicted, labels)
