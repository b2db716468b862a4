"""`TrainingFree`: guidance of the estimate itself, without a pass back through the denoiser (TFG, arXiv 2409.15761).

    x0_hat <- x0_hat + scale s^2 / iterations grad_{x_0} r(x_0) / tau at x_0 = x0_hat,  `iterations` times

is TFG's mean guidance; its variance guidance is `Reconstruction`, and both nest. `draws` are its implicit dynamic,
`recurrence` its N_recur, the time travel of RePaint (arXiv 2201.09865): step to s, noise again to t, estimate again.

Our choice: the step size. Reconstruction moves x0_hat by Cov(x_0 | x_t) grad r; here the covariance is the scalar s^2
of `Tilt`, which `data_std` sets. So scale 1 stands for p(x_0) exp(r(x_0) / tau) / Z here, too.

Known biases: those of `Reconstruction`; and the scalar covariance knows nothing of what goes together in the data:
points are moved off the data's manifold, on which recurrence puts them back.

Cost: one evaluation and `iterations` reward calls a step, times `draws` and `recurrence`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from common.diffusion import DenoiserFunction, Process, Sampler, State
from common.diffusion.sampler import NoiseSource, Revise, Visit
from common.errors import InputError
from common.guidance.tilt import Tilt, bounded, follows_gradient, gradient_of, require_positive, require_scale
from common.rewards import Reward


@dataclass(frozen=True)
class TrainingFree:
    """Training-free guidance.

    Attributes:
        process: of the states.
        reward: differentiable; a sample that it cannot score is not guided.
        tau: temperature.
        scale: power of the tilt; 0 for no guidance.
        iterations: gradient steps of an estimate.
        recurrence: times that each noise level is gone through; `GuidedSampler` does it.
        draws: of the reward's average around x0_hat, see `Tilt`.
        data_std: of the data in a state's units; sets the size of a step, see `Tilt`.
        max_shift: bound of the root mean square change of x0_hat per degree of freedom, in a state's units.
    """

    process: Process
    reward: Reward
    tau: float = 1.0
    scale: float = 1.0
    iterations: int = 1
    recurrence: int = 1
    draws: int = 0
    data_std: float = 1.0
    max_shift: float = math.inf
    _tilt: Tilt = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require_positive(max_shift=self.max_shift)
        if self.iterations < 1 or self.recurrence < 1:
            raise InputError(
                f"got iterations {self.iterations} and recurrence {self.recurrence}, expected at least 1 for both"
            )
        object.__setattr__(self, "_tilt", Tilt(self.process, self.reward, self.tau, self.draws, self.data_std))

    def __call__(self, denoiser: DenoiserFunction) -> DenoiserFunction:
        """The guided denoiser."""
        if self.scale == 0:
            return denoiser

        def guided(state: State, t: Tensor) -> Tensor:
            x0_hat = denoiser(state, t)
            step = self.scale / self.iterations * self._tilt.variance(t)[:, None, None]
            keep_graph = follows_gradient(x0_hat)
            x0 = x0_hat
            for _ in range(self.iterations):
                with torch.enable_grad():
                    x = x0 if keep_graph else x0.detach().requires_grad_(True)
                    gradient = gradient_of(self._tilt(state.replace(x=x), t), x, keep_graph)
                x0 = x0 + self.process.space.project(step * gradient, state.mask)
            return x0_hat + bounded(x0 - x0_hat, state, self.process, self.max_shift)

        return guided


def recurring(sampler: Sampler, denoiser: DenoiserFunction, noise: NoiseSource, times: int) -> Revise:
    """A hook that goes through each noise level between the first and the last `times` times.

    Args:
        sampler: whose steps.
        denoiser: the guided one.
        noise: of the batch.
        times: 1 changes nothing.
    """

    def revise(visit: Visit) -> Visit:
        after = visit.s
        if visit.place == 0 or after is None:
            return visit
        for _ in range(times - 1):
            state, process = visit.state, sampler.process
            t, s = (state.x.new_full((len(state),), time) for time in (visit.t, after))
            step = process.posterior(state.x, visit.x0_hat, state.mask, t, s, sampler.noise_scale)
            draw = [noise(state.mask, state.x.shape[-1]) for _ in range(2)]
            x_t = process.renoise(step.sample(draw[0]), state.mask, s, t, draw[1])
            visit = replace(visit, state=state.replace(x=x_t), x0_hat=denoiser(state.replace(x=x_t), t))
        return visit

    return revise
