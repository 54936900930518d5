"""Fine-tuning of the winner, in slices that can be interrupted after any step.

Everything random at a step follows from the seed and the step's number, so a checkpoint needs no
generator's state, and a run that was interrupted anywhere equals one that was not, to the last
bit. Distillation: Hinton et al. 2015, arXiv:1503.02531. Schedule: Loshchilov and Hutter 2017,
arXiv:1608.03983, one period without restarts, after a linear warm-up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from search.evaluation import checkpoint
from search.evaluation.augment import augment
from search.evaluation.checkpoint import CheckpointInvalid
from search.evaluation.evaluator import Evaluator, restore, snapshot
from search.evaluation.inference import lay_out, prefers_channels_last
from search.evaluation.metrics import distance, finite, label_loss
from search.evaluation.seeds import derive, dropout_seed, generator
from search.evaluation.splits import Indices
from search.evaluation.training import Training
from search.spec import FineTuneSpec

_ORDER, _AUGMENT, _DROPOUT = 2, 3, 4  # streams of the seed


def rate(step: int, total: int, spec: FineTuneSpec) -> float:
    """The learning rate of a step, counted from 0."""
    warm = int(spec.warmup * total)
    if step < warm:
        return spec.learning_rate * (step + 1) / warm
    return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


class FineTuner:
    """Trains a pruned network on the tuning split and keeps the best state on the hold-out.

    Parameters that need no gradient (`requires_grad`) stay as they are; without any other there is
    nothing to do.

    The state before the first step is a candidate too: on the hold-out, by the specification's
    metric, the result is never worse than what went in. With `keep` `last` it is the state after
    the last epoch whose outputs were numbers, whatever it scores.

    Args:
        network: trained in place; must share no tensor with the original (`Evaluator.network`).
        evaluator: gives the data, the original network, the metric and the specification.
        seed: of the batches, the augmentation and dropout.
        subject: of what it is trained and on what; a checkpoint of another subject is refused.
    """

    def __init__(
        self, network: GraphModule, evaluator: Evaluator, *, seed: int, subject: str = ""
    ) -> None:
        self._spec = evaluator.spec.finetune
        self._network = network.to(evaluator.device)
        channels_last = prefers_channels_last(self._network)
        self._training = Training(self._network, channels_last=channels_last)
        self._evaluator = evaluator
        self._seed = seed
        self._subject = subject
        self._tuning = evaluator.splits.tuning
        self._batch = min(self._spec.batch_size, len(self._tuning))
        self._per_epoch = len(self._tuning) // self._batch
        self._parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.total = self._spec.epochs * self._per_epoch if self._parameters else 0
        self._optimizer = torch.optim.SGD(
            [{"params": list(self._parameters.values())}],
            self._spec.learning_rate,
            momentum=self._spec.momentum,
            weight_decay=self._spec.weight_decay,
        )
        self._order: tuple[int, Indices] | None = None
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._best: dict[str, Tensor] = {}
        self._best_key: list[float] | None = None
        self._losses = 0.0
        self._diverged = False

    @property
    def done(self) -> bool:
        return bool(self.history) and (self._diverged or self.step >= self.total)

    @property
    def fraction(self) -> float:
        """How much of the steps is done, 0 to 1."""
        return 1.0 if self.done else self.step / max(1, self.total)

    def run(
        self, max_seconds: float = math.inf, should_stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train on, for at least one step.

        Args:
            max_seconds: returns after the step that passes this.
            should_stop: asked after each step.
        Returns:
            Whether everything is done.
        """
        until = time.monotonic() + max_seconds
        if not self.history:
            self._assess(epoch=0, loss=None)
        while not self.done:
            self._advance()
            if time.monotonic() >= until or should_stop():
                break
        return self.done

    def network(self) -> GraphModule:
        """The network with the weights to keep, in eval mode; call it when done."""
        if self._best:
            restore(self._network, self._best)
        lay_out(self._network, channels_last=False)
        return self._network.eval()

    # --- one step -------------------------------------------------------------------------------

    def _examples(self) -> Indices:
        epoch, at = divmod(self.step, self._per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(
                len(self._tuning), generator=generator(self._seed, _ORDER, epoch)
            )
            self._order = epoch, self._tuning[order.numpy()]
        return self._order[1][at * self._batch : (at + 1) * self._batch]

    def _loss(self, part: Indices) -> Tensor:
        spec, feed = self._spec, self._evaluator.feed
        inputs = augment(
            feed.inputs(part), spec.augment, generator(self._seed, _AUGMENT, self.step)
        )
        logits = self._training(inputs).float()
        independent = self._evaluator.scores.independent
        share = spec.distillation if feed.labelled else 1.0
        loss = torch.zeros((), device=logits.device)
        if share < 1:
            loss = (1 - share) * label_loss(
                logits, feed.labels(part), spec.label_smoothing, independent=independent
            )
        if share > 0:
            wanted = self._evaluator.teach(inputs)
            apart = distance(logits, wanted, spec.temperature, independent=independent)
            loss = loss + share * apart
        return loss

    def _advance(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate(self.step, self.total, self._spec)
        self._network.train()
        with dropout_seed(derive(self._seed, _DROPOUT, self.step), self._evaluator.device):
            loss = self._loss(self._examples())
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
        if self._spec.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters.values(), self._spec.clip_norm)
        self._optimizer.step()
        self.step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            self._diverged = True
            self.history.append({"epoch": self._epoch, "diverged": True})
            return
        self._losses += value
        if self.step % self._per_epoch == 0:
            self._assess(self._epoch, self._losses / self._per_epoch)
            self._losses = 0.0

    @property
    def _epoch(self) -> int:
        return -(-self.step // self._per_epoch)

    def _assess(self, epoch: int, loss: float | None) -> None:
        """Measure on the hold-out; keep the state if it beats all before it, or is to be kept."""
        metrics = self._evaluator.measure(self._network, "holdout")
        score = self._evaluator.score(metrics)
        self.history.append({"epoch": epoch, "loss": loss, "score": score, **finite(metrics)})
        if score is None:
            self._best = self._best or snapshot(self._network)
            return
        # Accuracies tie often; the smoother measure decides.
        key = [score, -metrics.get("cross_entropy", metrics["kl"])]
        if self._best_key is None or key > self._best_key or self._spec.keep == "last":
            self._best_key = key
            self._best = snapshot(self._network)

    # --- checkpoints ----------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "subject": self._subject,
            "seed": self._seed,
            "total": self.total,
            "batch": self._batch,
            "spec": self._spec.identity(),
            "parameters": {name: list(value.shape) for name, value in self._parameters.items()},
        }

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `run` changes, as tensors and as JSON values."""
        tensors = {f"weights/{name}": v for name, v in self._network.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self._best.items()}
        for name, parameter in self._parameters.items():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{name}"] = momentum
        facts = {
            "identity": self._identity(),
            "step": self.step,
            "history": self.history,
            "best_key": self._best_key,
            "losses": self._losses,
            "diverged": self._diverged,
        }
        return tensors, facts

    def load_state_dict(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from a stored state.

        Raises:
            CheckpointInvalid: it belongs to another network, seed or specification.
        """
        if facts.get("identity") != self._identity():
            raise CheckpointInvalid(
                "the checkpoint belongs to another job, network, seed or fine-tuning specification"
            )
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "momentum": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = value
        self._network.load_state_dict(parts["weights"])
        self._best = parts["best"]
        for name, value in parts["momentum"].items():
            parameter = self._parameters[name]
            self._optimizer.state[parameter]["momentum_buffer"] = value.to(parameter.device)
        self.step = int(facts["step"])
        self.history = list(facts["history"])
        self._best_key = facts["best_key"]
        self._losses = float(facts["losses"])
        self._diverged = bool(facts["diverged"])

    def save(self, path: Path) -> Path:
        """Write the whole state into one file without pickles."""
        return checkpoint.save(path, *self.state_dict())

    def restore(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointInvalid: damaged, or of another run.
        """
        self.load_state_dict(*checkpoint.restore(path))
