"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps for t in [0, 1], 0 = clean.

Each is a frozen dataclass, so that a model file can name it with its numbers. Tables are computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """The signal and noise levels of a Gaussian process as functions of time."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at times t, any shape; decreasing in t."""
        ...

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t, each of t's shape."""
        ...


class VariancePreserving:
    """alpha^2 + sigma^2 = 1, given by the log signal-to-noise ratio."""

    def log_snr(self, t: Tensor) -> Tensor:
        raise AttributeError("a variance-preserving schedule defines log_snr")

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Schedule.alpha_sigma`."""
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def _interpolated(table: Tensor, t: Tensor) -> Tensor:
    """Values at times t, any shape, of a table (T,) that is laid evenly over [0, 1]."""
    table = table.to(t.device, t.dtype)
    position = t.clamp(0, 1) * (len(table) - 1)
    # Float error in i / (T - 1) * (T - 1) must not leave the grid point i.
    nearest = position.round()
    position = torch.where((position - nearest).abs() < 1e-3, nearest, position)
    low = position.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(table[low], table[low + 1], position - low)


@lru_cache(maxsize=16)
def _polynomial_log_snr(timesteps: int, power: float, precision: float) -> Tensor:
    """(timesteps + 1,) float64 log-SNR table of EDM's polynomial schedule (arXiv 2203.17003, appendix B).

    alpha^2(t) = (1 - 2 precision) (1 - t^power)^2 + precision, where each step keeps at least a thousandth of
    alpha^2: that clip acts on the last step alone, where the polynomial reaches zero.
    """
    t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    alpha2 = (1 - t**power) ** 2
    kept = (alpha2 / torch.cat([alpha2.new_ones(1), alpha2[:-1]])).clamp(0.001, 1.0)
    alpha2 = (1 - 2 * precision) * kept.cumprod(0) + precision
    return alpha2.log() - (1 - alpha2).log()


@dataclass(frozen=True)
class Polynomial(VariancePreserving):
    """EDM's `polynomial_2`: exact at t = i / timesteps, linear in log-SNR between (arXiv 2203.17003)."""

    timesteps: int = 1000
    power: float = 2.0
    precision: float = 1e-5

    def log_snr(self, t: Tensor) -> Tensor:
        """See `Schedule.log_snr`."""
        return _interpolated(_polynomial_log_snr(self.timesteps, self.power, self.precision), t)


@lru_cache(maxsize=16)
def _linear_beta_log_snr(timesteps: int, start: float, end: float) -> Tensor:
    """(timesteps,) float64 log-SNR after 1, 2, ... steps of DDPM: alpha^2 is the product of 1 - beta so far."""
    kept = torch.log1p(-torch.linspace(start, end, timesteps, dtype=torch.float64)).cumsum(0)
    return kept - torch.log(-torch.expm1(kept))


@dataclass(frozen=True)
class LinearBeta(VariancePreserving):
    """DDPM's noise levels, beta_1 = start to beta_T = end in T = timesteps equal rises (arXiv 2006.11239, section 4).

    Step k of T is t = (k - 1) / (T - 1), so that a sampler of T ancestral steps is DDPM's; between, log-SNR is linear.
    """

    timesteps: int = 1000
    start: float = 1e-4
    end: float = 0.02

    def __post_init__(self) -> None:
        if self.timesteps < 2 or not 0 < self.start <= self.end < 1:
            raise ValueError(
                f"got {self.timesteps} timesteps and beta from {self.start} to {self.end}, "
                "expected at least 2, and rising numbers between 0 and 1"
            )

    def log_snr(self, t: Tensor) -> Tensor:
        """See `Schedule.log_snr`."""
        return _interpolated(_linear_beta_log_snr(self.timesteps, self.start, self.end), t)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """alpha = cos(pi t / 2), with log-SNR kept in [-limit, limit] (arXiv 2102.09672, in continuous time)."""

    limit: float = 12.0

    def log_snr(self, t: Tensor) -> Tensor:
        """See `Schedule.log_snr`."""
        low, high = (math.atan(math.exp(-sign * self.limit / 2)) for sign in (1, -1))
        return -2 * torch.log(torch.tan(low + t.clamp(0, 1) * (high - low)))


@dataclass(frozen=True)
class LinearLogSNR(VariancePreserving):
    """log-SNR falls linearly from `start` to `end`: what a learned schedule is compared with."""

    start: float = 10.0
    end: float = -10.0

    def log_snr(self, t: Tensor) -> Tensor:
        """See `Schedule.log_snr`."""
        return self.start + t.clamp(0, 1) * (self.end - self.start)


@dataclass(frozen=True)
class LinearPath:
    """x_t = (1 - t) x_0 + t eps, the straight path of flow matching; t is kept in [margin, 1 - margin]."""

    margin: float = 1e-3

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Schedule.alpha_sigma`."""
        t = t.clamp(self.margin, 1 - self.margin)
        return 1 - t, t

    def log_snr(self, t: Tensor) -> Tensor:
        """See `Schedule.log_snr`."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())


SCHEDULES = {
    "polynomial_2": Polynomial,
    "linear_beta": LinearBeta,
    "cosine": Cosine,
    "linear_log_snr": LinearLogSNR,
    "linear_path": LinearPath,
}
