"""`PolicyGradient`: clipped policy gradient on the steps of a chain.

DDPO (arXiv 2305.13301, section 4.3) takes the steps of the reverse chain as actions and maximises

    E sum_t min(rho_t A, clip(rho_t, 1 - eps, 1 + eps) A),    rho_t = p_theta(x_s | x_t) / p_old(x_s | x_t);

DPOK (arXiv 2305.16381, section 4) adds tau sum_t KL(p_theta || p_ref). Group-normalised advantages are those of GRPO
(arXiv 2402.03300) and Flow-GRPO (arXiv 2505.05470).

Log-probabilities are *sums* over the real degrees of freedom. (The reference implementation of DDPO averages them; such
a ratio is no likelihood ratio, and weighs the reward by 1 / dof against the divergence.)

Our choices: the divergence of a step enters twice, by its own gradient, as in DPOK, and as a cost in the return of the
steps before it, which DPOK leaves out although those steps decide where the later ones stand: only both together are
the gradient of the objective (`full_kl`). Advantages are centred, step by step, and not scaled unless asked: dividing
them by their std would change the temperature to tau times that std.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.algorithms.algorithm import FromChains, require_groups, scalars, score
from common.algorithms.experience import Experience
from common.algorithms.rollout import kernel, path_kl, require_density, rollout
from common.cost import Cost
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.rewards import Reward


@dataclass(frozen=True)
class PolicyGradient(FromChains):
    """DDPO, DPOK and their group-normalised forms.

    Attributes:
        sampler: see `rollout_sampler`.
        tau: weight of the divergence from the base; 0 is DDPO.
        clip: eps of the ratio.
        group_size: advantages are relative to the mean of this many samples that follow each other in the batch and
            should be asked for the same thing; 0 takes the whole batch.
        scaled: divide advantages by the std of their group, as DDPO and GRPO do.
        full_kl: let the divergence of later steps count in the return of a step.
        epochs: see `Algorithm`.
    """

    needs_data = False
    sampler: Sampler
    tau: float = 1.0
    clip: float = 0.2
    group_size: int = 0
    scaled: bool = False
    full_kl: bool = True
    epochs: int = 1

    def __post_init__(self) -> None:
        require_density(self.sampler)
        if not self.tau >= 0 or not self.clip > 0 or self.group_size < 0 or self.group_size == 1:
            raise InputError(
                f"got tau {self.tau}, clip {self.clip} and group_size {self.group_size}; "
                "expected at least 0, above 0, and 0 or at least 2"
            )

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: each step of B chains is a row, with its advantage."""
        require_groups(self.group_size, len(batch))
        if self.scaled and len(batch) < 2:
            raise InputError("got a batch of 1, expected at least 2: 'scaled' divides by the spread of a batch")
        chains = rollout(policy, self.sampler, batch, noise)
        divergence = path_kl(reference, self.sampler, chains)
        scored = score(reward, chains.state(-1))
        cost = chains.cost + Cost(reward_calls=len(batch), evaluations=divergence.numel())
        returns = scored.filled()[:, None].expand_as(divergence)
        if self.full_kl:
            later = divergence.flip(1).cumsum(dim=1).flip(1) - divergence
            returns = returns - self.tau * later
        advantage = self._advantage(returns)
        return chains.replace(
            rewards=scored.values,
            extra={"advantage": advantage},
            metrics={
                **scored.metrics(),
                **scalars(path_kl=divergence.sum(dim=1).mean(), return_std=returns.std()),
            },
            cost=cost,
        ).flat()

    def _advantage(self, returns: Tensor) -> Tensor:
        """(B, L) from the returns (B, L) of each step."""
        group = self.group_size or len(returns)
        grouped = returns.unflatten(0, (-1, group))
        # Leaving a sample out of its own mean keeps the gradient unbiased.
        centred = (grouped - grouped.mean(dim=1, keepdim=True)) * (group / max(group - 1, 1))
        if self.scaled:
            centred = centred / (grouped.std(dim=1, keepdim=True) + 1e-8)
        return centred.flatten(0, 1)

    def loss(
        self, policy: DenoiserFunction, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over rows of -min(rho A, clip(rho) A) + tau KL(p_theta || p_ref)."""
        if experience.log_prob is None:
            raise ValueError("the experience has no log_prob; expected one of this algorithm's collect")
        before, steps = experience.state(0), experience.steps[:, 0]
        step = kernel(policy, self.sampler, before, steps)
        log_ratio = step.log_prob(experience.path[:, 1]) - experience.log_prob[:, 0]
        ratio = log_ratio.exp()
        advantage = experience.extra["advantage"][:, 0]
        bounded = ratio.clamp(1 - self.clip, 1 + self.clip)
        surrogate = torch.minimum(ratio * advantage, bounded * advantage).mean()
        metrics = {
            "ratio_deviation": (ratio - 1).abs().max(),
            "clipped": (ratio != bounded).to(ratio.dtype).mean(),
            "surrogate": surrogate,
        }
        loss = -surrogate
        if self.tau > 0:
            with torch.no_grad():
                base = kernel(reference, self.sampler, before, steps)
            divergence = step.kl(base).mean()
            loss = loss + self.tau * divergence
            metrics["step_kl"] = divergence
        return loss, dict(scalars(**metrics))
