"""`Pretraining`: maximum likelihood as an `Algorithm`, whose experience is the data set (arXiv 2006.11239, eq. 14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.algorithms.algorithm import Policy
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.diffusion import DenoiserFunction, State
from common.diffusion.sampler import NoiseSource
from common.rewards import Reward


@dataclass(frozen=True)
class Pretraining:
    """The denoising loss of data; it asks neither reference nor reward.

    Attributes:
        likelihood: the loss.
    """

    likelihood: Likelihood = field(default_factory=Likelihood)

    @property
    def sampler(self) -> None:
        """See `Algorithm`: none."""
        return

    @property
    def needs_gradient(self) -> bool:
        """See `Algorithm`."""
        return False

    @property
    def needs_data(self) -> bool:
        """See `Algorithm`."""
        return True

    @property
    def epochs(self) -> int:
        """See `Algorithm`."""
        return 1

    @property
    def rows_together(self) -> int:
        """See `Algorithm`."""
        return 1

    @property
    def trained(self) -> Sequence[nn.Module]:
        """See `Algorithm`: nothing."""
        return ()

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
