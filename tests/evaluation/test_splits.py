from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.evaluation.data import Dataset, Description, Examples
from search.evaluation.errors import DatasetTooSmall
from search.evaluation.splits import split
from search.spec import EvaluationSpec


def dataset(train: int, test: int | None = None, holdout: int | None = None) -> Dataset:
    description = Description(
        kind="arrays",
        example_shape=(1,),
        dtype="float32",
        train_examples=train,
        test_examples=test,
        holdout_examples=holdout,
        labelled=False,
        largest_label=None,
        classes=(),
    )
    first, *others = (
        None if count is None else Examples(np.zeros((count, 1)), None)
        for count in (train, test, holdout)
    )
    assert first is not None
    return Dataset(first, others[0], description, others[1])


@settings(max_examples=200, deadline=None)
@given(
    train=st.integers(1, 400),
    test=st.none() | st.integers(1, 50),
    holdout=st.integers(1, 100),
    calibration=st.integers(0, 100),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**63 - 1),
)
def test_no_example_is_in_two_splits_and_none_is_lost(
    train: int, test: int | None, holdout: int, calibration: int, fraction: float, seed: int
) -> None:
    data = dataset(train, test)
    spec = EvaluationSpec(holdout=holdout, calibration=calibration, test_fraction=fraction)
    left = train if test is not None else train - max(1, round(train * fraction))
    try:
        found = split(data, spec, seed)
    except DatasetTooSmall:
        assert left < 3
        return
    again = split(data, spec, seed)
    of_train = [found.calibration, found.tuning, found.holdout]
    if test is None:
        of_train.append(found.test)
        assert len(found.test) == max(1, round(train * fraction))
    else:
        assert found.test.tolist() == list(range(test))
    assert sorted(np.concatenate(of_train).tolist()) == list(range(train))
    assert len(found.holdout) == min(holdout, max(1, left // 4))
    rest = left - len(found.holdout)
    assert len(found.calibration) == min(calibration, rest // 2, rest - 2)
    assert len(found.tuning) >= 2
    for name in ("calibration", "tuning", "holdout", "test"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))


@pytest.mark.parametrize(("wanted", "taken"), [(20, 20), (500, 40)])
def test_a_hold_out_of_ones_own_takes_no_training_examples(wanted: int, taken: int) -> None:
    spec = EvaluationSpec(holdout=wanted, calibration=8)
    found = split(dataset(100, 10, holdout=40), spec, 0)
    assert found.own_holdout
    assert len(found.holdout) == taken
    assert set(found.holdout.tolist()) <= set(range(40))
    of_train = np.concatenate([found.calibration, found.tuning])
    assert sorted(of_train.tolist()) == list(range(100))
    other = split(dataset(100, 10, holdout=40), spec, 1)
    assert (other.holdout.tolist() == found.holdout.tolist()) == (taken == 40)


def test_the_seed_matters() -> None:
    spec = EvaluationSpec(holdout=50, calibration=10)
    first, second = (split(dataset(200), spec, seed).holdout.tolist() for seed in (0, 1))
    assert first != second


def test_too_few_examples_are_refused_with_the_way_out() -> None:
    with pytest.raises(DatasetTooSmall, match=r"2 examples are left.*bring at least 3"):
        split(dataset(2, 10), EvaluationSpec(), 0)
    with pytest.raises(DatasetTooSmall, match=r"evaluation\.test_fraction"):
        split(dataset(10), EvaluationSpec(test_fraction=0.9), 0)


def test_a_search_that_calibrates_is_refused_where_nothing_is_left_for_it() -> None:
    assert len(split(dataset(4), EvaluationSpec(), 0).calibration) == 0
    with pytest.raises(DatasetTooSmall, match="calibration that the strategy allocate"):
        split(dataset(4), EvaluationSpec(), 0, calibrates=True)
    assert len(split(dataset(6), EvaluationSpec(), 0, calibrates=True).calibration) > 0
