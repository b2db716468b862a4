"""`Smc`: sequential Monte Carlo steering (Feynman-Kac steering, arXiv 2501.06848, with the potential "difference").

K particles of a sample carry log-weights that grow by scale (v(x_s) - v(x_t)) / tau from time to time, with v = 0 at
first and the reward itself at the end; where their effective number falls below `threshold` K, they are resampled. What
goes on does so by weight: the rest of the chain is spent on what is worth it.

The product of the mean weights between resamplings estimates Z = E[exp(scale r(x_0) / tau)] without bias, and weighted
averages times it are without bias, too, whatever the values on the way: the potentials telescope. Better values lower
the variance alone. By default they are r(x0_hat(x_t)), which the chain has at hand; the reward needs no gradient.

Known bias: the one particle that is handed out is drawn by self-normalised weights, off by an order of 1 / K.

Cost: K evaluations and K reward calls a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.diffusion import State
from common.diffusion.sampler import Visit
from common.errors import InputError
from common.guidance.selection import (
    Ends,
    LookAhead,
    Selected,
    Selection,
    Value,
    effective_number,
    log_mean,
    one_of,
    rows_of,
    systematic,
)
from common.guidance.tilt import require_positive
from common.rewards import Reward


@dataclass(frozen=True)
class Smc:
    """Sequential Monte Carlo.

    Attributes:
        reward: any.
        tau: temperature.
        scale: power of the tilt.
        particles: K.
        threshold: share of effective particles below which a group is resampled; 1 resamples always, 0 never.
        every, start, value: see `LookAhead`.
    """

    reward: Reward
    tau: float = 1.0
    scale: float = 1.0
    particles: int = 8
    threshold: float = 0.5
    every: int = 1
    start: float = 1.0
    value: Value | None = None
    _look_ahead: LookAhead = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_positive(tau=self.tau, scale=self.scale)
        if not 0 <= self.threshold <= 1:
            raise InputError(f"got threshold {self.threshold}, expected a share from 0 to 1")
        object.__setattr__(
            self, "_look_ahead", LookAhead(self.reward, self.particles, self.every, self.start, self.value)
        )

    @property
    def needs_noise(self) -> bool:
        """See `Selector`."""
        return self.particles > 1 and self.threshold > 0

    def begin(self, uniforms: Callable[[], Tensor]) -> Selection:
        """See `Selector`."""
        return _Steering(self, uniforms)


class _Steering:
    """Weights (B, K) of the particles of B groups; B is known from the first values on."""

    def __init__(self, settings: Smc, uniforms: Callable[[], Tensor]) -> None:
        self._settings, self._uniforms = settings, uniforms
        # Log-weights since the last resampling, and the values that are in them. Scalars stand for any B, K.
        self._log_weights = torch.zeros((), dtype=torch.float64)
        self._values = torch.zeros((), dtype=torch.float64)
        self._log_normaliser = torch.zeros((), dtype=torch.float64)
        self._effective = torch.tensor(torch.inf, dtype=torch.float64)

    def revise(self, visit: Visit) -> Visit:
        values = self._settings._look_ahead(visit)
        if values is None:
            return visit
        # Where no particle of a group can be valued, its weights stay.
        values = torch.where(torch.isfinite(values), values, self._values)
        effective = self._reweigh(values)
        poor = effective < self._settings.threshold * self._settings.particles
        uniforms = self._uniforms()
        if not poor.any():
            return visit
        own = torch.arange(values.shape[1]).expand_as(values)
        ancestors = torch.where(poor[:, None], systematic(self._log_weights, uniforms), own)
        self._values = values.gather(1, ancestors)
        self._log_normaliser = self._log_normaliser + torch.where(poor, log_mean(self._log_weights), 0.0)
        self._log_weights = torch.where(poor[:, None], 0.0, self._log_weights)
        return visit.index(rows_of(ancestors, self._settings.particles, visit.state.x.device))

    def finish(self, state: State) -> Selected:
        ends = Ends.of(self._settings.reward, state, self._settings.particles)
        self._reweigh(ends.ranked)
        log_normaliser = self._log_normaliser + log_mean(self._log_weights)
        return ends.selected(one_of(self._log_weights, self._uniforms()), self._effective, log_normaliser)

    def _reweigh(self, values: Tensor) -> Tensor:
        """Take on new values (B, K); returns the effective number (B,) of particles."""
        self._log_weights = self._log_weights + (values - self._values) * (self._settings.scale / self._settings.tau)
        self._values = values
        effective = effective_number(self._log_weights)
        self._effective = torch.minimum(self._effective, effective)
        return effective
