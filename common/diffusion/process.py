"""`Process`: the forward noising of a schedule in a space, and its reverse steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.schedule import Schedule
from common.diffusion.space import Space
from common.diffusion.transition import Transition


@dataclass(frozen=True)
class Process:
    """x_t = alpha(t) x_0 + sigma(t) eps, with eps standard Gaussian in `space`."""

    schedule: Schedule
    space: Space

    def prior(self, noise: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) state at t = 1 from standard Gaussian noise (B, N, D)."""
        return self.space.project(noise, mask)

    def corrupt(self, x0: Tensor, mask: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B, N, D) state at times t (B,) of clean x0 (B, N, D), from standard Gaussian noise (B, N, D)."""
        alpha, sigma = (v[:, None, None] for v in self.schedule.alpha_sigma(t))
        return alpha * x0 + sigma * self.space.project(noise, mask)

    def renoise(self, x_s: Tensor, mask: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B, N, D) state at t (B,) > s (B,) from the state x_s (B, N, D) at s: the forward step q(x_t | x_s)."""
        (alpha_s, _), (alpha_t, sigma_t) = (self.schedule.alpha_sigma(time) for time in (s, t))
        # As in `posterior`: the fresh share of the noise at t, without cancellation.
        fresh = -torch.expm1(self.schedule.log_snr(t) - self.schedule.log_snr(s))
        std = sigma_t * fresh.clamp(min=0).sqrt()
        noise = self.space.project(noise, mask)
        return (alpha_t / alpha_s)[:, None, None] * x_s + std[:, None, None] * noise

    def posterior(
        self, x_t: Tensor, x0_hat: Tensor, mask: Tensor, t: Tensor, s: Tensor, eta: float = 1.0
    ) -> Transition:
        """The reverse step from t (B,) to s (B,) < t, given the clean state x0_hat (B, N, D).

        eta scales the noise: 1 is the ancestral step q(x_s | x_t, x_0), 0 is DDIM's deterministic step
        (arXiv 2010.02502, eq. 12 and 16).
        """
        sigma_t = self.schedule.alpha_sigma(t)[1]
        alpha_s, sigma_s = self.schedule.alpha_sigma(s)
        # With r^2 = SNR(t) / SNR(s), everything follows from 1 - r^2 without cancellation, however close t and s are.
        log_r2 = self.schedule.log_snr(t) - self.schedule.log_snr(s)
        r, fresh = torch.exp(0.5 * log_r2), -torch.expm1(log_r2)
        std = eta * sigma_s * fresh.clamp(min=0).sqrt()
        kept = (1 - eta**2 * fresh).clamp(min=0).sqrt()
        x0_weight = alpha_s * fresh * (1 + (eta * r) ** 2) / (1 + r * kept)
        x_t_weight = sigma_s * kept / sigma_t
        mean = x0_weight[:, None, None] * x0_hat + x_t_weight[:, None, None] * x_t
        return Transition(mean=mean, std=std, space=self.space, mask=mask)
