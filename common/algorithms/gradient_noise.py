"""Variance of gradient estimators on the same states: pay-off samples against policy gradient.

RGDM's claim (arXiv 2304.07132) is that its gradient varies less. Here all see the same states x_t, with K candidate
steps of the policy at each:

    rgdm                      sum_k (w_k - 1 / K) grad log p_theta(x^k | x_t),
                              w = softmax(r / tau + log p_ref - log p_theta)
    policy_gradient           1 / (K - 1) sum_k (A_k - mean A) grad log p_theta(x^k | x_t),
                              A = r / tau - log p_theta / p_ref, from the same candidates, scored in the same way
    policy_gradient_returns   as policy_gradient, but r is that of a whole chain drawn from each candidate by the
                              reference (which is the policy at step 0): the returns that DDPO goes by

At p_theta = p_ref all have, to first order in r / tau, the same direction; after that their means differ, the first
being the gradient of KL(q* || p_theta) and the others of KL(p_theta || q*). Weights are bounded by 1 and advantages by
nothing, so that variances alone do not compare: `relative` is the variance over the squared mean, that is, how many
draws it takes to know the direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.algorithms.rgdm import Candidates, Rgdm
from common.algorithms.rollout import kernel
from common.diffusion import DenoiserFunction, State, Transition
from common.errors import InputError
from common.rewards import Reward


@dataclass(frozen=True)
class GradientNoise:
    """Of a gradient estimator with P parameters.

    Attributes:
        mean: (P,) its mean over the draws.
        variance: total variance of one draw, sum over parameters.
        draws: how many there were.
    """

    mean: Tensor
    variance: float
    draws: int

    @property
    def relative(self) -> float:
        """Variance over the squared mean, the latter corrected for what the draws themselves spread."""
        squared = float(self.mean.square().sum()) - self.variance / self.draws
        return self.variance / squared if squared > 0 else float("inf")


def compare_gradients(
    rgdm: Rgdm,
    policy: DenoiserFunction,
    parameters: Sequence[nn.Parameter],
    reference: DenoiserFunction,
    reward: Reward,
    before: State,
    steps: Tensor,
    generator: torch.Generator,
    draws: int = 32,
) -> dict[str, GradientNoise]:
    """Name of each estimator -> noise of its gradient at M states.

    Args:
        rgdm: says how candidates are drawn and scored; its proposal has to be `policy` and its explore_std 1.
        policy, reference, reward: see `Algorithm`.
        parameters: of the policy, in which the gradients are.
        before: M states x_t.
        steps: (M,) long, their places among the sampler's times.
        generator: on the CPU.
        draws: independent estimates of each kind.

    Raises:
        InputError: another proposal, or fewer than 2 draws.
    """
    if rgdm.proposal != "policy" or rgdm.explore_std != 1.0 or draws < 2:
        raise InputError(
            f"got proposal '{rgdm.proposal}', explore_std {rgdm.explore_std} and {draws} draws; expected 'policy', 1 "
            "and at least 2, so that both methods see the same candidates"
        )
    chains = replace(rgdm, look_ahead=rgdm.sampler.steps)
    found: dict[str, list[Tensor]] = {"rgdm": [], "policy_gradient": [], "policy_gradient_returns": []}
    with torch.no_grad():
        base = kernel(reference, rgdm.sampler, before, steps)
    for _ in range(draws):
        drawn = rgdm.draw(policy, reference, reward, before, steps, generator)
        returned = chains.draw(policy, reference, reward, before, steps, generator)
        own = kernel(policy, rgdm.sampler, before, steps)
        estimates = {
            "rgdm": (drawn, drawn.weights - drawn.weights.sum(dim=1, keepdim=True) / rgdm.candidates),
            "policy_gradient": (drawn, _advantages(rgdm, drawn, base, own)),
            "policy_gradient_returns": (returned, _advantages(rgdm, returned, base, own)),
        }
        for name, (candidates, values) in estimates.items():
            objective = (values * _log_prob(own, candidates.after)).sum(dim=1).mean()
            gradients = torch.autograd.grad(objective, list(parameters), allow_unused=True, retain_graph=True)
            flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
            found[name].append(torch.cat([g.flatten() for g in flat]))
    return {name: _noise(torch.stack(gradients)) for name, gradients in found.items()}


@torch.no_grad()
def _advantages(rgdm: Rgdm, drawn: Candidates, base: Transition, own: Transition) -> Tensor:
    """(M, K) centred advantages over K - 1; invalid candidates have the lowest of their row, or none."""
    values = drawn.rewards / rgdm.round_tau
    if rgdm.target == "kl":
        values = values - _log_prob(own, drawn.after) + _log_prob(base, drawn.after)
    valid = torch.isfinite(drawn.rewards)
    lowest = torch.where(valid, values, torch.full_like(values, torch.inf)).min(dim=1, keepdim=True).values
    values = torch.where(valid, values, torch.where(torch.isfinite(lowest), lowest, torch.zeros_like(lowest)))
    return (values - values.mean(dim=1, keepdim=True)) / (values.shape[1] - 1)


def _log_prob(step: Transition, after: Tensor) -> Tensor:
    """(M, K) of candidates (M, K, N, D)."""
    repeats = after.shape[1]
    wide = replace(
        step,
        mean=step.mean.repeat_interleave(repeats, dim=0),
        std=step.std.repeat_interleave(repeats),
        mask=step.mask.repeat_interleave(repeats, dim=0),
    )
    return wide.log_prob(after.flatten(0, 1)).unflatten(0, after.shape[:2])


def _noise(gradients: Tensor) -> GradientNoise:
    return GradientNoise(gradients.mean(dim=0), float(gradients.var(dim=0).sum()), len(gradients))
