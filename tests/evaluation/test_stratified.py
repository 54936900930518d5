"""Splits are made up of the classes as the data is, and earlier jobs keep theirs."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.evaluation.data import Dataset, Description, Examples
from search.evaluation.plausibility import check_splits
from search.evaluation.splits import Splits, split
from search.evaluation.stratify import stratified
from search.spec import EvaluationSpec
from tests.evaluation.digits import unlabelled

NAMES = ("calibration", "tuning", "holdout", "test")
FIRST = ("holdout", "tuning", "test", "calibration")


def dataset(
    train: np.ndarray[Any, Any],
    test: np.ndarray[Any, Any] | None = None,
    holdout: np.ndarray[Any, Any] | None = None,
    classes: tuple[str, ...] = (),
) -> Dataset:
    """Empty examples with these labels."""
    description = Description(
        kind="arrays",
        example_shape=(1,),
        dtype="float32",
        train_examples=len(train),
        test_examples=None if test is None else len(test),
        holdout_examples=None if holdout is None else len(holdout),
        labelled=True,
        largest_label=int(train.max()),
        classes=classes,
    )
    first, *others = (
        None if labels is None else Examples(np.zeros((len(labels), 1), np.float32), labels)
        for labels in (train, test, holdout)
    )
    assert first is not None
    return Dataset(first, others[0], description, others[1])


def drawn(*sizes: int | None) -> Dataset:
    """Seven classes at random; the same numbers for the same sizes."""
    random = np.random.default_rng(1)
    train, test, holdout = (None if size is None else random.integers(0, 7, size) for size in sizes)
    assert train is not None
    return dataset(train, test, holdout)


def composition(data: Dataset, splits: Splits, name: str) -> list[int]:
    """How many examples of each class a split has."""
    part = data.train
    if name == "holdout" and data.holdout is not None:
        part = data.holdout
    assert part.labels is not None
    assert data.train.labels is not None
    found: list[int] = np.bincount(
        part.labels[getattr(splits, name)], minlength=int(data.train.labels.max()) + 1
    ).tolist()
    return found


def test_rare_classes_are_in_every_split() -> None:
    """Of 986, 8 and 6 examples the hold-out had none of the third class, at this seed."""
    data = dataset(np.repeat([0, 1, 2], [986, 8, 6]))
    spec = EvaluationSpec(holdout=200, calibration=300)
    lost = 0
    for seed in range(20):
        before = split(data, spec, seed, stratifies=False)
        lost += min(composition(data, before, "holdout")) == 0
        found = split(data, spec, seed)
        for name in NAMES:
            shares = composition(data, found, name)
            assert min(shares) >= 1
            assert abs(shares[0] - 0.986 * sum(shares)) < 2
        assert check_splits(data, found) == []
    assert lost


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=12),
    shares=st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    seed=st.integers(0, 2**63 - 1),
)
def test_classes_are_shared_out_in_proportion(
    counts: list[int], shares: list[float], seed: int
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    total = len(labels)
    ends = np.round(np.cumsum([0, *shares]) / sum(shares) * total).astype(int)
    sizes = dict(zip(NAMES, np.diff(ends).tolist(), strict=True))
    found = stratified(labels, sizes, FIRST, np.random.default_rng(seed))
    again = stratified(labels, sizes, FIRST, np.random.default_rng(seed))
    assert {name: len(places) for name, places in found.items()} == sizes
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(total))
    for name, places in found.items():
        np.testing.assert_array_equal(places, again[name])
        if sizes[name] < len(counts) or min(counts) * min(sizes.values()) < 2 * total:
            continue  # some class has less than two examples in a split by its share
        got = np.bincount(labels[places], minlength=len(counts))
        # A split's share of what the splits before it left, each rounded up or down.
        assert (np.abs(got - np.array(counts) * sizes[name] / total) < 3).all()
    room = [name for name in FIRST if sizes[name] >= len(counts)]
    for label, count in enumerate(counts):
        for name in room[:count]:
            assert (labels[found[name]] == label).any()


def test_every_example_has_the_same_chance() -> None:
    """Shares are rounded at random, so that no class is always the one that is rounded down."""
    labels = np.repeat([0, 1, 2], [50, 30, 23])
    sizes = {"holdout": 10, "tuning": 93}
    drawn_ = np.zeros(len(labels))
    for seed in range(600):
        drawn_[stratified(labels, sizes, (), np.random.default_rng(seed))["holdout"]] += 1
    expected = 600 * 10 / len(labels)
    assert np.abs(drawn_ - expected).max() < 5 * np.sqrt(expected)


def test_a_hold_out_of_ones_own_is_drawn_by_class() -> None:
    data = dataset(np.arange(100) % 4, np.arange(20) % 4, np.repeat([0, 1, 2, 3], [150, 40, 6, 4]))
    found = split(data, EvaluationSpec(holdout=20, calibration=8), 0)
    assert found.own_holdout
    assert found.own_test
    assert composition(data, found, "holdout") in ([14, 4, 1, 1], [15, 3, 1, 1])
    assert found.test.tolist() == list(range(20))
    assert sorted(np.concatenate([found.calibration, found.tuning])) == list(range(100))


def test_without_labels_all_is_as_it_was() -> None:
    data, spec = unlabelled(), EvaluationSpec(holdout=100)
    now, before = split(data, spec, 3), split(data, spec, 3, stratifies=False)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(now, name), getattr(before, name))
    assert check_splits(data, now) == []


# --- jobs of version 1 ----------------------------------------------------------------------------

# Made by the version of the service that had no versions of specifications.
GOLDEN: list[tuple[tuple[int | None, ...], EvaluationSpec, int, str]] = [
    (
        (1797, None, None),
        EvaluationSpec(calibration=128, holdout=300),
        7,
        "41ef4d3a9906ad7dbf42d61cbc03f6ba390969c9179c8e71b2197a2c8a461559",
    ),
    (
        (500, 90, None),
        EvaluationSpec(),
        0,
        "4b58160895fb73e8837e5b6e739c176c2d4bef27294425a83d513f617a46fd67",
    ),
    (
        (300, 40, 200),
        EvaluationSpec(holdout=64, test_fraction=0.3),
        2**40,
        "3ff539c734396c567bb136055014662d434eaa8c87d48e019a6ebd94f46dea0c",
    ),
]


@pytest.mark.parametrize(("sizes", "spec", "seed", "expected"), GOLDEN)
def test_splits_of_version_1_do_not_change(
    sizes: tuple[int | None, ...], spec: EvaluationSpec, seed: int, expected: str
) -> None:
    found = split(drawn(*sizes), spec, seed, stratifies=False)
    digest = hashlib.sha256()
    for name in NAMES:
        digest.update(name.encode() + getattr(found, name).astype("<i8").tobytes())
    assert digest.hexdigest() == expected


# --- classes that a split lacks -------------------------------------------------------------------


def test_a_split_that_lacks_a_class_is_told() -> None:
    names = ("cat", "dog", "emu")
    data = dataset(np.repeat([0, 1, 2], [500, 300, 2]), classes=names)
    found = check_splits(data, split(data, EvaluationSpec(holdout=100, calibration=50), 0))
    assert {warning.code for warning in found} == {"dataset.classes_missing"}
    assert [warning.message.split(" of ")[0] for warning in found] == [
        "the calibration", "the test split",
    ]  # fmt: skip
    assert all("2 ('emu')" in warning.message for warning in found)
    own = dataset(np.arange(90) % 3, np.zeros(9, np.int64), np.zeros(40, np.int64))
    told = [w.message for w in check_splits(own, split(own, EvaluationSpec(calibration=20), 0))]
    assert [text.split(" has")[0] for text in told] == [
        "the hold-out of 40 examples", "the test split of 9 examples",
    ]  # fmt: skip
    assert all("none of 2 of the data's 3 classes: 1, 2; bring more" in text for text in told)


def test_a_split_that_is_too_small_for_the_classes_names_the_setting() -> None:
    data = dataset(np.arange(400) % 50)
    (warning,) = check_splits(data, split(data, EvaluationSpec(holdout=60, calibration=20), 0))
    assert "the calibration of 20 examples has none of" in warning.message
    assert "raise evaluation.calibration" in warning.message
