"""Reverse chains as experience: drawn without a graph, and their steps' laws again, with one where wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from common.algorithms.experience import Experience
from common.cost import Cost
from common.diffusion import SOLVERS, DenoiserFunction, Process, Sampler, State, Transition
from common.diffusion.sampler import NoiseSource
from common.errors import InputError


def rollout_sampler(process: Process, steps: int = 20, exponent: float = 1.0) -> Sampler:
    """The sampler that training needs: ancestral (eta = 1, memoryless), with a noisy read-out.

    Without noise in the read-out its step would have no density: a policy could move it at no divergence at all.
    """
    return Sampler(process, steps=steps, solver="ancestral", exponent=exponent, final_noise=True)


def noise_scale(sampler: Sampler) -> float:
    """eta of a sampler's steps."""
    return sampler.noise_scale


def require_density(sampler: Sampler) -> None:
    """An `InputError` unless each step has a density that depends on the state before it alone.

    A second-order solver's step depends on the step before it, too.
    """
    if SOLVERS[sampler.solver][0] != 1 or noise_scale(sampler) <= 0 or not sampler.final_noise:
        raise InputError(
            f"got the sampler {sampler.settings()}, expected a first-order solver with eta > 0 and final_noise=True, "
            "so that each step has a density of its own; see rollout_sampler"
        )


def require_memoryless(sampler: Sampler) -> None:
    """An `InputError` unless eta is 1: only then is x_T independent of x_0 (arXiv 2409.08861, section 4)."""
    require_density(sampler)
    if noise_scale(sampler) != 1.0:
        raise InputError(
            f"got eta {noise_scale(sampler)}, expected 1: with less noise the start of a chain decides its end, "
            "and the optimum is not the tilted law"
        )


@torch.no_grad()
def rollout(denoiser: DenoiserFunction, sampler: Sampler, batch: State, noise: NoiseSource) -> Experience:
    """Chains of `sampler.steps` steps from noise to clean states; second-order solvers, too.

    Args:
        denoiser: whose chains.
        sampler: see `rollout_sampler`; `log_prob` is there only if every step has noise.
        batch: what to generate: mask (B, N), channels of x, condition.
        noise: see `SampleNoise`.

    Returns:
        Experience with B rows of L = `sampler.steps` steps, their cost, and the denoiser's estimates as the extra
        `x0_hat` (B, L, N, D).
    """
    n_channels = batch.x.shape[-1]
    start = batch.replace(x=sampler.process.prior(noise(batch.mask, n_channels), batch.mask))
    stochastic = noise_scale(sampler) > 0 and sampler.final_noise
    path, estimates, log_prob = [start.x], [], []
    for step in sampler.reverse(denoiser, start, noise):
        path.append(step.after.x)
        estimates.append(step.x0_hat)
        if stochastic:
            log_prob.append(step.transition.log_prob(step.after.x))
    steps = torch.arange(sampler.steps, device=batch.mask.device).expand(len(batch), -1)
    return Experience(
        torch.stack(path, dim=1),
        steps,
        batch.mask,
        batch.condition,
        log_prob=torch.stack(log_prob, dim=1) if stochastic else None,
        extra={"x0_hat": torch.stack(estimates, dim=1)},
        cost=Cost(evaluations=len(batch) * sampler.steps),
    )


def kernel(denoiser: DenoiserFunction, sampler: Sampler, before: State, steps: Tensor) -> Transition:
    """The law of the next state, each sample at its own step: what `Sampler.reverse` draws from, bit for bit.

    Args:
        denoiser: whose kernel; gradients flow through it.
        sampler: of a first order.
        before: M states.
        steps: (M,) long, place of each state among the sampler's times.
    """
    return kernel_of(denoiser(before, step_times(sampler, before, steps)), sampler, before, steps)


def step_times(sampler: Sampler, state: State, steps: Tensor) -> Tensor:
    """(M,) the times of these places among the sampler's, in the state's precision."""
    return sampler.times().to(state.x.device, state.x.dtype)[steps]


def kernel_of(x0_hat: Tensor, sampler: Sampler, before: State, steps: Tensor) -> Transition:
    """As `kernel`, from the estimate x0_hat (M, N, D) at `before`."""
    process = sampler.process
    t = step_times(sampler, before, steps)
    last = steps == sampler.steps - 1
    s = step_times(sampler, before, torch.where(last, steps, steps + 1))
    inner = process.posterior(before.x, x0_hat, before.mask, t, s, noise_scale(sampler))
    alpha, sigma = process.schedule.alpha_sigma(t)
    mean = torch.where(last[:, None, None], x0_hat, inner.mean)
    return Transition(mean, torch.where(last, sigma / alpha, inner.std), process.space, before.mask)


def kernels(denoiser: DenoiserFunction, sampler: Sampler, experience: Experience) -> Transition:
    """The laws of all steps of all rows at once, flattened to M L rows in the order of `Experience.flat`."""
    flat = experience.flat()
    return kernel(denoiser, sampler, flat.state(0), flat.steps[:, 0])


@torch.no_grad()
def path_kl(reference: DenoiserFunction, sampler: Sampler, chains: Experience) -> Tensor:
    """(M, L) KL(p_theta || p_ref) of each step of a fresh `rollout`, summed over the real degrees of freedom.

    Its sum over the steps, averaged over the policy's chains, is the divergence of the two path laws, in nats.
    """
    parts = []
    for place in range(chains.length):
        before, steps = chains.state(place), chains.steps[:, place]
        own = kernel_of(chains.extra["x0_hat"][:, place], sampler, before, steps)
        parts.append(own.kl(kernel(reference, sampler, before, steps)))
    return torch.stack(parts, dim=1)
