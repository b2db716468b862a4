"""`Classifier`: guidance by a predictor of noisy states (arXiv 2105.05233, section 4; eq. 14 with x0_hat).

    x0_hat + scale sigma^2 / alpha grad_{x_t} log p(y | x_t)

With the exact p(y | x_t) and scale 1 this is the denoiser of p(x_0 | y), exactly. Any other log-weight of noisy states
does, too: with log E[exp(r(x_0) / tau) | x_t] the guided law is p(x_0) exp(r(x_0) / tau) / Z. Such predictors are
trained by `common.algorithms.noisy_prediction`.

Known biases: the predictor's; for scale other than 1, p_t(x_t) p(y | x_t)^scale is not the law of any noised data.

Cost: one evaluation and one predictor call, with its backward pass, a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import DenoiserFunction, Process, State
from common.diffusion.control import Control, Predicted, asked_for
from common.guidance.tilt import follows_gradient, gradient_of, require_positive, require_scale, towards

# Noisy states and their times (B,) -> (B,) log-weights, differentiable with respect to `state.x`.
NoisyLogWeight = Callable[[State, Tensor], Tensor]


@dataclass(frozen=True)
class Classifier:
    """Classifier guidance.

    Attributes:
        process: of the states.
        log_weight: log p(y | x_t), such as `NoisyLikelihood`; a sample for which it is not finite is not guided.
        scale: power of p(y | x_t); 0 for no guidance.
        max_shift: bound of the root mean square change of x0_hat per degree of freedom, in a state's units.
    """

    process: Process
    log_weight: NoisyLogWeight
    scale: float = 1.0
    max_shift: float = math.inf

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require_positive(max_shift=self.max_shift)

    def __call__(self, denoiser: DenoiserFunction) -> DenoiserFunction:
        """The guided denoiser."""
        if self.scale == 0:
            return denoiser

        def guided(state: State, t: Tensor) -> Tensor:
            keep_graph = follows_gradient(state.x)
            with torch.enable_grad():
                x = state.x if keep_graph else state.x.detach().requires_grad_(True)
                gradient = gradient_of(self.log_weight(state.replace(x=x), t), x, keep_graph)
            shift = towards(gradient, state, t, self.process, self.scale, self.max_shift)
            return denoiser(state, t) + shift

        return guided


@dataclass(frozen=True)
class NoisyLikelihood:
    """log p(y | x_t) of a predictor of noisy states, for y in the states' condition: a `NoisyLogWeight`.

    Attributes:
        control: which condition holds y.
        predictor: (state_t, t) -> what `Control.log_prob` takes.
        scale: calibration, see `Control.log_prob`.
        value: y of all samples; None takes it from the states' condition.
    """

    control: Control
    predictor: Callable[[State, Tensor], Predicted]
    scale: float = 1.0
    value: float | None = None

    def __call__(self, state: State, t: Tensor) -> Tensor:
        """(B,) log p(y | x_t); 0 where nothing is asked."""
        if self.value is not None:
            asked = asked_for([self.control], {self.control.name: self.value}, len(state))
            moved = {name: values.to(state.x.device) for name, values in asked.items()}
            state = state.replace(condition={**state.condition, **moved})
        return self.control.log_prob(state, self.predictor(state, t), self.scale)
