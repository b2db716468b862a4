"""`NoisyPredictor`: a pooled network of point sets as a predictor of noisy states, which have a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.diffusion import State
from common.diffusion.control import Control, Predicted
from common.diffusion.embedding import time_features
from common.predictors.predictor import standardised


class NoisyPredictor(nn.Module):
    """(state_t, t) -> what is known of y: mean (B,) and std (B,), or logits (B, C).

    The time enters as channels of each point, invariant under all that moves points, so that any network of clean
    states will do that takes more channels.

    Args:
        network: (x (B, N, D + n_time), mask (B, N)) -> standardised values (B, P, 2) and logits (B, C), as networks of
            `common.predictors` do; of a continuous y the first value counts, of a class the logits.
        control: y; its mean and std undo the standardisation.
        n_time: channels of the time.
    """

    def __init__(self, network: nn.Module, control: Control, n_time: int = 16) -> None:
        super().__init__()
        self.network = network
        self.control = control
        self.n_time = n_time

    def forward(self, state: State, t: Tensor) -> Predicted:
        """See above; t (B,)."""
        told = time_features(t, self.n_time).to(state.x.dtype)[:, None] * state.mask.unsqueeze(-1)
        values, logits = self.network(torch.cat([state.x, told], dim=-1), state.mask)
        if self.control.classes:
            return logits
        mean, std = standardised(values)
        return self.control.mean + self.control.std * mean[:, 0], self.control.std * std[:, 0]
