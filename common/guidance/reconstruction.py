"""`Reconstruction`: guidance through the denoiser, by a reward of its estimate (DPS, arXiv 2209.14687).

    x0_hat + scale sigma^2 / alpha grad_{x_t} r(x0_hat(x_t)) / tau

No network but the model's own, and any differentiable reward. The weight is Tweedie's, not DPS's step over the norm of
the residual: so scale 1 stands for p(x_0) exp(r(x_0) / tau) / Z.

Known bias: without `draws` the spread of x_0 given x_t is ignored (see `common.guidance.tilt`): the pull is too strong
at noisy times, and overshoots where tau times the reward's width is small against that spread. With many draws and the
right `data_std` it is exact for Gaussian data.

Inside another guidance that goes through the denoiser, as reconstruction does, network and reward have to be
differentiable twice; one reward that sums both has no such need.

Cost: one evaluation with its backward pass, and one reward call, or `draws` of them, a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.diffusion import DenoiserFunction, Process, State
from common.guidance.tilt import Tilt, follows_gradient, gradient_of, require_positive, require_scale, towards
from common.rewards import Reward


@dataclass(frozen=True)
class Reconstruction:
    """Reconstruction guidance.

    Attributes:
        process: of the states.
        reward: differentiable; a sample that it cannot score is not guided.
        tau: temperature.
        scale: power of the tilt; 0 for no guidance.
        draws, data_std: of the reward's average around x0_hat, see `Tilt`.
        max_shift: bound of the root mean square change of x0_hat per degree of freedom, in a state's units.
    """

    process: Process
    reward: Reward
    tau: float = 1.0
    scale: float = 1.0
    draws: int = 0
    data_std: float = 1.0
    max_shift: float = math.inf
    _tilt: Tilt = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require_positive(max_shift=self.max_shift)
        object.__setattr__(self, "_tilt", Tilt(self.process, self.reward, self.tau, self.draws, self.data_std))

    def __call__(self, denoiser: DenoiserFunction) -> DenoiserFunction:
        """The guided denoiser."""
        if self.scale == 0:
            return denoiser

        def guided(state: State, t: Tensor) -> Tensor:
            keep_graph = follows_gradient(state.x)
            with torch.enable_grad():
                x = state.x if keep_graph else state.x.detach().requires_grad_(True)
                x0_hat = denoiser(state.replace(x=x), t)
                gradient = gradient_of(self._tilt(state.replace(x=x0_hat), t), x, keep_graph)
            return x0_hat + towards(gradient, state, t, self.process, self.scale, self.max_shift)

        return guided
