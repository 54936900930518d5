"""The specification of a job, validated: what a user may ask for. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from search.versions import NEWEST, Frozen, Later, Version, with_version

_PERCENT = re.compile(r"^\d{1,3}(\.\d+)?%$")


def _limit(value: int | str) -> int | str:
    if isinstance(value, str):
        if not _PERCENT.match(value) or not 0 < float(value[:-1]) <= 100:
            raise ValueError('a limit is a whole number or a percentage of the original, as "50%"')
    elif value < 1:
        raise ValueError("a limit is at least 1")
    return value


Limit = Annotated[int | str, AfterValidator(_limit)]


class BudgetSpec(Frozen):
    """Limits on what the pruned network may cost; all of them hold at once.

    A whole number is absolute, a string such as `"50%"` is relative to the original network.
    """

    macs: Limit | None = Field(None, description="multiply-accumulates for one example")
    params: Limit | None = Field(None, description="number of parameters")
    weight_bytes: Limit | None = Field(None, description="bytes of all stored tensors")
    peak_activation_bytes: Limit | None = Field(
        None, description="largest sum of live activations for one example"
    )

    @model_validator(mode="after")
    def _some(self) -> BudgetSpec:
        if not self.limits():
            raise ValueError("a budget needs at least one limit: macs, params, ...")
        return self

    def limits(self) -> dict[str, int | str]:
        """The limits that were given, by the name of the cost."""
        return {name: value for name, value in self if value is not None}


class UniformSpec(Frozen):
    """The same keep ratio everywhere: the largest that the budget admits."""

    name: Literal["uniform"] = "uniform"


class RandomSpec(Frozen):
    """The best of several random plans within the budget."""

    name: Literal["random"] = "random"
    trials: int = Field(20, ge=1, le=10_000)


class NetAdaptSpec(Frozen):
    """NetAdapt (Yang et al., ECCV 2018): one group at a time, the cost lowered step by step."""

    name: Literal["netadapt"] = "netadapt"
    selection: Literal["accuracy", "ratio"] = Field(
        "accuracy", description="the paper's rule, or the reference code's drop per resource"
    )
    first_step: float = Field(
        0.03,
        gt=0,
        le=1,
        description="share of the original cost removed by the first iteration; a group that "
        "cannot lose so much by itself sits out, so deep networks need small steps",
    )
    decay: float = Field(0.98, gt=0, le=1, description="factor on the step after each iteration")
    tuning_steps: int = Field(10, ge=0, le=100_000, description="short fine-tuning of each trial")


class SensitivitySpec(Frozen):
    """One tolerated drop for all groups, from the curves of single groups (Li et al. 2017)."""

    name: Literal["sensitivity"] = "sensitivity"
    levels: int = Field(
        9,
        ge=1,
        le=99,
        description="widths at which each group is measured on its own; 9 keeps 90 %, 80 %, ... "
        "10 % of its channels",
    )


Objective = Literal["score", "macs", "params", "weight_bytes", "peak_activation_bytes"]


class OptunaSpec(Frozen):
    """Black-box search over the groups' keep ratios, through Optuna."""

    name: Literal["optuna"] = "optuna"
    sampler: Literal["tpe", "cmaes", "nsga2", "random"] = "tpe"
    trials: int = Field(200, ge=1, le=2000)
    objectives: tuple[Objective, ...] | None = Field(
        None,
        description="of `nsga2`: the score, highest, against one or more costs, lowest; "
        "score and macs if left out",
    )
    points: int | None = Field(
        None,
        ge=0,
        le=50,
        description="of `nsga2`: networks along the front that are solved for in full at the end, "
        "beside the winner, and kept with their weights; 8 if left out",
    )

    @model_validator(mode="after")
    def _fitting(self) -> OptunaSpec:
        if self.points is not None and self.sampler != "nsga2":
            raise ValueError("points are for the sampler nsga2: the others leave no front")
        if self.objectives is None:
            return self
        if self.sampler != "nsga2":
            raise ValueError("objectives are for the sampler nsga2: the others take the score")
        if len(self.objectives) < 2 or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives are two or more, each named once")
        if "score" not in self.objectives:
            raise ValueError(
                "objectives include score: of costs alone the smallest network is the best"
            )
        return self

    def aims(self) -> tuple[Objective, ...]:
        """What the search is for, defaults filled in."""
        if self.sampler != "nsga2":
            return ("score",)
        return self.objectives or ("score", "macs")

    @property
    def front_points(self) -> int:
        """`points`, the default filled in."""
        if self.sampler != "nsga2":
            return 0
        return 8 if self.points is None else self.points


CostName = Literal["macs", "params", "weight_bytes", "peak_activation_bytes"]


class RewardSpec(Frozen):
    """What AMC's agent is rewarded with; the trial of the highest reward wins."""

    kind: Literal["score", "guaranteed", "weighted"] = Field(
        "score",
        description="the score; or -error x sum(weight x log(cost)), which finds by itself how "
        "much can go without loss of accuracy, with a budget of up to 100 %; or score - "
        "sum(weight x log(cost / cost of the original))",
    )
    weights: dict[CostName, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        {"macs": 1.0}, description="by cost, of the kinds `guaranteed` and `weighted`"
    )

    @model_validator(mode="after")
    def _some(self) -> RewardSpec:
        if not any(self.weights.values()):
            raise ValueError("one weight at least is above 0")
        return self


class AmcSpec(Frozen):
    """AMC (He et al., ECCV 2018): an agent walks the groups and learns from the rewards."""

    name: Literal["amc"] = "amc"
    trials: int = Field(400, ge=1, le=5000, description="episodes, the warm-up included")
    warmup: int | None = Field(
        None,
        ge=0,
        description="random plans at the start, `trials` at most; a quarter of them if left out",
    )
    lower_bound: float = Field(
        0.2,
        gt=0,
        le=1,
        description="least keep ratio of a group; lower for groups for which the budget needs it",
    )
    reward: RewardSpec = RewardSpec()
    sigma: float = Field(
        0.2,
        ge=0.05,
        le=1,
        description="noise on the keep ratios after the warm-up; falls to 0.05 at the last trial",
    )
    hidden: int = Field(
        128,
        ge=8,
        le=300,
        description="width of the agent's hidden layers, 300 in the paper; the state that is "
        "stored after each trial grows with its square",
    )

    @model_validator(mode="after")
    def _fitting(self) -> AmcSpec:
        if self.warmup is not None and self.warmup > self.trials:
            raise ValueError(f"warmup is at most trials: {self.warmup} of {self.trials}")
        return self

    @property
    def warmup_trials(self) -> int:
        """The warm-up, the default filled in."""
        return self.trials // 4 if self.warmup is None else self.warmup


class AllocateSpec(Frozen):
    """Our own: what each group loses at each width, allocated exactly, then solved in sequence."""

    name: Literal["allocate"] = "allocate"
    trials: int = Field(
        24, ge=1, le=1000, description="plans that are tried, each exact for other weights"
    )
    finalists: int = Field(
        3, ge=1, le=20, description="plans that are solved anew on all calibration examples"
    )
    points: int = Field(
        0,
        ge=0,
        le=50,
        description="further networks between the budget and the original, evenly spaced in cost",
    )


StrategySpec = Annotated[
    UniformSpec | RandomSpec | NetAdaptSpec | SensitivitySpec | OptunaSpec | AmcSpec | AllocateSpec,
    Field(discriminator="name"),
]
LEARNING = frozenset({"amc", "optuna"})
"""Strategies whose proposals follow from what has returned: few should be out at once."""
Criterion = Literal["l1", "l2", "bn_scale", "obs", "random"]
Metric = Literal["top1", "top5", "cross_entropy", "agreement"]


class RoundingSpec(Frozen):
    """Which channel counts are allowed."""

    multiple: int = Field(
        1,
        ge=1,
        le=1024,
        description="what a group leaves of each tensor that a layer makes is a multiple of so "
        "many channels, or all; a group may own several channels of a tensor at once, as a head's",
    )
    minimum: int = Field(1, ge=1, description="and so many channels at least")


Reconstruction = Literal["none", "parallel", "sequential"]
Recalibration = Literal["auto", "none", "plain", "relative"]


class EvaluationSpec(Frozen):
    """How a trial is scored. The three splits and the test split never share an example."""

    metric: Metric = "top1"
    calibration: int = Field(
        512,
        ge=0,
        description="examples for reconstruction and for batch-norm recalibration, which takes "
        "two or more; at most half of those that the hold-out leaves",
    )
    reconstruction: Reconstruction = Field(
        "parallel",
        description="after a cut, least squares for the weights that read what was cut: of the "
        "original's inputs, all layers at once; or layer after layer on the cut network's own",
    )
    recalibration: Recalibration = Field(
        "auto",
        description="batch-norm statistics from the calibration examples, plain or relative to "
        "what they make of the original; auto: relative, and none after sequential reconstruction",
    )
    holdout: int = Field(
        1000,
        ge=1,
        description="examples that score the trials; at most a quarter of those there are, or all "
        "of a hold-out that the data bring",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share kept for the test, where the data brings no test split"
    )
    batch_size: int = Field(128, ge=2, le=65_536)  # batch-norm cannot be trained on one
    tuning_rate: float = Field(1e-3, gt=0, description="learning rate of a trial's short tuning")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the passes over the hold-out; bfloat16 is for accelerators, and slower on "
        "processors without it",
    )
    racing: bool = Field(
        False,
        description="give up a trial once the first of the hold-out tell that it does not beat the "
        "best so far; calibrate on an eighth of the calibration examples, 64 at least",
    )
    allow_chance: Annotated[bool, Later(False)] = Field(
        False,
        description="go on, with a warning, where the original network is no better on the "
        "hold-out than to always answer its most frequent class",
    )


class FineTuneSpec(Frozen):
    """How the winner is trained after the search."""

    epochs: int = Field(5, ge=0, le=10_000)
    learning_rate: float = Field(0.02, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps spent warming up")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distillation: float = Field(
        0.5, ge=0, le=1, description="weight of the original network's outputs as targets"
    )
    temperature: float = Field(2.0, gt=0)
    augment: Literal["none", "crop", "flip", "crop_flip"] = "none"
    clip_norm: float | None = Field(
        5.0, gt=0, description="longest gradient; null switches clipping off"
    )
    batch_size: int = Field(128, ge=2, le=65_536)  # batch-norm cannot be trained on one
    keep: Literal["best", "last"] = Field(
        "best",
        description="which epoch's weights: the best on the hold-out, or the last; last where the "
        "network was trained on the hold-out, which then prefers the untuned start",
    )


class JobSpec(Frozen):
    """One compression job."""

    network: str = Field(description="id of an uploaded network")
    dataset: str = Field(description="id of an uploaded dataset")
    budget: BudgetSpec
    strategy: StrategySpec = AllocateSpec()
    criterion: Criterion | None = Field(
        None,
        validate_default=True,
        description="what ranks the channels of a group; obs, the optimal brain surgeon, goes by "
        "what least squares cannot make good. If left out, obs with allocate, else l1",
    )
    rounding: RoundingSpec = RoundingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    finetune: FineTuneSpec = FineTuneSpec()
    seed: int = Field(0, ge=0, lt=2**63)
    name: str | None = Field(None, max_length=200)
    version: Annotated[Version, Later(1)] = Field(
        NEWEST,
        description="of the rules that the job follows to its end; the newest, unless an earlier "
        "job is to be repeated as it was",
    )

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> JobSpec:
        """A specification as a job's row holds it, see `with_version`.

        Raises:
            pydantic.ValidationError: the values are no specification.
        """
        return cls.model_validate(with_version(values))

    @field_validator("criterion")
    @classmethod
    def _ranking(cls, criterion: Criterion | None, info: ValidationInfo) -> Criterion:
        """The default filled in, so that one written out is the same request."""
        return criterion or ("obs" if isinstance(info.data.get("strategy"), AllocateSpec) else "l1")

    @field_validator("evaluation")
    @classmethod
    def _calibrated(cls, evaluation: EvaluationSpec, info: ValidationInfo) -> EvaluationSpec:
        """The strategy and the criterion, which come before, have what they go by."""
        solves = evaluation.calibration and evaluation.reconstruction != "none"
        if isinstance(info.data.get("strategy"), AllocateSpec) and not solves:
            raise ValueError(
                "the strategy allocate solves for weights: it needs evaluation.calibration, and "
                "evaluation.reconstruction parallel or sequential; or name another strategy"
            )
        if info.data.get("criterion") == "obs" and not evaluation.calibration:
            raise ValueError("the criterion obs goes by the data: it needs evaluation.calibration")
        return evaluation

    @property
    def levels(self) -> dict[str, Any]:
        """What the losses of single groups (`search.levels`) follow from, besides the files."""
        evaluation = self.evaluation.model_dump(
            mode="json", exclude={"metric", "racing", "allow_chance"}
        )
        rounding = self.rounding.model_dump(mode="json")
        rules = {"version": self.version, "seed": self.seed, "ranking": self.ranking}
        return {**rules, **evaluation, **rounding}

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for, as JSON values: the same before and after a version is added."""
        asked = self.identity() | {"version": self.version}
        if self.version == NEWEST:
            del asked["version"]
        return asked

    @property
    def stratifies(self) -> bool:
        """Whether splits are made class by class."""
        return self.version >= 2

    @property
    def skips_heads(self) -> bool:
        """Whether what feeds a network's last softmax or sigmoid is taken for its class scores."""
        return self.version >= 2

    @property
    def allows_chance(self) -> bool:
        """Whether an original at chance is no reason to refuse the job."""
        return self.evaluation.allow_chance or self.version < 2

    @property
    def calibrates(self) -> bool:
        """Whether there is no search without calibration examples."""
        return self.strategy.name == "allocate" or self.criterion == "obs"

    @property
    def trains(self) -> bool:
        """Whether gradients are computed: in fine-tuning, or for trials."""
        steps = self.strategy.tuning_steps if isinstance(self.strategy, NetAdaptSpec) else 0
        return self.finetune.epochs > 0 or steps > 0

    @property
    def ranking(self) -> Criterion:
        """The criterion, which validation has filled in."""
        if self.criterion is None:
            raise TypeError("a specification that was not validated has no criterion")
        return self.criterion
