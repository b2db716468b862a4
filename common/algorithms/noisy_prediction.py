"""`NoisyPrediction`: training of a predictor of noisy states, for classifier guidance (arXiv 2105.05233, section 4).

    loss = -log p(y | x_t, t),    x_t = alpha x_0 + sigma eps,

with a Gaussian p of learnt mean and std for a continuous y, a softmax for a class. The best such predictor of a class
is p(y | x_t) itself; that of a continuous y is its projection on Gaussians, exact where y given x_t is Gaussian.

Our choices: times and noise are drawn as in pre-training; labels that are missing weigh nothing.

Known bias: the gradient of a good predictor need not be good; it is best where p(y | x_t) is smooth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.algorithms.algorithm import FromData, scalars
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.diffusion import Process, State
from common.diffusion.control import Control, Predicted
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.rewards import Reward

NoisyPredictor = Callable[[State, Tensor], Predicted]


@dataclass(frozen=True)
class NoisyPrediction(FromData):
    """An `Algorithm` whose policy is a predictor: (state_t, t) -> what `Control.log_prob` takes.

    Attributes:
        control: which condition of the data holds y.
        process: that noises the data: the generator's.
        likelihood: draws times and noise.
    """

    control: Control
    process: Process
    likelihood: Likelihood = field(default_factory=Likelihood)

    def collect(
        self,
        policy: NoisyPredictor,
        reference: object,
        reward: Reward | None,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: the batch, with times and noise.

        Raises:
            InputError: the batch has no labels.
        """
        if self.control.name not in batch.condition:
            raise InputError(f"the data has no labels '{self.control.name}' for a predictor to learn")
        return self.likelihood.experience(batch, generator)

    def loss(
        self, policy: NoisyPredictor, reference: object, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of -log p(y | x_t, t) over the labelled samples, in nats."""
        clean, t = experience.state(-1), experience.extra["t"]
        x_t = self.process.corrupt(clean.x, clean.mask, t, experience.extra["noise"])
        state = clean.replace(x=x_t)
        asked = self.control.asked(state)
        log_prob = self.control.log_prob(state, policy(state, t))
        loss = -log_prob.sum() / asked.sum().clamp(min=1)
        return loss, dict(scalars(nats=loss, labelled=asked.to(x_t.dtype).mean()))
