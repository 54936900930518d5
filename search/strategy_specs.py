"""The specifications of the search strategies, one a class. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from search.versions import Frozen


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
