"""Where the next trial of an Optuna search should be: from all trials so far, and a seed.

A sampler has no memory. It is given the trials, their points in the box of keep ratios, and what
became of them; from these it is built anew whenever trials are asked for, with a seed for each
trial. So a search that was interrupted goes on as if it had not been.

Sources: TPE is Watanabe 2023, arXiv:2304.11127, and NSGA-II is Deb et al. 2002,
doi:10.1109/4235.996017, both as Optuna implements them (Akiba et al. 2019, arXiv:1907.10902);
CMA-ES is Hansen 2016, arXiv:1604.00772, as in the `cmaes` package that Optuna uses, too.

Deviations:

1. Optuna keeps the optimizer of CMA-ES pickled in its storage and leaves out a trial that ends
   after its generation was told. Here generations are told again, from the stored trials: the
   first `population` to end are the first generation, the next as many the second, and so on.
   With one trial at a time that is CMA-ES; with several at once none is wasted, and a generation
   may hold points that were drawn from the one before.
2. A failed trial is a failed trial to Optuna, which learns nothing from it; so do we in CMA-ES.
3. Optuna's defaults are kept but for two: TPE draws a quarter of its trials at random at most, and
   the population of NSGA-II is a tenth of the trials, within 4 and 50 (Optuna: 10, and 50).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from search.strategies.front import Direction

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

Point = tuple[float, ...]
"""A keep ratio for each group that has a choice."""

_DIGITS = 5  # of a stored keep ratio: far finer than any group's widths
RESOLUTION = 10.0**-_DIGITS
_GENERATION = "NSGAIISampler:generation"  # where Optuna keeps it, among a trial's system attributes


@dataclass(slots=True)
class Tried:
    """A trial as a sampler sees it.

    Attributes:
        point: as it was drawn.
        generation: of NSGA-II.
        arrival: counts the outcomes from 0; `None` while the trial is outstanding.
        values: one for each objective; `None` if the trial is outstanding or failed.
    """

    point: Point
    generation: int | None = None
    arrival: int | None = None
    values: tuple[float, ...] | None = None


class Sampler(Protocol):
    """Draws points. Its settings never change, and it keeps nothing from one call to the next."""

    def draw(
        self, tried: Sequence[Tried], fixed: Sequence[Point | None], seed: int, /
    ) -> list[Tried]:
        """The next trials.

        Args:
            tried: all trials so far, in the order of their numbers.
            fixed: for each trial that is wanted, its point, or `None` if it is to be drawn.
            seed: of the search; each trial is drawn with it and its own number.
        """
        ...


def seed_of(seed: int, number: int) -> int:
    """The seed of one trial, 32 bits."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def rounded(values: Sequence[float], lowest: Sequence[float]) -> Point:
    """Values as they are stored: short, and still within the box."""
    return tuple(
        min(1.0, max(low, round(float(value), _DIGITS)))
        for value, low in zip(values, lowest, strict=True)
    )


class CmaEs:
    """CMA-ES over the box, from its middle.

    Args:
        lowest: `(groups,)` the box is from there to 1.
    """

    def __init__(self, lowest: Point) -> None:
        self._lowest = np.array(lowest)
        self._span = 1.0 - self._lowest

    def draw(
        self, tried: Sequence[Tried], fixed: Sequence[Point | None], seed: int, /
    ) -> list[Tried]:
        """As `Sampler.draw`; the first value is what is maximized."""
        import cmaes

        dimensions = len(self._lowest)
        optimizer = cmaes.CMA(
            mean=np.full(dimensions, 0.5),
            sigma=1 / 6,
            bounds=np.tile([0.0, 1.0], (dimensions, 1)),
            n_max_resampling=10 * dimensions,
        )
        ended = sorted(
            (trial.arrival, (np.array(trial.point) - self._lowest) / self._span, -trial.values[0])
            for trial in tried
            if trial.arrival is not None and trial.values is not None
        )
        solutions = [(point, loss) for _, point, loss in ended]
        size = optimizer.population_size
        for start in range(0, len(solutions) - size + 1, size):
            optimizer.tell(solutions[start : start + size])
        drawn = []
        for number, point in enumerate(fixed, len(tried)):
            if point is None:
                optimizer.reseed_rng(seed_of(seed, number))
                values = self._lowest + optimizer.ask() * self._span
                point = rounded(values.tolist(), self._lowest.tolist())
            drawn.append(Tried(point))
        return drawn


class InStudy:
    """A sampler of Optuna's, on a study in memory.

    Args:
        kind: which one.
        lowest: `(groups,)` the box is from there to 1.
        trials: how many the search will have.
        directions: for each value, whether it is maximized.
    """

    def __init__(
        self,
        kind: Literal["tpe", "nsga2", "random"],
        lowest: Point,
        trials: int,
        directions: Sequence[Direction],
    ) -> None:
        self._kind, self._lowest, self._trials = kind, lowest, trials
        self._directions = list(directions)

    @property
    def population(self) -> int:
        """Of NSGA-II."""
        return max(4, min(50, self._trials // 10))

    def draw(
        self, tried: Sequence[Tried], fixed: Sequence[Point | None], seed: int, /
    ) -> list[Tried]:
        """As `Sampler.draw`."""
        study, space = self._study(tried), _space(self._lowest)
        if self._kind == "nsga2":
            self._choose_parents(study, tried)
        drawn = []
        for number, point in enumerate(fixed, len(tried)):
            study.sampler = self._sampler(seed_of(seed, number))
            if point is not None:
                study.enqueue_trial(dict(zip(space, point, strict=True)))
            trial = study.ask(space)
            values = rounded([trial.params[name] for name in space], self._lowest)
            attributes = study.get_trials(deepcopy=False)[number].system_attrs
            drawn.append(Tried(point or values, attributes.get(_GENERATION)))
        return drawn

    def _choose_parents(self, study: Study, tried: Sequence[Tried]) -> None:
        """So that all trials of a draw see them alike.

        Optuna gives parents in the order of their choice when it chooses them, and afterwards, from
        its storage, in the order of their numbers.
        """
        from optuna.samplers import NSGAIISampler

        sampler = NSGAIISampler(population_size=self.population)
        done = [trial.generation for trial in tried if trial.values is not None]
        last = max((generation for generation in done if generation is not None), default=-1)
        for generation in range(1, last + 2):
            sampler.get_parent_population(study, generation)

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

        if self._kind == "tpe":
            return TPESampler(seed=seed, n_startup_trials=min(10, self._trials // 4))
        if self._kind == "nsga2":
            return NSGAIISampler(seed=seed, population_size=self.population)
        return RandomSampler(seed=seed)

    def _study(self, tried: Sequence[Tried]) -> Study:
        """With the trials in it, numbered as ours."""
        import optuna
        from optuna.trial import FrozenTrial, TrialState

        logging.getLogger("optuna.storages._in_memory").setLevel(logging.WARNING)
        storage, space = optuna.storages.InMemoryStorage(), _space(self._lowest)
        study = optuna.create_study(storage=storage, directions=self._directions)
        for trial in tried:
            state = TrialState.RUNNING if trial.arrival is None else TrialState.FAIL
            if trial.values is not None:
                state = TrialState.COMPLETE
            generation = {} if trial.generation is None else {_GENERATION: trial.generation}
            frozen = FrozenTrial(  # `create_trial` checks every parameter: 0.3 ms a trial
                number=-1,
                trial_id=-1,
                state=state,
                value=None,
                values=trial.values,
                datetime_start=None,
                datetime_complete=None,
                params=Shared(zip(space, trial.point, strict=True)),
                distributions=space,
                user_attrs={},
                system_attrs=generation,
                intermediate_values={},
            )
            storage.create_new_trial(study._study_id, template_trial=frozen)
        return study


class Shared(dict[str, Any]):
    """Never changed, so that a deep copy, of which Optuna makes many, is the same object."""

    def __deepcopy__(self, memo: object) -> Shared:
        return self


@functools.lru_cache(maxsize=16)
def _space(lowest: Point) -> Shared:
    """The box, a parameter for each group."""
    from optuna.distributions import FloatDistribution

    class Ratio(FloatDistribution):
        """Equal to itself without a look at its fields."""

        def __eq__(self, other: object) -> bool:
            return self is other or super().__eq__(other)

        def __hash__(self) -> int:
            return super().__hash__()

    return Shared({str(index): Ratio(low, 1.0) for index, low in enumerate(lowest)})
