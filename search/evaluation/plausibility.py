"""What looks wrong in the original's answers on the hold-out, or in the splits.

A network that answers by chance has mostly been given other inputs than it was trained on, or other
labels. Where that is certain a job is refused, where it is likely it is warned.

Bounds are one-sided, of 99 %, by Clopper and Pearson 1934, "The use of confidence or fiducial
limits illustrated in the case of the binomial", Biometrika 26: exact for every sample size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from espalier.format.errors import EspalierError
from search.evaluation.data import Dataset
from search.evaluation.splits import Indices, Splits
from search.records import JobWarning

_CONFIDENCE = 0.99
_Z = 2.326  # one side of 1 %
_SKILL = 0.2  # of the way from the most frequent class to all right, below which a network is weak
_GAIN = 0.05  # of the examples that another order of classes makes right
_EXCESS = 0.25  # of the examples that one class is answered for beyond its own
_TELLING = 10  # examples that tell probabilities from class scores
_EVEN = 1e-3  # by which sums of probabilities differ, of their size
_NAMED = 3  # classes that a message names

Truth = np.ndarray[Any, np.dtype[np.bool_]]
Scores = np.ndarray[Any, np.dtype[np.float32]]


class BaselineAtChance(EspalierError):
    """An original network that is no better than the most frequent class."""

    code = "evaluation.chance"


@dataclass(frozen=True, slots=True)
class Answers:
    """What the original answers on the hold-out, in random order.

    Attributes:
        predicted: `(n,)` classes.
        labels: `(n,)` right ones, by the network's numbers.
        names: of the network's classes; empty if it has none.
        preprocessed: whether the package says how raw values become inputs.
    """

    predicted: Indices
    labels: Indices
    names: Sequence[str] = ()
    preprocessed: bool = True

    @property
    def right(self) -> Truth:
        found: Truth = self.predicted == self.labels
        return found

    def called(self, number: int) -> str:
        """A class as messages have it."""
        name = f" ({self.names[number]!r})" if number < len(self.names) else ""
        return f"{number}{name}"


def upper(count: int, of: int) -> float:
    """The share that is not exceeded, with 99 % confidence, where `count` of `of` were seen."""
    return 1.0 if count == of else float(betaincinv(count + 1, of - count, _CONFIDENCE))


def lower(count: int, of: int) -> float:
    """The share that is exceeded, see `upper`."""
    return 1.0 - upper(of - count, of)


def check_answers(answers: Answers, *, allow_chance: bool) -> list[JobWarning]:
    """What looks wrong in the original's answers.

    Args:
        allow_chance: warn of a network at chance instead of refusing it.

    Raises:
        BaselineAtChance: top-1 is confidently no higher than the share of the most frequent class,
            and there are others.
    """
    count, right = len(answers.labels), int(answers.right.sum())
    most, share = _most_frequent(answers.labels)
    # Where one class is answered for all, whatever is answered it looks like another order.
    found = list(_numbered_otherwise(answers))
    found += list(_one_sided(answers)) or ([] if found else list(_other_order(answers)))
    measured = (
        f"the original network's top-1 accuracy on the hold-out is {100 * right / count:.1f} % of "
        f"{count} examples"
    )
    constant = f"always answering class {answers.called(most)} gives {100 * share:.1f} %"
    if upper(right, count) <= share < 1:  # of one class alone nothing could be better
        causes = _causes(answers, found)
        message = (
            f"{measured}, at most {100 * upper(right, count):.1f} % with 99 % confidence, and "
            f"{constant}: {causes}"
        )
        if not allow_chance:
            raise BaselineAtChance(
                f"{message}; or set evaluation.allow_chance to true to go on with it as it is"
            )
        return [JobWarning(BaselineAtChance.code, message), *found]
    if lower(right, count) <= share or right / count <= share + _SKILL * (1 - share):
        message = f"{measured}, and {constant}: {_causes(answers, found)}"
        return [JobWarning("evaluation.near_chance", message), *found]
    return found


def check_scores(scores: Scores) -> list[JobWarning]:
    """Probabilities in the place of class scores, for which the graph has no head.

    Args:
        scores: `(n, classes)` of the original on the hold-out, as it yields them.
    """
    if len(scores) < _TELLING or scores.min() < 0:
        return []
    sums = scores.sum(1)
    if float(np.ptp(sums)) <= _EVEN * float(sums.min()):
        seen = f"they add up to {float(sums.mean()):.3g} for every example"
    elif scores.max() <= 1:
        seen = "none is above 1"
    else:
        return []
    return [
        JobWarning(
            "evaluation.probabilities",
            f"the network's outputs look like probabilities (none is below 0, and {seen}), but are "
            "taken for class scores, so that losses and divergences are off: pack the network "
            "without the step that makes them, or end it in softmax, log_softmax or sigmoid, which "
            "are recognized",
        )
    ]


def _most_frequent(values: Indices) -> tuple[int, float]:
    """The class that most of them are, and their share."""
    numbers, counts = np.unique(values, return_counts=True)
    return int(numbers[counts.argmax()]), float(counts.max() / len(values))


def _causes(answers: Answers, found: Sequence[JobWarning]) -> str:
    for warning in found:
        if warning.code == "evaluation.class_order":
            return warning.message
    packed = "" if answers.preprocessed else ", of which the package says nothing"
    return (
        f"check the preprocessing (scale, mean, std{packed}), that labels count from 0, and that "
        "the classes of the data are in the network's order"
    )


def _numbered_otherwise(answers: Answers) -> Iterator[JobWarning]:
    """Labels that would be right if they were counted from another number."""
    count, right = len(answers.labels), int(answers.right.sum())
    for step, way in ((-1, "lower"), (1, "higher")):
        moved = int((answers.predicted == answers.labels + step).sum())
        if lower(moved, count) > max(upper(right, count), _most_frequent(answers.labels)[1]):
            yield JobWarning(
                "evaluation.class_order",
                f"with every label one {way} {100 * moved / count:.1f} % of the hold-out were "
                f"answered right instead of {100 * right / count:.1f} %: labels count from 0, in "
                "the order of the network's outputs; correct those of the data",
            )
            return


def _other_order(answers: Answers) -> Iterator[JobWarning]:
    """Labels that would be right in another order of the classes.

    Which one is found on one half of the hold-out, and tested on the other: the best of all orders
    always looks good where it was found.
    """
    half = len(answers.labels) // 2
    order = _best_order(answers.labels[:half], answers.predicted[:half])
    labels, predicted = answers.labels[half:], answers.predicted[half:]
    mapped = np.array([order.get(label, label) for label in labels.tolist()], dtype=np.int64)
    gained = int(((predicted == mapped) & (predicted != labels)).sum())
    lost = int(((predicted != mapped) & (predicted == labels)).sum())
    if gained - lost <= max(_Z * math.sqrt(gained + lost), _GAIN * len(labels)):
        return
    if lower(int((predicted == mapped).sum()), len(labels)) <= _most_frequent(labels)[1]:
        return
    moved_classes = [(label, to) for label, to in sorted(order.items()) if label != to]
    some = ", ".join(
        f"{answers.called(label)} as {answers.called(to)}" for label, to in moved_classes[:_NAMED]
    )
    more = len(moved_classes) - _NAMED
    now, then = (100 * float((predicted == wanted).mean()) for wanted in (labels, mapped))
    yield JobWarning(
        "evaluation.class_order",
        f"the network answers classes of the data as others, one for one: {some}"
        f"{f' and {more} more' if more > 0 else ''}; read so, {then:.1f} % of the hold-out were "
        f"answered right instead of {now:.1f} %: bring the classes of the data into the order of "
        "the network's outputs",
    )


def _best_order(labels: Indices, predicted: Indices) -> dict[int, int]:
    """The class that is answered for each label, one for one, the commonest pairs first."""
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    order: dict[int, int] = {}
    taken: set[int] = set()
    for at in np.lexsort((pairs[0] != pairs[1], -counts)):  # of equals those that are right
        label, answer = (int(value) for value in pairs[:, at])
        if label not in order and answer not in taken:
            order[label] = answer
            taken.add(answer)
    return order


def _one_sided(answers: Answers) -> Iterator[JobWarning]:
    """A class that is answered for far more examples than have it."""
    count = len(answers.predicted)
    most, answered = _most_frequent(answers.predicted)
    own = float((answers.labels == most).mean())
    if lower(round(answered * count), count) - own > _EXCESS:
        yield JobWarning(
            "evaluation.one_sided",
            f"the original network answers class {answers.called(most)} for "
            f"{100 * answered:.1f} % of the hold-out, of which {100 * own:.1f} % "
            "have it: check the preprocessing that the network was packed with (scale, mean, std)",
        )


_RAISE: Mapping[str, str] = {
    "holdout": "evaluation.holdout",
    "calibration": "evaluation.calibration",
    "test": "evaluation.test_fraction",
}
_WORDS: Mapping[str, str] = {"holdout": "hold-out", "test": "test split", "tuning": "tuning split"}


def check_splits(dataset: Dataset, splits: Splits) -> list[JobWarning]:
    """Classes of the data that a split has no example of; nothing without labels."""
    labels = dataset.train.labels
    if labels is None:
        return []
    parts = {
        "holdout": dataset.holdout if splits.own_holdout else dataset.train,
        "tuning": dataset.train,
        "calibration": dataset.train,
        "test": dataset.test if splits.own_test else dataset.train,
    }
    every = [part.labels for part in parts.values() if part is not None and part.labels is not None]
    classes = np.unique(np.concatenate([np.unique(values) for values in every]))
    found = []
    for name, part in parts.items():
        places: Indices = getattr(splits, name)
        if part is None or part.labels is None or not len(places):
            continue
        there = np.unique(part.labels[places])
        if len(there) < len(classes):
            lost = np.setdiff1d(classes, there)
            found.append(_lacking(name, len(places), len(classes), lost.tolist(), dataset))
    return found


def _lacking(
    name: str, count: int, classes: int, lost: Sequence[int], dataset: Dataset
) -> JobWarning:
    names = dataset.description.classes
    shown = [f"{label} ({names[label]!r})" if label < len(names) else str(label) for label in lost]
    some = ", ".join(shown[:_NAMED])
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    way_out = "bring more examples of them"
    if count < classes and name in _RAISE:
        way_out = f"raise {_RAISE[name]}, or bring more examples"
    return JobWarning(
        "dataset.classes_missing",
        f"the {_WORDS.get(name, name)} of {count} examples has none of {len(lost)} of the data's "
        f"{classes} classes: {some}{more}; {way_out}",
    )
