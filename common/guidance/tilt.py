"""`Tilt`: log exp(r(x_0) / tau) at a denoiser's estimate, and gradients of such numbers.

The guided score is that of the law of x_t under p(x_0) exp(r(x_0) / tau) / Z,

    grad log p_t(x_t) + grad log E[exp(r(x_0) / tau) | x_t],

and by Tweedie's formula a gradient g of the second kind moves the estimate by sigma^2 / alpha g. The expectation is not
known. Taking r at x0_hat alone (arXiv 2209.14687, theorem 1) leaves out the spread of x_0 given x_t and pulls too hard
at noisy times; averaging exp(r / tau) over `draws` around x0_hat (LGD-MC, Song et al. 2023; TFG's implicit dynamic,
arXiv 2409.15761, section 3) puts it in.

Our choices: the spread is that of data of variance `data_std`^2 in each direction,

    s^2 = data_std^2 sigma^2 / (alpha^2 data_std^2 + sigma^2),

exact for Gaussian data; draws come in pairs +-, the same for all samples at a time and others at each time, so that a
guided denoiser stays a function of (state, t), whatever batch or padding a sample stands in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.diffusion import Process, State
from common.errors import InputError
from common.rewards import Reward, RewardResult


@dataclass(frozen=True)
class Tilt:
    """(clean estimates, t) -> (B,) log of the tilt, NaN where a sample cannot be scored.

    Attributes:
        process: of the estimates.
        reward: differentiable.
        tau: temperature.
        draws: around each estimate, an even number; 0 takes the estimate itself.
        data_std: of the data in a state's units, which sets the spread of x_0 given x_t.
    """

    process: Process
    reward: Reward
    tau: float = 1.0
    draws: int = 0
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not self.reward.differentiable:
            raise InputError(
                "this guidance needs a differentiable reward and got one that is not; "
                "take best-of-n, value-weighted or smc, or a predictor as the reward"
            )
        require_positive(tau=self.tau, data_std=self.data_std)
        if self.draws < 0 or self.draws % 2:
            raise InputError(f"got {self.draws} draws, expected an even number, or 0 for none")

    def variance(self, t: Tensor) -> Tensor:
        """(B,) s^2 at times t (B,)."""
        alpha, sigma = self.process.schedule.alpha_sigma(t)
        return (self.data_std * sigma) ** 2 / ((alpha * self.data_std) ** 2 + sigma**2)

    def __call__(self, clean: State, t: Tensor) -> Tensor:
        """(B,) log of the tilt at estimates made at times t (B,)."""
        if self.draws == 0:
            result = evaluate(self.reward, clean)
            return torch.where(result.valid, result.values / self.tau, torch.full_like(result.values, torch.nan))
        rows = torch.arange(len(clean), device=clean.x.device).repeat_interleave(self.draws)
        offsets = self.variance(t).sqrt()[:, None, None, None] * self._directions(t, clean.x)
        around = clean.index(rows)
        offsets = self.process.space.project(offsets.flatten(0, 1), around.mask)
        result = evaluate(self.reward, around.replace(x=around.x + offsets))
        logits = torch.where(result.valid, result.values / self.tau, torch.full_like(result.values, -torch.inf))
        total = logits.unflatten(0, (-1, self.draws)).logsumexp(dim=1) - math.log(self.draws)
        return torch.where(torch.isfinite(total), total, torch.full_like(total, torch.nan))

    def _directions(self, t: Tensor, x: Tensor) -> Tensor:
        """(B, draws, N, D) standard Gaussian pairs; those of a sample depend on its time alone."""
        n_points, n_channels = x.shape[1:]
        times, which = t.unique(return_inverse=True)
        tables = []
        for time in times.tolist():
            # Points come first in the stream, so that padding changes nothing.
            generator = np.random.default_rng([self.draws, int(time * 2**32)])
            half = torch.from_numpy(generator.standard_normal((n_points, self.draws // 2, n_channels)))
            tables.append(torch.cat([half, -half], dim=1).transpose(0, 1))
        return torch.stack(tables).to(x.device, x.dtype)[which]


def evaluate(reward: Reward, state: State) -> RewardResult:
    """The reward of clean states in full precision, also where the network runs under autocast."""
    with torch.autocast(state.x.device.type, enabled=False):
        return reward(state)


def follows_gradient(x: Tensor) -> bool:
    """Whether an outer guidance differentiates through what is computed from x."""
    return torch.is_grad_enabled() and x.requires_grad


def gradient_of(log_weights: Tensor, x: Tensor, keep_graph: bool = False) -> Tensor:
    """(B, N, D) gradient of each of log_weights (B,) with respect to its own row of x; zero where it is not finite.

    A sample that cannot be scored is not pushed anywhere.

    Args:
        log_weights: each a function of its row of x alone.
        x: (B, N, D).
        keep_graph: the result can be differentiated, which an outer guidance needs; then all below has to be
            differentiable twice.

    Raises:
        InputError: autograd does not reach x.
    """
    usable = torch.isfinite(log_weights.detach())
    if not usable.any():
        return torch.zeros_like(x)
    gradient = None
    if log_weights.requires_grad:
        # Under autocast a backward pass would put products in bf16 that the forward pass kept in float32.
        with torch.autocast(x.device.type, enabled=False):
            total = log_weights[usable].sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=keep_graph, allow_unused=True)
    if gradient is None:
        raise InputError("this guidance needs gradients, but autograd does not reach the state through its predictor")
    usable = usable & torch.isfinite(gradient.detach()).flatten(1).all(dim=1)
    return torch.where(usable[:, None, None], gradient, torch.zeros_like(gradient))


def bounded(shift: Tensor, state: State, process: Process, max_shift: float) -> Tensor:
    """A shift (B, N, D) of estimates in the process's space, its root mean square per degree of freedom at most
    `max_shift`."""
    shift = process.space.project(shift, state.mask)
    if math.isinf(max_shift):
        return shift
    dof = process.space.dof(state.mask, shift.shape[-1]).to(shift.dtype).clamp(min=1)
    size = (shift.square().sum(dim=(1, 2)) / dof).clamp(min=1e-30).sqrt()
    return shift * (max_shift / size).clamp(max=1.0)[:, None, None]


def towards(gradient: Tensor, state: State, t: Tensor, process: Process, scale: float, max_shift: float) -> Tensor:
    """(B, N, D) change of x0_hat by a gradient (B, N, D) of a log-weight of x_t: scale sigma^2 / alpha times it."""
    alpha, sigma = process.schedule.alpha_sigma(t)
    return bounded(scale * (sigma**2 / alpha)[:, None, None] * gradient, state, process, max_shift)


def require_positive(**numbers: float) -> None:
    """An `InputError` for a number that is not above zero."""
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"got {name} {value}, expected a number above 0")


def require_scale(scale: float) -> None:
    """An `InputError` for a strength below zero."""
    if not 0 <= scale < math.inf:
        raise InputError(f"got a guidance scale of {scale}, expected a number from 0 (no guidance) on")
