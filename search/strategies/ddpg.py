"""Deep deterministic policy gradient, in numpy.

Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016,
arXiv:1509.02971. To be read beside its Algorithm 1:

    mu(s | theta_mu), Q(s, a | theta_Q)                     `policy`, `value`
    y = r + gamma * Q'(s', mu'(s'))                         `DDPG.targets`
    update Q by the loss  mean (y - Q(s, a))^2              `DDPG.learn`, with `value_gradient`
    update mu by the gradient of  mean Q(s, mu(s))          `DDPG.learn`, with `policy_gradient`
    theta' = tau * theta + (1 - tau) * theta'               `DDPG.learn`

Networks, rates and baseline are those of AMC (He et al. 2018, arXiv:1802.03494, section 3.2, and
its reference code); who remembers the transitions and explores is `search.strategies.amc`.

Everything is float32 and deterministic. All weights of a network lie in one flat array, so that
Adam and the averages of the targets are a few operations on whole networks.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_FINAL = 3e-3  # bound of the last layers' first weights, as in Lillicrap et al., section 7


@dataclass(frozen=True)
class Batch:
    """Transitions.

    Attributes:
        state: `(b, features)`.
        action: `(b, 1)` what was executed, in [0, 1].
        reward: `(b, 1)`.
        next_state: `(b, features)`; any value where `last`.
        last: `(b, 1)` 1 where the episode ends with the action, else 0.
    """

    state: Floats
    action: Floats
    reward: Floats
    next_state: Floats
    last: Floats


class Weights:
    """The arrays of one network, as views of `flat`."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = tuple(shapes)
        ends = [0, *itertools.accumulate(math.prod(shape) for shape in self.shapes)]
        self.flat: Floats = np.zeros(ends[-1], np.float32)
        self.parts: list[Floats] = [
            self.flat[start:end].reshape(shape)
            for (start, end), shape in zip(itertools.pairwise(ends), self.shapes, strict=True)
        ]

    def copy(self) -> Weights:
        """The same values in arrays of their own."""
        other = Weights(self.shapes)
        other.flat[:] = self.flat
        return other


def actor_weights(features: int, hidden: int, random: np.random.Generator) -> Weights:
    """`W1, b1, W2, b2, w3, b3` of `policy`, uniform within 1 / sqrt(inputs)."""
    shapes = [(features, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden, 1), (1,)]
    bounds = [features**-0.5] * 2 + [hidden**-0.5] * 2 + [_FINAL] * 2
    return _drawn(shapes, bounds, random)


def critic_weights(features: int, hidden: int, random: np.random.Generator) -> Weights:
    """`Ws, Wa, b1, W2, b2, w3, b3` of `value`, uniform within 1 / sqrt(inputs)."""
    shapes = [(features, hidden), (1, hidden), (hidden,)]
    shapes += [(hidden, hidden), (hidden,), (hidden, 1), (1,)]
    bounds = [features**-0.5, 1.0, features**-0.5] + [hidden**-0.5] * 2 + [_FINAL] * 2
    return _drawn(shapes, bounds, random)


def _drawn(
    shapes: list[tuple[int, ...]], bounds: list[float], random: np.random.Generator
) -> Weights:
    weights = Weights(shapes)
    for part, bound in zip(weights.parts, bounds, strict=True):
        part[:] = random.uniform(-bound, bound, part.shape)
    return weights


@dataclass(frozen=True)
class Pass:
    """What a forward pass leaves for the backward pass: hidden layers `(b, hidden)`, and output."""

    h1: Floats
    h2: Floats
    out: Floats


def policy(weights: Weights, state: Floats) -> Pass:
    """`mu(s)`: two rectified layers, then a sigmoid.

    Args:
        state: `(b, features)`.
    Returns:
        actions `(b, 1)` in (0, 1).
    """
    w1, b1, w2, b2, w3, b3 = weights.parts
    h1 = np.maximum(state @ w1 + b1, 0)
    h2 = np.maximum(h1 @ w2 + b2, 0)
    z = np.clip(h2 @ w3 + b3, -30, 30)
    return Pass(h1, h2, 1 / (1 + np.exp(-z)))


def policy_gradient(weights: Weights, state: Floats, done: Pass, d_action: Floats) -> Weights:
    """The gradient of a loss by the actor's weights, from its gradient by the actions `(b, 1)`."""
    _, _, w2, _, w3, _ = weights.parts
    gradient = Weights(weights.shapes)
    d_w1, d_b1, d_w2, d_b2, d_w3, d_b3 = gradient.parts
    d_z = d_action * done.out * (1 - done.out)
    d_w3[:], d_b3[:] = done.h2.T @ d_z, d_z.sum(0)
    d_h2 = (d_z * w3.T) * (done.h2 > 0)
    d_w2[:], d_b2[:] = done.h1.T @ d_h2, d_h2.sum(0)
    d_h1 = (d_h2 @ w2.T) * (done.h1 > 0)
    d_w1[:], d_b1[:] = state.T @ d_h1, d_h1.sum(0)
    return gradient


def value(weights: Weights, state: Floats, action: Floats) -> Pass:
    """`Q(s, a)`: relu(Ws s + Wa a), a rectified layer, then one number.

    Args:
        state: `(b, features)`.
        action: `(b, 1)`.
    Returns:
        values `(b, 1)`.
    """
    ws, wa, b1, w2, b2, w3, b3 = weights.parts
    h1 = np.maximum(state @ ws + action * wa + b1, 0)
    h2 = np.maximum(h1 @ w2 + b2, 0)
    return Pass(h1, h2, h2 @ w3 + b3)


def value_gradient(
    weights: Weights, state: Floats, action: Floats, done: Pass, d_value: Floats
) -> Weights:
    """The gradient of a loss by the critic's weights, from its gradient by the values `(b, 1)`."""
    _, _, _, w2, _, w3, _ = weights.parts
    gradient = Weights(weights.shapes)
    d_ws, d_wa, d_b1, d_w2, d_b2, d_w3, d_b3 = gradient.parts
    d_w3[:], d_b3[:] = done.h2.T @ d_value, d_value.sum(0)
    d_h2 = (d_value * w3.T) * (done.h2 > 0)
    d_w2[:], d_b2[:] = done.h1.T @ d_h2, d_h2.sum(0)
    d_h1 = (d_h2 @ w2.T) * (done.h1 > 0)
    d_ws[:], d_wa[:], d_b1[:] = state.T @ d_h1, action.T @ d_h1, d_h1.sum(0)
    return gradient


def value_slope(weights: Weights, done: Pass) -> Floats:
    """`dQ / da`, `(b, 1)`."""
    _, wa, _, w2, _, w3, _ = weights.parts
    d_h1 = ((w3.T * (done.h2 > 0)) @ w2.T) * (done.h1 > 0)
    return np.asarray(d_h1 @ wa.T, np.float32)


class Adam:
    """Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1, on one network in place."""

    def __init__(self, size: int, rate: float) -> None:
        self.rate = rate
        self.steps = 0
        self.m: Floats = np.zeros(size, np.float32)
        self.v: Floats = np.zeros(size, np.float32)
        self._scratch: Floats = np.empty(size, np.float32)

    def step(self, flat: Floats, gradient: Floats) -> None:
        """One step against the gradient."""
        self.steps += 1
        some = self._scratch
        self.m *= 0.9
        self.m += np.multiply(gradient, 0.1, out=some)
        self.v *= 0.999
        np.multiply(gradient, gradient, out=some)
        some *= 0.001
        self.v += some
        # alpha * m^ / (sqrt(v^) + eps), the corrections of the means drawn out of the arrays
        root = math.sqrt(1 - 0.999**self.steps)
        np.sqrt(self.v, out=some)
        some += 1e-8 * root
        np.divide(self.m, some, out=some)
        some *= self.rate * root / (1 - 0.9**self.steps)
        flat -= some


class DDPG:
    """Actor, critic, their targets and optimisers, and the moving average of the rewards.

    Args:
        features: length of a state.
        hidden: width of both hidden layers of both networks.
        random: draws the first weights.
    """

    tau = 0.01
    gamma = 1.0
    smoothing = 0.5  # of the baseline, per batch

    def __init__(self, features: int, hidden: int, random: np.random.Generator) -> None:
        self.actor = actor_weights(features, hidden, random)
        self.critic = critic_weights(features, hidden, random)
        self.actor_target, self.critic_target = self.actor.copy(), self.critic.copy()
        self.actor_optimizer = Adam(self.actor.flat.size, 1e-4)
        self.critic_optimizer = Adam(self.critic.flat.size, 1e-3)
        self.baseline: float | None = None

    def start_at(self, action: float) -> None:
        """Move the untrained actor's output to an action in (0, 1), for every state."""
        for weights in (self.actor, self.actor_target):
            weights.parts[-1][:] = math.log(action / (1 - action))

    def act(self, state: Floats) -> float:
        """`mu(s)` of one state `(features,)`."""
        return float(policy(self.actor, state[None]).out[0, 0])

    def targets(self, batch: Batch) -> Floats:
        """`y`, `(b, 1)`; the rewards less their moving average."""
        mean = float(batch.reward.mean())
        if self.baseline is None:
            self.baseline = mean
        self.baseline += self.smoothing * (mean - self.baseline)
        action = policy(self.actor_target, batch.next_state).out
        following = value(self.critic_target, batch.next_state, action).out
        reward = batch.reward - np.float32(self.baseline)
        y: Floats = reward + np.float32(self.gamma) * (1 - batch.last) * following
        return y

    def learn(self, batch: Batch) -> None:
        """One update of critic, actor and targets."""
        state, count = batch.state, np.float32(len(batch.state))
        y = self.targets(batch)
        q = value(self.critic, state, batch.action)
        slope = 2 * (q.out - y) / count
        gradient = value_gradient(self.critic, state, batch.action, q, slope)
        self.critic_optimizer.step(self.critic.flat, gradient.flat)

        mu = policy(self.actor, state)
        slope = -value_slope(self.critic, value(self.critic, state, mu.out)) / count
        gradient = policy_gradient(self.actor, state, mu, slope)
        self.actor_optimizer.step(self.actor.flat, gradient.flat)

        for own, target in (
            (self.actor, self.actor_target),
            (self.critic, self.critic_target),
        ):
            target.flat += np.float32(self.tau) * (own.flat - target.flat)

    def _arrays(self) -> dict[str, Floats]:
        return {
            "actor": self.actor.flat,
            "critic": self.critic.flat,
            "actor_target": self.actor_target.flat,
            "critic_target": self.critic_target.flat,
            "actor_m": self.actor_optimizer.m,
            "actor_v": self.actor_optimizer.v,
            "critic_m": self.critic_optimizer.m,
            "critic_v": self.critic_optimizer.v,
        }

    def state_dict(self) -> dict[str, Any]:
        """As JSON values; each array as base64 of little-endian float32."""
        return {
            "steps": self.actor_optimizer.steps,
            "baseline": self.baseline,
            **{name: encode(array, "<f4") for name, array in self._arrays().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state of networks of the same size."""
        self.actor_optimizer.steps = self.critic_optimizer.steps = state["steps"]
        self.baseline = state["baseline"]
        for name, array in self._arrays().items():
            array[:] = decode(state[name], "<f4")


def encode(array: NDArray[Any], dtype: str) -> str:
    """An array as base64 of its bytes."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode("ascii")


def decode(text: str, dtype: str) -> NDArray[Any]:
    """The array of `encode`, flat."""
    return np.frombuffer(base64.b64decode(text), dtype)
