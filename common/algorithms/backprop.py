"""`Backprop`: the gradient of a differentiable reward through the chain.

DRaFT (arXiv 2309.17400: the last K steps), AlignProp (arXiv 2310.03739: a random number of last steps) and CTRL's code
(arXiv 2406.12120: each step by chance, likelier towards the end) differ in the steps that keep their gradient. A step
that does not keep it passes the gradient through x_t, but not through the network, as in AlignProp's code.

The objective is E[r(x_0)] - tau sum_t KL_t with the divergence's own gradient through the chain, so that without
truncation its gradient is exact.

Our choices: `collect` runs the chain without a graph and asks the reward for its gradient g = dr/dx_0 once; `loss` runs
the chain again from the first step that keeps its gradient, with the same noise, and takes -<g, x_0(theta)>, whose
gradient is that of -r. So rewards are scored and counted where those of all algorithms are, memory does not hold the
reward's graph, and DRaFT-K re-runs K steps only. Each step is checkpointed: memory holds one network evaluation and
L states, whatever L is.

Known biases: truncation leaves early steps untrained (`last`), or weighs late steps more (`random`, `growing`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.algorithms.algorithm import FromChains, scalars, score_with_gradient
from common.algorithms.experience import Experience
from common.algorithms.rollout import kernel_of, require_density, rollout, step_times
from common.cost import Cost
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.named import nearest
from common.rewards import Reward

TRUNCATIONS = ("none", "last", "random", "growing")


@dataclass(frozen=True)
class Backprop(FromChains):
    """Direct back-propagation of the reward.

    Attributes:
        sampler: see `rollout_sampler`.
        tau: weight of the divergence from the base; 0 leaves it out, as DRaFT does.
        truncation: `none`; `last`: the last `kept` steps (DRaFT-K); `random`: the last K, K uniform in 1 ... L
            (AlignProp); `growing`: step k of L with probability k / L, and the last always (CTRL's code).
        kept: K of `last`.
        inactive: steps at the end at which the policy is its base whatever its weights; truncation counts from there.
        checkpointed: recompute each step in the backward pass instead of keeping its activations.
    """

    needs_data = False
    needs_gradient = True
    sampler: Sampler
    tau: float = 1.0
    truncation: str = "none"
    kept: int = 1
    inactive: int = 0
    checkpointed: bool = True

    def __post_init__(self) -> None:
        require_density(self.sampler)
        if self.truncation not in TRUNCATIONS:
            raise InputError(
                f"got truncation '{self.truncation}'{nearest(self.truncation, TRUNCATIONS)}; "
                f"expected one of {', '.join(TRUNCATIONS)}"
            )
        active = self.sampler.steps - self.inactive
        if not self.tau >= 0 or self.inactive < 0 or not 1 <= self.kept <= active:
            raise InputError(f"got tau {self.tau} and kept {self.kept}, expected at least 0 and 1 to {active} steps")

    @property
    def epochs(self) -> int:
        """See `Algorithm`: once, for the reward's gradient is that at the collected samples."""
        return 1

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: B chains with the reward's gradient, and which steps keep theirs.

        Raises:
            InputError: the reward is not differentiable.
        """
        chains = rollout(policy, self.sampler, batch, noise)
        scored = score_with_gradient(reward, chains.state(-1))
        return chains.replace(
            rewards=scored.values,
            extra={"reward_gradient": scored.gradient},
            shared={"keeps": self._keeps(generator)},
            metrics=scored.metrics(),
            cost=chains.cost + Cost(reward_calls=len(batch)),
        )

    def _keeps(self, generator: torch.Generator) -> Tensor:
        """(L,) bool, on the CPU: which steps keep their gradient; those of the base at the end always do."""
        length = self.sampler.steps - self.inactive
        place = torch.arange(self.sampler.steps)
        if self.truncation == "last":
            return place >= length - self.kept
        if self.truncation == "random":
            return place >= length - torch.randint(1, length + 1, (1,), generator=generator)
        if self.truncation == "growing":
            return torch.rand(len(place), generator=generator) < (place + 1) / length
        return torch.ones(len(place), dtype=torch.bool)

    def loss(
        self, policy: DenoiserFunction, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over chains of -<g, x_0(theta)> + tau sum_t KL_t; its value means nothing, its gradient does."""
        keeps = experience.shared["keeps"].tolist()
        first = keeps.index(True)
        x = experience.path[:, first]
        total_kl = x.new_zeros(len(x))
        for place in range(first, experience.length):

            def step(x: Tensor, place: int = place) -> tuple[Tensor, Tensor]:
                return self._step(policy, reference, experience, x, place, keeps[place])

            if self.checkpointed:
                x, divergence = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x, divergence = step(x)
            total_kl = total_kl + divergence
        loss = -(experience.extra["reward_gradient"] * x).sum(dim=(1, 2)).mean() + self.tau * total_kl.mean()
        return loss, dict(scalars(path_kl=total_kl.mean(), kept=float(sum(keeps))))

    def _step(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        experience: Experience,
        x: Tensor,
        place: int,
        keeps: bool,
    ) -> tuple[Tensor, Tensor]:
        """State (M, N, D) after one step, with the noise that the collected chain had there, and its KL (M,)."""
        before = State(x, experience.mask, experience.condition)
        steps = experience.steps[:, place]
        t = step_times(self.sampler, before, steps)
        with torch.set_grad_enabled(keeps and torch.is_grad_enabled()):
            x0_hat = policy(before, t)
        law = kernel_of(x0_hat, self.sampler, before, steps)
        # The same noise: what the collected state was off the mean of the policy at collection, which is this one.
        drift = experience.path[:, place + 1] - law.mean.detach()
        divergence = x.new_zeros(len(x))
        if self.tau > 0 and keeps:
            divergence = law.kl(kernel_of(reference(before, t), self.sampler, before, steps))
        return law.mean + drift, divergence
