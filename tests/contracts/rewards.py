"""What every reward must satisfy; each test file of a reward calls `assert_reward`."""

from __future__ import annotations

import torch

from common.diffusion import State
from common.rewards import Reward


def assert_reward(reward: Reward, state: State, floor: float | None = None) -> None:
    """Shapes, failures, order, independence of the batch, repeatability, and, where declared, the gradient.

    Args:
        reward: the reward.
        state: at least three clean states, some of which it can score; some failures make the test sharper.
        floor: what the reward gives to failures; None for NaN.
    """
    before = state.x.clone()
    result = reward(state)
    assert torch.equal(state.x, before), "the state was changed"
    assert len(state) >= 3
    assert result.valid.any(), "nothing could be scored: the contract cannot be checked"

    assert result.values.shape == (len(state),)
    assert result.values.device == state.x.device
    assert result.valid.dtype == torch.bool
    assert torch.isfinite(result.values[result.valid]).all()
    failed = result.values[~result.valid].detach()
    assert bool(failed.isnan().all() if floor is None else (failed == floor).all())
    assert (result.n_failed > 0) == (sum(result.failures.values()) > 0), "failures are counted"
    for name, part in result.parts.items():
        assert part.shape == (len(state),), name
        assert not part.isinf().any(), f"{name} is infinite: a failure is NaN"

    order = result.order()
    assert sorted(order.tolist()) == list(range(len(state)))
    n_valid = int(result.valid.sum())
    assert result.valid[order[:n_valid]].all(), "a failure stands before a success"
    best_first = result.values[order[:n_valid]]
    assert (best_first[1:] <= best_first[:-1]).all()

    again = reward(state)
    torch.testing.assert_close(again.values, result.values, equal_nan=True, rtol=0, atol=0)
    subset = reward(state.index(torch.tensor([2, 0])))
    torch.testing.assert_close(subset.values, result.values[[2, 0]], equal_nan=True)
    assert torch.equal(subset.valid, result.valid[[2, 0]])

    if reward.differentiable:
        _assert_gradient(reward, state)
    else:
        assert not result.values.requires_grad


def _assert_gradient(reward: Reward, state: State) -> None:
    """Autograd against a central difference along a random direction, in float64."""
    generator = torch.Generator().manual_seed(0)
    x = state.x.double().requires_grad_(True)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64) * state.mask.unsqueeze(-1)

    def total(at: torch.Tensor) -> torch.Tensor:
        result = reward(state.replace(x=at))
        return result.values[result.valid].sum()

    (gradient,) = torch.autograd.grad(total(x), x)
    assert torch.isfinite(gradient).all()
    step = 1e-5
    with torch.no_grad():
        expected = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-6)
