"""Data laws whose best denoiser is known in closed form: they take the network's place in tests of samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import Process, State


@dataclass(frozen=True)
class GaussianLaw:
    """x0 ~ N(mean, std^2 I) in the process's space, with its denoiser E[x0 | x_t].

    Attributes:
        process: whose space and schedule count.
        mean: (N, D), in the space.
        std: of every direction of the space.
    """

    process: Process
    mean: Tensor
    std: float

    def __call__(self, state: State, t: Tensor) -> Tensor:
        alpha, sigma = (v[:, None, None] for v in self.process.schedule.alpha_sigma(t))
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        mean = self.mean.to(state.x)
        return self.process.space.project(mean + gain * (state.x - alpha * mean), state.mask)

    def flow(self, x_t: Tensor, mask: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Where the probability-flow ODE carries x_t from time t to time s, exactly: quantiles stay quantiles."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            [v[:, None, None] for v in self.process.schedule.alpha_sigma(time)] for time in (t, s)
        )
        spread_t, spread_s = (
            (alpha**2 * self.std**2 + sigma**2).sqrt() for alpha, sigma in ((alpha_t, sigma_t), (alpha_s, sigma_s))
        )
        mean = self.mean.to(x_t)
        moved = alpha_s * mean + spread_s / spread_t * (x_t - alpha_t * mean)
        return self.process.space.project(moved, mask)


@dataclass(frozen=True)
class MixtureLaw:
    """x0 from one of several Gaussians of equal std, with its denoiser.

    Attributes:
        process: whose space and schedule count.
        means: (K, N, D), in the space.
        weights: (K,), summing to one.
        std: of every component and direction.
    """

    process: Process
    means: Tensor
    weights: Tensor
    std: float

    def responsibilities(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(B, K) probability of each component given x_t; alpha and sigma are (B,)."""
        means = self.means.to(x_t)
        distance = (x_t[:, None] - alpha[:, None, None, None] * means).square().sum(dim=(2, 3))
        variance = alpha**2 * self.std**2 + sigma**2
        return (self.weights.to(x_t).log() - distance / (2 * variance[:, None])).softmax(dim=1)

    def __call__(self, state: State, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule.alpha_sigma(t)
        parts = torch.stack(
            [GaussianLaw(self.process, mean, self.std)(state, t) for mean in self.means.to(state.x)], dim=1
        )
        return (self.responsibilities(state.x, alpha, sigma)[:, :, None, None] * parts).sum(dim=1)


def standard_error(std: float, count: int) -> float:
    """Of a mean over `count` draws."""
    return std / math.sqrt(count)
