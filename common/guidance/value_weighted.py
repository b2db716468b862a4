"""`ValueWeighted`: of K proposals for each step one goes on (SVDD, arXiv 2408.08252, algorithm 1).

At each time one of K particles is drawn with the probabilities softmax(scale v(x_t) / tau), and the K next ones are
drawn from its step. The value v(x_t) = tau log E[exp(r(x_0) / tau) | x_t] is not known; the paper's SVDD-PM takes
r(x0_hat(x_t)), which the chain has at hand, SVDD-MC a trained function, here `value`. The reward needs no gradient.

Known biases: the value's, see `common.guidance.tilt`; and that of self-normalised weights, of order 1 / K of all steps
together.

Cost: K evaluations and K reward calls a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.diffusion import State
from common.diffusion.sampler import Visit
from common.guidance.selection import (
    Ends,
    LookAhead,
    Selected,
    Selection,
    Value,
    effective_number,
    one_of,
    rows_of,
)
from common.guidance.tilt import require_positive
from common.rewards import Reward


@dataclass(frozen=True)
class ValueWeighted:
    """Value-weighted sampling.

    Attributes:
        reward: any.
        tau: temperature.
        scale: power of the tilt.
        particles: K.
        every, start, value: see `LookAhead`.
    """

    reward: Reward
    tau: float = 1.0
    scale: float = 1.0
    particles: int = 8
    every: int = 1
    start: float = 1.0
    value: Value | None = None
    _look_ahead: LookAhead = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_positive(tau=self.tau, scale=self.scale)
        object.__setattr__(
            self, "_look_ahead", LookAhead(self.reward, self.particles, self.every, self.start, self.value)
        )

    @property
    def needs_noise(self) -> bool:
        """See `Selector`."""
        return self.particles > 1

    def begin(self, uniforms: Callable[[], Tensor]) -> Selection:
        """See `Selector`."""
        return _ValueWeighting(self, uniforms)


class _ValueWeighting:
    def __init__(self, settings: ValueWeighted, uniforms: Callable[[], Tensor]) -> None:
        self._settings, self._uniforms = settings, uniforms
        self._effective: Tensor | None = None

    def revise(self, visit: Visit) -> Visit:
        values = self._settings._look_ahead(visit)
        if values is None:
            return visit
        logits = values * (self._settings.scale / self._settings.tau)
        chosen = one_of(torch.nan_to_num(logits), self._uniforms())
        known = torch.isfinite(values[:, 0])
        self._note(torch.where(known, effective_number(torch.nan_to_num(logits)), torch.inf))
        own = torch.arange(values.shape[1])
        places = torch.where(known[:, None], chosen[:, None], own)
        return visit.index(rows_of(places, self._settings.particles, visit.state.x.device))

    def finish(self, state: State) -> Selected:
        ends = Ends.of(self._settings.reward, state, self._settings.particles)
        logits = ends.ranked * (self._settings.scale / self._settings.tau)
        effective = self._note(effective_number(logits))
        return ends.selected(one_of(logits, self._uniforms()), effective)

    def _note(self, effective: Tensor) -> Tensor:
        self._effective = effective if self._effective is None else torch.minimum(self._effective, effective)
        return self._effective
