"""`LatentPretraining`: the evidence bound of a denoiser that is told a latent of each sample.

    loss = denoising loss given z + weight * KL(q(z | x_0) || p(z)),   z ~ q(z | x_0)     (arXiv 2103.01458, eq. 13)

The denoiser's network holds the encoder q and the prior p, and learns them with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from common.algorithms.algorithm import FromData, Policy
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.algorithms.pretraining import Pretraining
from common.diffusion import DenoiserFunction, State
from common.diffusion.sampler import NoiseSource
from common.rewards import Reward


class LatentNetwork(Protocol):
    """A network that learns what to be told as `State.condition["latent"]`.

    Attributes:
        n_latent: channels of a latent.
        kl_weight: of the KL term.
    """

    n_latent: int
    kl_weight: float

    def encode(self, x0: Tensor, mask: Tensor, noise: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, n_latent) of clean x0 (B, N, D) and its KL term (B,), from Gaussian noise (B, n_latent)."""
        ...


@dataclass(frozen=True)
class LatentPretraining(FromData):
    """`Pretraining` in which each sample has a latent of its own, and latents have a price.

    Attributes:
        likelihood: the denoising loss.
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
        """See `Algorithm`: the batch, with times, noise, and the noise of the latents."""
        experience = self.likelihood.experience(batch, generator)
        drawn = torch.randn(len(batch), _network(policy).n_latent, generator=generator)
        return experience.with_extra(latent_noise=drawn.to(batch.x))

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`; the part `kl` is weighted as in the loss."""
        network, clean = _network(policy), experience.state(-1)
        latent, kl = network.encode(
            clean.x, clean.mask, experience.extra["latent_noise"], clean.condition.get("context")
        )
        told = experience.replace(condition={**experience.condition, "latent": latent})
        loss, parts = self.likelihood.replayed(policy, told)
        price = network.kl_weight * kl.mean()
        return loss + price, {**parts, "kl": price.detach()}


def pretraining(network: nn.Module, likelihood: Likelihood) -> Pretraining | LatentPretraining:
    """What a denoiser with this network is pre-trained by."""
    return LatentPretraining(likelihood) if has_latent(network) else Pretraining(likelihood)


def _network(policy: DenoiserFunction) -> LatentNetwork:
    network = getattr(policy, "network", None)
    if network is None or not has_latent(network):
        raise ValueError(f"got a denoiser with {type(network).__name__}, expected a network with a latent")
    return cast(LatentNetwork, network)


def has_latent(network: nn.Module | None) -> bool:
    """Whether a denoiser's network is told a latent of each sample."""
    return "latent" in getattr(network, "conditions", ())
