"""`Pretraining`: maximum likelihood as an `Algorithm`, whose experience is the data set (arXiv 2006.11239, eq. 14)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.algorithms.algorithm import FromData, Policy
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.diffusion import DenoiserFunction, State
from common.diffusion.sampler import NoiseSource
from common.rewards import Reward


@dataclass(frozen=True)
class Pretraining(FromData):
    """The denoising loss of data; it asks neither reference nor reward.

    Attributes:
        likelihood: the loss.
    """

    likelihood: Likelihood = field(default_factory=Likelihood)

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward | None,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: the batch, with times and noise."""
        return self.likelihood.experience(batch, generator)

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`."""
        return self.likelihood.replayed(policy, experience)
