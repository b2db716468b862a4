"""`AdjointMatching`: regress the control onto the lean adjoint (Domingo-Enrich et al., arXiv 2409.08861, algorithm 1).

Chains of the policy are drawn without a graph under memoryless noise. Backwards along each, through the *base* alone,

    a_end = -grad r(x_0) / tau,        a_t = (d mu_ref(x_t) / d x_t)^T a_s        (eq. 38 and 39, in discrete time),

and the control, the difference of the two kernels' means, is regressed onto -sigma_t^2 a_s:

    loss = E sum_t ||mu_theta(x_t) - mu_ref(x_t) + sigma_t^2 a_s||^2 / (2 sigma_t^2)              (eq. 37).

In discrete time the fixed point is the stationary point of the KL-regularised objective over means, by the envelope
theorem: v_t(x_t) = max_m E[v_s(m + sigma_t eps)] - tau ||m - mu_ref(x_t)||^2 / (2 sigma_t^2) has the gradient
(d mu_ref / d x_t)^T E[grad v_s], for at the maximum the dependence of m on x_t drops out.

Our choices: the ancestral kernel (eta = 1) is the memoryless noise, so pre-trained models need no other sampler than
theirs; the noisy read-out is a step like the others; of each chain `visited` steps are learnt from, since the adjoint
is there for all and the regression is what costs memory.

Known bias: the one that all mean-only kernels have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.algorithms.algorithm import FromChains, regress, require_temperature, scalars, score_with_gradient
from common.algorithms.experience import Experience
from common.algorithms.rollout import kernel, kernel_of, require_memoryless, rollout
from common.cost import Cost
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.rewards import Reward


@dataclass(frozen=True)
class AdjointMatching(FromChains):
    """Adjoint matching with the lean adjoint.

    Attributes:
        sampler: see `rollout_sampler`.
        tau: temperature; 1 / tau is the paper's lambda.
        visited: steps of each chain that are learnt from; 0 for all.
        epochs: see `Algorithm`; the regression target of a step does not depend on the policy.
        max_adjoint: norm per sample of grad r / tau above which it is scaled down, against outliers; infinite for none.
        max_control: norm of sigma_t a_t above which a step's target is scaled down; half its square is the step's
            divergence in nats. Where the base is chaotic, products of Jacobians grow without bound along a chain.
    """

    needs_data = False
    needs_gradient = True
    sampler: Sampler
    tau: float = 1.0
    visited: int = 0
    epochs: int = 1
    max_adjoint: float = float("inf")
    max_control: float = 5.0

    def __post_init__(self) -> None:
        require_memoryless(self.sampler)
        require_temperature(self.tau)
        if not 0 <= self.visited <= self.sampler.steps or not (self.max_adjoint > 0 and self.max_control > 0):
            raise InputError(
                f"got visited {self.visited}, max_adjoint {self.max_adjoint} and max_control {self.max_control}, "
                f"expected 0 to {self.sampler.steps} (the sampler's steps), and both others above 0"
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
        """See `Algorithm`: rows of one step with the mean that it should have.

        Raises:
            InputError: the reward is not differentiable.
        """
        chains = rollout(policy, self.sampler, batch, noise)
        scored = score_with_gradient(reward, chains.state(-1))
        if scored.gradient is None:
            raise ValueError("the reward has no gradient")
        start = _bounded(-scored.gradient / self.tau, self.max_adjoint)
        targets, divergence = self._targets(reference, chains, start)
        visited = self.visited or self.sampler.steps
        order = torch.rand(len(batch), self.sampler.steps, generator=generator).argsort(dim=1)[:, :visited]
        flat = chains.replace(
            rewards=scored.values,
            log_prob=None,
            extra={"target": targets, "usable": scored.valid.to(targets.dtype)},
            metrics={**scored.metrics(), **scalars(path_kl=divergence.sum(dim=1).mean())},
            cost=chains.cost + Cost(reward_calls=len(batch), evaluations=chains.steps.numel()),
        ).flat()
        chosen = (order + torch.arange(len(batch))[:, None] * self.sampler.steps).flatten().to(batch.x.device)
        return flat.index(chosen).replace(metrics=flat.metrics, cost=flat.cost)

    def _targets(self, reference: DenoiserFunction, chains: Experience, adjoint: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, N, D) means to regress on, and (B, L) KL of each step to the base.

        One sweep from the clean end; adjoint (B, N, D) is a_end. The base's products with the Jacobian need a graph of
        one step at a time, and no gradients of weights.
        """
        targets: list[Tensor] = []
        divergence: list[Tensor] = []
        for place in range(chains.length - 1, -1, -1):
            steps = chains.steps[:, place]
            x = chains.path[:, place].detach().requires_grad_(True)
            before = State(x, chains.mask, chains.condition)
            with torch.enable_grad():
                base = kernel(reference, self.sampler, before, steps)
                # Noise and x_t live in the process's subspace, and so does the adjoint.
                adjoint = base.space.project(adjoint, base.mask)
                (pulled,) = torch.autograd.grad(base.mean, x, adjoint)
            with torch.no_grad():
                own = kernel_of(chains.extra["x0_hat"][:, place], self.sampler, before, steps)
                std = base.std[:, None, None]
                targets.append(base.mean.detach() - std * _bounded(std * adjoint, self.max_control))
                divergence.append(own.kl(base).detach())
            adjoint = pulled
        return torch.stack(targets[::-1], dim=1), torch.stack(divergence[::-1], dim=1)

    def loss(
        self, policy: DenoiserFunction, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """||mu_theta(x_t) - (mu_ref(x_t) - sigma_t^2 a_s)||^2 / (2 sigma_t^2), mean over rows."""
        step = kernel(policy, self.sampler, experience.state(0), experience.steps[:, 0])
        loss = regress(step, experience.extra["target"][:, 0], experience.extra["usable"])
        return loss, {"regression": loss.detach()}


def _bounded(vectors: Tensor, limit: float) -> Tensor:
    """(B, N, D), each sample scaled down to a norm of `limit` where it has more."""
    norm = vectors.flatten(1).norm(dim=1).clamp(min=1e-30)
    return vectors * (limit / norm).clamp(max=1.0)[:, None, None]
