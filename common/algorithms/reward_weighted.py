"""`RewardWeighted`: likelihood weighted by exponentiated rewards.

Reward-weighted regression (Peters and Schaal 2007; for diffusion models arXiv 2302.12192 and arXiv 2407.13734, section
6.1). Over samples of the base, weights exp(r(x_0) / tau) make the denoising loss that of the tilted law itself: its
minimum is the optimum, whatever the number of steps. Over samples of the policy that loss would tilt again what is
tilted already; there the weights are w = exp(r / tau) p_ref(path) / p_theta(path), of mean 1, and what they weigh is
the likelihood of the path's own steps (the cross-entropy method in path space, arXiv 1407.8161). Its optimum is the
kernel-wise projection of the tilted chain, and near it the weights are even.

Our choices for `policy`: a step of the path is x_s = mu + noise; what it is regressed onto is mu + (w - 1) noise
instead of x_s with weight w, which has the same gradient on average and none of the noise that even weights would
leave. Weights are raised to the largest power up to 1 that leaves `effective_share` of the samples, a step towards the
optimum instead of all the way; the optimum, where weights are even, stays the fixed point.
(The ratio with the denoising loss, which we tried first, runs away: chains of few steps are narrower than the data that
their denoiser was fitted to, so every round narrows, until one sample has all the weight.)

Under `Ctrl`, `data` and `reference` learn what each sample might have been asked for: see there.

Known biases: the self-normalisation of the weights, of order 1 / batch. A denoiser fitted to tilted data has, in few
steps, the narrower chain that any denoiser has: `data` and `reference` reach the tilted law in many steps. The
effective sample size falls with the tilt, and for `policy` with the distance of the policy from the optimum, all
degrees of freedom and steps together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.algorithms.algorithm import FromChains, Policy, Scored, regress, require_temperature, scalars, score
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.algorithms.rollout import kernel, kernel_of, require_density, rollout
from common.cost import Cost
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.named import nearest
from common.rewards import Reward

# B clean states -> the same, asked for what they might have been asked for, and the log density (B,) of being asked so.
Relabel = Callable[[State], tuple[State, Tensor]]

SOURCES = ("data", "reference", "policy")


@dataclass(frozen=True)
class RewardWeighted(FromChains):
    """The denoising loss under weights softmax(r / tau).

    Attributes:
        sampler: draws the samples; for `data` it is not used. See `rollout_sampler` for `policy`.
        tau: temperature.
        source: `data` (the batch itself), `reference` (samples of the base) or `policy`.
        effective_share: for `policy`: the share of effective samples below which weights are tempered.
        likelihood: the loss that is weighted; not for `policy`.
        draws: times and noises at which each sample is learnt; not for `policy`.
        epochs: see `Algorithm`; times and noise stay the same within an experience.
    """

    sampler: Sampler
    tau: float
    source: str = "reference"
    effective_share: float = 0.3
    likelihood: Likelihood = field(default_factory=Likelihood)
    draws: int = 1
    epochs: int = 1

    def __post_init__(self) -> None:
        require_temperature(self.tau)
        if self.source not in SOURCES:
            raise InputError(
                f"got source '{self.source}'{nearest(self.source, SOURCES)}; expected one of {', '.join(SOURCES)}"
            )
        if not 0 < self.effective_share < 1 or self.draws < 1:
            raise InputError(
                f"got effective_share {self.effective_share} and draws {self.draws}, expected between 0 and 1, and "
                "at least 1"
            )
        if self.source == "policy":
            require_density(self.sampler)

    @property
    def needs_data(self) -> bool:
        """See `Algorithm`."""
        return self.source == "data"

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
        relabel: Relabel | None = None,
    ) -> Experience:
        """See `Algorithm`: B x `draws` clean states with weight, time and noise; for `policy` the steps of B chains.

        With `relabel` each is asked, afterwards, for what it might have been asked for.
        """
        if self.source == "policy":
            return self._own_paths(policy, reference, reward, batch, noise)
        clean, cost = batch, Cost(reward_calls=len(batch))
        if self.source == "reference":
            chains = rollout(reference, self.sampler, batch, noise)
            clean, cost = chains.state(-1), cost + chains.cost
        scored = score(reward, clean)
        rows, log_weights = [], []
        for _ in range(self.draws):
            asked, log_weight = clean, self._log_weights(scored)
            if relabel is not None:
                asked, log_density = relabel(clean)
                log_weight = self._log_weights(score(reward, asked)) - log_density
            rows.append(self.likelihood.experience(asked, generator))
            log_weights.append(log_weight)
        weights = _weights(torch.cat(log_weights))
        # Of what samples turned out to be, their reward says nothing.
        measurable = torch.isfinite(torch.cat(log_weights)).to(weights.dtype).mean()
        metrics = scored.metrics() if relabel is None else {"valid": measurable}
        return (
            Experience.concatenate(rows)
            .with_extra(weight=weights)
            .replace(metrics={**metrics, **scalars(effective_share=_effective_share(weights))}, cost=cost)
        )

    def _log_weights(self, scored: Scored) -> Tensor:
        """(B,) r / tau, and minus infinity where not valid."""
        return torch.where(scored.valid, scored.values / self.tau, torch.full_like(scored.values, -torch.inf))

    def _own_paths(
        self, policy: DenoiserFunction, reference: DenoiserFunction, reward: Reward, batch: State, noise: NoiseSource
    ) -> Experience:
        chains = rollout(policy, self.sampler, batch, noise)
        scored = score(reward, chains.state(-1))
        log_ratio = self._path_ratio(reference, chains)
        log_weights = self._log_weights(scored) + log_ratio
        plain = _weights(log_weights)
        weights = _tempered(log_weights, self.effective_share)
        mean = torch.stack([
            kernel_of(chains.extra["x0_hat"][:, k], self.sampler, chains.state(k), chains.steps[:, k]).mean
            for k in range(chains.length)
        ], dim=1)  # fmt: skip
        excess = torch.where(weights.any(), weights - 1, torch.zeros_like(weights))
        return chains.replace(
            rewards=scored.values,
            log_prob=None,
            extra={"target": mean + excess[:, None, None, None] * (chains.path[:, 1:] - mean)},
            metrics={
                **scored.metrics(),
                **scalars(effective_share=_effective_share(plain), path_kl=-log_ratio.mean()),
            },
            cost=chains.cost + Cost(reward_calls=len(batch), evaluations=chains.steps.numel()),
        ).flat()

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
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over rows of weight times the denoising loss; for `policy` of -log p_theta of the steps' targets."""
        if self.source != "policy":
            return self.likelihood.replayed(policy, experience, experience.extra["weight"])
        step = kernel(policy, self.sampler, experience.state(0), experience.steps[:, 0])
        loss = regress(step, experience.extra["target"][:, 0], torch.ones_like(step.std))
        return loss, {"regression": loss.detach()}


def _weights(log_weights: Tensor) -> Tensor:
    """(B,) weights of mean 1; all zero where no sample is valid."""
    return torch.nan_to_num(log_weights.softmax(dim=0)) * len(log_weights)


def _tempered(log_weights: Tensor, share: float) -> Tensor:
    """(B,) weights of mean 1, to the largest power up to 1 with this share of effective samples, by bisection."""
    if _effective_share(_weights(log_weights)) >= share:
        return _weights(log_weights)
    low, high = 0.0, 1.0
    for _ in range(20):
        power = 0.5 * (low + high)
        # Minus infinity stays what it is: a failure has no weight at any temperature.
        enough = _effective_share(_weights(torch.where(log_weights.isinf(), log_weights, power * log_weights))) >= share
        low, high = (power, high) if enough else (low, power)
    return _weights(torch.where(log_weights.isinf(), log_weights, low * log_weights))


def _effective_share(weights: Tensor) -> Tensor:
    """Effective sample size over the sample size, from weights (B,) of mean 1."""
    return weights.sum() ** 2 / (len(weights) * weights.square().sum()).clamp(min=1e-30)
