"""`SurfacePosterior`: the denoiser that knows the shape, as a target of training with little noise.

A training cloud is a random subset of the points stored of a shape. Which of them a noisy point was is chance: for any
point of the subset, all that is stored beside the others of the subset might as well have been drawn. The mean over
these, weighed by how likely each becomes the noisy point, has the same expectation given the noisy cloud as the point
that was drawn. So a network that learns it has the same optimum, and is spared most of the noise of its gradient. The
idea is that of stable target fields (arXiv 2302.00670), which take the mean over a data set; the mean over the stored
points of one shape, which leaves out the rest of the cloud and so has no bias, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import Process, State

# Below it every weight lies on the point that was drawn, and products of large numbers would only add errors.
_LEAST_SIGMA = 1e-3


@dataclass(frozen=True)
class SurfacePosterior:
    """(state_t, t) -> E[x_0 | x_t, the shape], for states of `ShapeBatches` with `surface`.

    Attributes:
        process: how points were made noisy.
    """

    process: Process

    def __call__(self, state: State, t: Tensor) -> Tensor:
        """(B, N, 3) means for noisy points (B, N, 3) at times t (B,).

        `state.condition["surface"]` holds all points stored of each shape, (B, S, 3): first the N clean ones of the
        cloud in its order, then those that were not drawn.
        """
        # In half precision the products below would be off by more than what tells points apart.
        with torch.autocast(state.x.device.type, enabled=False):
            return self._means(state, t)

    def _means(self, state: State, t: Tensor) -> Tensor:
        alpha, sigma = (value[:, None, None] for value in self.process.schedule.alpha_sigma(t))
        surface = state.condition["surface"]
        own, rest = surface[:, : state.x.shape[1]], surface[:, state.x.shape[1] :]
        # log N(x_t; alpha s, sigma^2) but for what all points s have in common.
        precision = sigma.clamp(min=_LEAST_SIGMA) ** -2
        towards, half = alpha * precision * state.x, 0.5 * alpha**2 * precision
        of_own = (towards * own).sum(-1, keepdim=True) - half * own.square().sum(-1, keepdim=True)
        of_rest = towards @ rest.mT - half * rest.square().sum(-1)[:, None]
        weights = torch.softmax(torch.cat([of_own, of_rest], dim=-1), dim=-1)
        return weights[..., :1] * own + weights[..., 1:] @ rest
