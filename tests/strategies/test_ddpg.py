"""DDPG: hand-written gradients, Adam and whole updates against torch; one problem it must solve."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from search.strategies.ddpg import (
    DDPG,
    Adam,
    Batch,
    Floats,
    Weights,
    actor_weights,
    critic_weights,
    policy,
    policy_gradient,
    value,
    value_gradient,
    value_slope,
)

FEATURES, HIDDEN, ROWS = 5, 17, 23


def actor(parts: list[Tensor], state: Tensor) -> Tensor:
    w1, b1, w2, b2, w3, b3 = parts
    return torch.sigmoid(torch.relu(torch.relu(state @ w1 + b1) @ w2 + b2) @ w3 + b3)


def critic(parts: list[Tensor], state: Tensor, action: Tensor) -> Tensor:
    ws, wa, b1, w2, b2, w3, b3 = parts
    return torch.relu(torch.relu(state @ ws + action @ wa + b1) @ w2 + b2) @ w3 + b3


def tensors(weights: Weights) -> list[Tensor]:
    return [torch.from_numpy(part.copy()).requires_grad_() for part in weights.parts]


def flat(parts: list[Tensor]) -> Floats:
    found: Floats = torch.cat([part.detach().ravel() for part in parts]).numpy()
    return found


def flat_gradient(parts: list[Tensor]) -> Floats:
    return flat([part.grad for part in parts if part.grad is not None])


def batch(seed: int = 1) -> Batch:
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return random.random(shape, dtype=np.float32)

    last = (draw(ROWS, 1) < 0.3).astype(np.float32)
    return Batch(draw(ROWS, FEATURES), draw(ROWS, 1), draw(ROWS, 1), draw(ROWS, FEATURES), last)


def test_gradients_are_those_of_autograd() -> None:
    random = np.random.default_rng(0)
    mu, q = (
        actor_weights(FEATURES, HIDDEN, random),
        critic_weights(FEATURES, HIDDEN, random),
    )
    for weights in (mu, q):
        weights.flat += random.normal(0, 0.2, weights.flat.shape)  # no last layer is small
    data, weighting = batch(), random.normal(size=(ROWS, 1)).astype(np.float32)
    state, action = torch.from_numpy(data.state), torch.from_numpy(data.action).requires_grad_()

    parts = tensors(mu)
    torch.autograd.backward((actor(parts, state) * torch.from_numpy(weighting)).sum())
    done = policy(mu, data.state)
    np.testing.assert_allclose(done.out, actor(parts, state).detach(), rtol=1e-5)
    ours = policy_gradient(mu, data.state, done, weighting)
    np.testing.assert_allclose(ours.flat, flat_gradient(parts), rtol=1e-4, atol=1e-6)

    parts = tensors(q)
    torch.autograd.backward((critic(parts, state, action) * torch.from_numpy(weighting)).sum())
    done = value(q, data.state, data.action)
    np.testing.assert_allclose(done.out, critic(parts, state, action).detach(), rtol=1e-4)
    ours = value_gradient(q, data.state, data.action, done, weighting)
    np.testing.assert_allclose(ours.flat, flat_gradient(parts), rtol=1e-4, atol=1e-5)
    assert action.grad is not None
    np.testing.assert_allclose(
        weighting * value_slope(q, done), action.grad.numpy(), rtol=1e-4, atol=1e-6
    )


def test_adam_is_torchs() -> None:
    random = np.random.default_rng(0)
    ours = random.normal(size=50).astype(np.float32)
    theirs = torch.from_numpy(ours.copy()).requires_grad_()
    reference, adam = torch.optim.Adam([theirs], 1e-2), Adam(50, 1e-2)
    for _ in range(20):
        gradient = random.normal(size=50).astype(np.float32)
        theirs.grad = torch.from_numpy(gradient)
        reference.step()
        adam.step(ours, gradient)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_updates_are_those_of_the_paper() -> None:
    """Three updates, beside the paper's algorithm written in torch."""
    agent = DDPG(FEATURES, HIDDEN, np.random.default_rng(0))
    mu, q = tensors(agent.actor), tensors(agent.critic)
    mu_slow, q_slow = ([part.detach().clone() for part in parts] for parts in (mu, q))
    optimizers = torch.optim.Adam(mu, 1e-4), torch.optim.Adam(q, 1e-3)
    baseline: float | None = None
    for seed in range(3):
        data = batch(seed)
        agent.learn(data)
        s, a, r, after, last = map(
            torch.from_numpy, (data.state, data.action, data.reward, data.next_state, data.last)
        )
        mean = float(r.mean())
        baseline = mean if baseline is None else baseline + 0.5 * (mean - baseline)
        y = r - baseline + (1 - last) * critic(q_slow, after, actor(mu_slow, after))
        optimizers[1].zero_grad()
        torch.autograd.backward(((y - critic(q, s, a)) ** 2).mean())
        optimizers[1].step()
        optimizers[0].zero_grad()
        torch.autograd.backward(-critic(q, s, actor(mu, s)).mean())
        optimizers[0].step()
        with torch.no_grad():
            for slow, own in zip([*mu_slow, *q_slow], [*mu, *q], strict=True):
                slow.mul_(0.99).add_(own, alpha=0.01)
    np.testing.assert_allclose(agent.actor.flat, flat(mu), atol=3e-5)
    np.testing.assert_allclose(agent.critic.flat, flat(q), atol=3e-5)
    np.testing.assert_allclose(agent.actor_target.flat, flat(mu_slow), atol=3e-5)
    np.testing.assert_allclose(agent.critic_target.flat, flat(q_slow), atol=3e-5)


def test_learns_the_best_action_of_each_state() -> None:
    """One step an episode, reward -(a - g(s))^2: the actor becomes g."""
    random = np.random.default_rng(0)
    agent = DDPG(2, 64, random)
    agent.start_at(0.5)
    np.testing.assert_allclose(policy(agent.actor, np.ones((1, 2), np.float32)).out, 0.5, atol=0.05)
    for _ in range(1500):
        state = random.random((64, 2), dtype=np.float32)
        action = random.random((64, 1), dtype=np.float32)
        best = 0.2 + 0.6 * state[:, :1]
        reward = -10 * (action - best) ** 2
        agent.learn(Batch(state, action, reward, state, np.ones_like(action)))
    state = random.random((200, 2), dtype=np.float32)
    error = policy(agent.actor, state).out - (0.2 + 0.6 * state[:, :1])
    assert np.abs(error).mean() < 0.05


def test_a_restored_agent_goes_on_as_before() -> None:
    agent = DDPG(FEATURES, HIDDEN, np.random.default_rng(0))
    agent.learn(batch(0))
    again = DDPG(FEATURES, HIDDEN, np.random.default_rng(9))
    again.load_state_dict(json.loads(json.dumps(agent.state_dict())))
    agent.learn(batch(1))
    again.learn(batch(1))
    assert again.state_dict() == agent.state_dict()
