"""`RewardWeighted`: likelihood weighted by exponentiated rewards.

Reward-weighted regression (Peters and Schaal 2007; for diffusion models arXiv 2302.12192 and arXiv 2407.13734, section
6.1). Over samples of the base, weights exp(r(x_0) / tau) make the denoising loss that of the tilted law itself: its
minimum is the optimum, whatever the number of steps. Over samples of the policy the weights also need the ratio
p_ref(path) / p_theta(path), without which the tilt repeats itself, update by update: `corrected`.

Known bias: none but the self-normalisation of the weights, of order 1 / batch; but the effective sample size falls as
the tilt grows (and, corrected, as the policy leaves the base), which costs variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.algorithms.algorithm import require_temperature, scalars, score
from common.algorithms.experience import Cost, Experience
from common.algorithms.likelihood import Likelihood
from common.algorithms.rollout import kernel, require_density, rollout
from common.diffusion import Denoiser, DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.named import nearest
from common.rewards import Reward

SOURCES = ("data", "reference", "policy")


@dataclass(frozen=True)
class RewardWeighted:
    """The denoising loss under weights softmax(r / tau).

    Attributes:
        sampler: draws the samples; for `data` it is not used.
        tau: temperature.
        source: `data` (the batch itself), `reference` (samples of the base) or `policy`.
        corrected: for `policy`: multiply the weights by p_ref(path) / p_theta(path). Without it the method climbs on,
            to ever lower temperatures.
        likelihood: the loss that is weighted.
        epochs: see `Algorithm`; times and noise stay the same within an experience.
    """

    sampler: Sampler
    tau: float
    source: str = "reference"
    corrected: bool = True
    likelihood: Likelihood = field(default_factory=Likelihood)
    epochs: int = 1

    def __post_init__(self) -> None:
        require_temperature(self.tau)
        if self.source not in SOURCES:
            raise InputError(
                f"got source '{self.source}'{nearest(self.source, SOURCES)}; expected one of {', '.join(SOURCES)}"
            )
        if self.source == "policy" and self.corrected:
            require_density(self.sampler)

    @property
    def needs_data(self) -> bool:
        """See `Algorithm`."""
        return self.source == "data"

    @property
    def trained(self) -> Sequence[nn.Module]:
        """See `Algorithm`: nothing."""
        return ()

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: B clean states with weight, time and noise."""
        clean, log_weight, cost = batch, batch.x.new_zeros(len(batch)), Cost()
        if self.source != "data":
            chains = rollout(reference if self.source == "reference" else policy, self.sampler, batch, noise)
            clean, cost = chains.state(-1), chains.cost
            if self.source == "policy" and self.corrected:
                log_weight = self._path_ratio(reference, chains)
                cost = cost + Cost(evaluations=chains.steps.numel())
        scored = score(reward, clean)
        logits = torch.where(scored.valid, scored.values / self.tau, torch.full_like(scored.values, -torch.inf))
        # Without any valid sample all weights are zero, and so is the loss.
        weights = torch.nan_to_num((logits + log_weight).softmax(dim=0)) * len(batch)
        experience = self.likelihood.experience(clean, generator)
        return (
            experience.replace(rewards=scored.values)
            .with_extra(weight=weights)
            .replace(
                metrics={
                    **scored.metrics(),
                    **scalars(
                        effective_share=weights.sum() ** 2 / (len(batch) * weights.square().sum()).clamp(min=1e-30)
                    ),
                },
                cost=cost + Cost(reward_calls=len(batch)),
            )
        )

    @torch.no_grad()
    def _path_ratio(self, reference: DenoiserFunction, chains: Experience) -> Tensor:
        """(B,) log p_ref(path) - log p_theta(path)."""
        if chains.log_prob is None:
            raise ValueError("the chains have no log_prob")
        total = -chains.log_prob.sum(dim=1)
        for place in range(chains.length):
            step = kernel(reference, self.sampler, chains.state(place), chains.steps[:, place])
            total = total + step.log_prob(chains.path[:, place + 1])
        return total

    def loss(
        self, policy: Denoiser, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over rows of weight times the denoising loss."""
        return self.likelihood.replayed(policy, experience, experience.extra["weight"])
