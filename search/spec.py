"""The specification of a job, validated: what a user may ask for. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from espalier.targets import RuntimeName
from search.strategy_specs import AllocateSpec, NetAdaptSpec, StrategySpec
from search.versions import NEWEST, Frozen, Later, Version, with_version

_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]+)?%")
_MOST = 2**63  # whole numbers end where those of databases and arrays do

Count = Annotated[int, Field(lt=_MOST)]
Amount = Annotated[float, Field(le=1e6)]
"""Beyond every use, and the square is still a float32."""


def _limit(value: int | str) -> int | str:
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value) or not 0 < float(value[:-1]) <= 100:
            raise ValueError('a limit is a whole number or a percentage of the original, as "50%"')
    elif not 1 <= value < _MOST:
        raise ValueError("a limit is at least 1 and below 2**63")
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


Criterion = Literal["l1", "l2", "bn_scale", "obs", "random"]
Metric = Literal["top1", "top5", "cross_entropy", "agreement"]


def _number_or_word(value: Any) -> str:
    """Which branch of `Multiple` is meant, so that an error is about that one alone."""
    return "str" if isinstance(value, str) and not value.isdecimal() else "int"


Multiple = Annotated[
    Annotated[int, Field(ge=1, le=1024), Tag("int")] | Annotated[Literal["auto"], Tag("str")],
    Discriminator(_number_or_word),
]


class RoundingSpec(Frozen):
    """Which channel counts are allowed."""

    multiple: Multiple = Field(
        "auto",
        description="auto for the widths that run fast on the target, found by timing the "
        "network's own layers before the search; or a number: what a group leaves of each tensor "
        "that a layer makes is a multiple of so many channels, or all; a group may own several "
        "channels of a tensor at once, as a head's",
    )
    minimum: Count = Field(1, ge=1, description="and so many channels at least")


Reconstruction = Literal["none", "parallel", "sequential"]
Recalibration = Literal["auto", "none", "plain", "relative"]


class EvaluationSpec(Frozen):
    """How a trial is scored. The three splits and the test split never share an example."""

    metric: Metric = "top1"
    calibration: Count = Field(
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
    holdout: Count = Field(
        1000,
        ge=1,
        description="examples that score the trials; at most a quarter of those there are, or all "
        "of a hold-out that the data bring",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share kept for the test, where the data brings no test split"
    )
    batch_size: int = Field(128, ge=2, le=65_536)  # batch-norm cannot be trained on one
    tuning_rate: Amount = Field(1e-3, gt=0, description="learning rate of a trial's short tuning")
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
    learning_rate: Amount = Field(0.02, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps spent warming up")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: Amount = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distillation: float = Field(
        0.5, ge=0, le=1, description="weight of the original network's outputs as targets"
    )
    temperature: Amount = Field(2.0, gt=0)
    augment: Literal["none", "crop", "flip", "crop_flip"] = "none"
    clip_norm: Amount | None = Field(
        5.0, gt=0, description="longest gradient; null switches clipping off"
    )
    batch_size: int = Field(128, ge=2, le=65_536)  # batch-norm cannot be trained on one
    keep: Literal["best", "last"] = Field(
        "best",
        description="which epoch's weights: the best on the hold-out, or the last; last where the "
        "network was trained on the hold-out, which then prefers the untuned start",
    )


class TargetSpec(Frozen):
    """What the pruned network shall run on, and is timed on."""

    runtime: RuntimeName = Field(
        "onnxruntime", description="what runs the file: ONNX, or for torch the package"
    )
    threads: int = Field(1, ge=1, le=256, description="that compute one batch")
    batch: int = Field(1, ge=1, le=4096, description="examples at once")
    device: str | None = Field(
        None,
        max_length=40,
        description="id of a device, as GET /v1/targets lists them; that of whichever worker "
        "prepares the job if not given",
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
    target: Annotated[TargetSpec, Later(TargetSpec())] = TargetSpec()
    seed: int = Field(0, ge=0, lt=_MOST)
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
        """What the losses of single groups (`search.levels`) follow from.

        Besides the files and the widths that the groups may keep (`Prepared.choices`).
        """
        evaluation = self.evaluation.model_dump(
            mode="json", exclude={"metric", "racing", "allow_chance"}
        )
        rules = {"version": self.version, "seed": self.seed, "ranking": self.ranking}
        return {**rules, **evaluation}

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
