"""`Autoguidance`: away from what a weaker model of the same data answers (arXiv 2406.02507, eq. 3).

    x0_hat + scale (x0_hat - weaker)

A weaker model errs where the better one errs, and more so; the way from its answer to the better one leads on to where
the data are. The paper's w is scale + 1. Only times from `active_from` to `active_to` are guided, as in
arXiv 2404.07724: near the data answers are exact, and an overshoot bends bonds.

A weaker model of the same network: a few hundred steps from a model's own weights at a full learning rate. Or one that
goes on from them with those of the model's own samples alone that something is wrong with (the idea of own samples:
arXiv 2408.16333): their law is p(x_t) p(wrong | x_t) / p(wrong), so that between exact denoisers the difference of the
two answers is sigma^2 / alpha times the gradient of -log p(wrong | x_t).

Known bias: the chain has no exact law; it contracts to what the model is surest of.

Cost: two evaluations at the times at which it acts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import DenoiserFunction, State
from common.errors import InputError
from common.guidance.tilt import require_scale


@dataclass(frozen=True)
class Autoguidance:
    """Autoguidance.

    Attributes:
        weaker: denoiser of the same states.
        scale: as above; 0 is no guidance.
        active_from, active_to: between which times it acts.
    """

    weaker: DenoiserFunction
    scale: float = 1.0
    active_from: float = 0.1
    active_to: float = 1.0

    def __post_init__(self) -> None:
        require_scale(self.scale)
        if not 0 <= self.active_from <= self.active_to <= 1:
            raise InputError(
                f"got times {self.active_from} to {self.active_to}, expected 0 <= active_from <= active_to <= 1"
            )

    def __call__(self, denoiser: DenoiserFunction) -> DenoiserFunction:
        """The guided denoiser."""
        if self.scale == 0:
            return denoiser

        def guided(state: State, t: Tensor) -> Tensor:
            x0_hat = denoiser(state, t)
            rows = torch.nonzero((t >= self.active_from) & (t <= self.active_to))[:, 0]
            if not len(rows):
                return x0_hat
            strong = x0_hat[rows]
            further = strong + self.scale * (strong - self.weaker(state.index(rows), t[rows]))
            return x0_hat.index_copy(0, rows, further.to(x0_hat.dtype))

        return guided
