"""Closed-form worlds: data laws and quadratic rewards whose tilted law is known, and policies that can represent it.

Data x_0 ~ p, reward r(x) = -|x - target|^2 / (2 spread^2) in the process's subspace. The tilted law p exp(r / tau) / Z
is a Gaussian if p is one, and a mixture if p is. The reference is the analytic denoiser. Of a Gaussian, the chain of K
steps is known exactly, too: its law, and the best that mean-only kernels can do (`GaussianWorld.best_chain`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from contracts.oracle import GaussianLaw, MixtureLaw
from torch import Tensor, nn

from common.algorithms import Algorithm, Cost
from common.algorithms.rollout import rollout_sampler
from common.diffusion import X0, DenoiserFunction, LinearLogSNR, Process, Sampler, Space, State, size_mask
from common.rewards import RewardResult

STEPS = 12
SCHEDULE = LinearLogSNR(6.0, -6.0)


@dataclass(frozen=True)
class QuadraticReward:
    """-|x - target|^2 / (2 spread^2) over the subspace."""

    process: Process
    target: Tensor
    spread: float
    differentiable: bool = True

    def __call__(self, state: State) -> RewardResult:
        gap = self.process.space.project(state.x - self.target.to(state.x), state.mask)
        values = -gap.square().sum(dim=(1, 2)) / (2 * self.spread**2)
        return RewardResult(values, torch.ones(len(state), dtype=torch.bool))


class AffinePolicy(nn.Module):
    """The reference plus shift_t + gain_t x, linear between the sampler's times: exactly the reference at first."""

    def __init__(self, law: GaussianLaw, sampler: Sampler) -> None:
        super().__init__()
        self.law, self.process, self.parameterisation = law, law.process, X0()
        self.shift = nn.Parameter(torch.zeros(sampler.steps, *law.mean.shape, dtype=law.mean.dtype))
        self.gain = nn.Parameter(torch.zeros(sampler.steps, dtype=law.mean.dtype))

    def forward(self, state: State, t: Tensor) -> Tensor:
        shift, gain = _at(self.shift, t), _at(self.gain, t)[:, None, None]
        return self.law(state, t) + self.process.space.project(shift + gain * state.x, state.mask)


class MixturePolicy(nn.Module):
    """The reference, its weights tilted, its means shifted and its std scaled, each time by itself.

    With one set of numbers for all times it would be the denoiser of the tilted law, the optimum of many steps.
    """

    def __init__(self, law: MixtureLaw, sampler: Sampler) -> None:
        super().__init__()
        self.law, self.process, self.parameterisation = law, law.process, X0()
        dtype = law.means.dtype
        self.logits = nn.Parameter(torch.zeros(sampler.steps, len(law.weights), dtype=dtype))
        self.shift = nn.Parameter(torch.zeros(sampler.steps, *law.means.shape, dtype=dtype))
        self.log_scale = nn.Parameter(torch.zeros(sampler.steps, dtype=dtype))

    def forward(self, state: State, t: Tensor) -> Tensor:
        change = [_at(table, t) for table in (self.logits, self.shift, self.log_scale)]
        nothing = [torch.zeros_like(value) for value in change]
        # A difference of two equal numbers is zero exactly, so that the policy starts as the reference, bit for bit.
        return self.law(state, t) + (self._tilted(state, t, *change) - self._tilted(state, t, *nothing))

    def _tilted(self, state: State, t: Tensor, logits: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule.alpha_sigma(t)
        means = self.law.means + shift
        variance = (self.law.std * log_scale.exp()) ** 2
        wide = alpha**2 * variance + sigma**2
        gap = (state.x[:, None] - alpha[:, None, None, None] * means) * state.mask[:, None, :, None]
        distance = gap.square().sum(dim=(2, 3)) / (2 * wide[:, None])
        odds = (self.law.weights.log() + logits - distance).softmax(dim=1)
        parts = means + (alpha * variance / wide)[:, None, None, None] * gap
        return self.process.space.project((odds[:, :, None, None] * parts).sum(dim=1), state.mask)


def _at(table: Tensor, t: Tensor) -> Tensor:
    """(B, ...) rows of a table (L, ...) at times t (B,): linear between the L times 1 ... 0."""
    place = (1 - t.to(table).clamp(0, 1)) * (len(table) - 1)
    low = place.floor().long().clamp(max=len(table) - 2)
    weight = (place - low).reshape(-1, *[1] * (table.ndim - 1))
    return torch.lerp(table[low], table[low + 1], weight)


@dataclass(frozen=True)
class Moments:
    """A Gaussian law: mean (N, D) in the subspace, and one variance in all directions."""

    mean: Tensor
    variance: float

    def kl(self, other: Moments, dof: float, mask: Tensor) -> float:
        """KL(self || other) per degree of freedom."""
        ratio = self.variance / other.variance
        gap = float(((self.mean - other.mean).square() * mask.unsqueeze(-1)).sum()) / dof
        return 0.5 * (ratio - 1 - math.log(ratio)) + gap / (2 * other.variance)


@dataclass(frozen=True)
class GaussianWorld:
    """One Gaussian; samples of `sizes` points by turns, padded by one more."""

    space: Space
    sizes: tuple[int, ...] = (1,)
    n_channels: int = 2
    std: float = 0.8
    spread: float = 0.9
    tau: float = 1.0
    steps: int = STEPS

    @property
    def process(self) -> Process:
        return Process(SCHEDULE, self.space)

    @property
    def sampler(self) -> Sampler:
        return rollout_sampler(self.process, self.steps)

    @property
    def law(self) -> GaussianLaw:
        shape = (max(self.sizes) + 1, self.n_channels)
        mean = torch.linspace(-0.6, 0.6, math.prod(shape), dtype=torch.float64).reshape(shape)
        return GaussianLaw(self.process, mean, self.std)

    @property
    def reward(self) -> QuadraticReward:
        target = self.law.mean.flip(1) + 0.4 * torch.cos(torch.arange(self.law.mean.numel())).reshape(
            self.law.mean.shape
        )
        return QuadraticReward(self.process, target, self.spread)

    def policy(self) -> AffinePolicy:
        return AffinePolicy(self.law, self.sampler)

    def batch(self, count: int) -> State:
        sizes = torch.tensor(self.sizes).repeat(-(-count // len(self.sizes)))[:count]
        mask = size_mask(sizes, max(self.sizes) + 1)
        return State(torch.zeros(*mask.shape, self.n_channels, dtype=torch.float64), mask)

    def data(self, count: int, generator: torch.Generator) -> State:
        """Draws of the reference's law."""
        batch = self.batch(count)
        noise = torch.randn(batch.x.shape, generator=generator, dtype=torch.float64)
        return batch.replace(x=self.space.project(self.law.mean + self.std * noise, batch.mask))

    def tilted(self, mask: Tensor, of: Moments | None = None) -> Moments:
        """The tilted law of samples of one mask (N,): of the data, or of a law that stands in for it."""
        of = of or self._data(mask)
        weight = 1 / (self.tau * self.spread**2)
        precision = 1 / of.variance + weight
        target = self.space.project(self.reward.target[None], mask[None])[0]
        return Moments((of.mean / of.variance + weight * target) / precision, 1 / precision)

    def reference_chain(self, mask: Tensor) -> Moments:
        """The law of the reference's chain of `steps` steps, exactly."""
        return self._chain(self._data(mask), mask, controlled=False)

    def tilted_chain(self, mask: Tensor) -> Moments:
        """The tilted law of that chain: the optimum of the KL-regularised problem over all kernels."""
        return self.tilted(mask, self.reference_chain(mask))

    def projected_chain(self, mask: Tensor) -> Moments:
        """The law of the chain whose denoiser is that of the tilted data law: what weighted likelihood aims at."""
        return self._chain(self.tilted(mask), mask, controlled=False)

    def soft_value(self, state: State, t: Tensor) -> Tensor:
        """(B,) v_t(x_t) = tau log E[exp(r(x_0) / tau) | x_t], exactly."""
        spread = self.posterior_variance(t)
        width = self.tau * self.spread**2
        gap = self.space.project(self.law(state, t) - self.reward.target, state.mask).square().sum(dim=(1, 2))
        dof = self.space.dof(state.mask, self.n_channels)
        return -self.tau * (0.5 * dof * torch.log1p(spread / width) + gap / (2 * (width + spread)))

    def posterior_variance(self, t: Tensor) -> Tensor:
        """(B,) variance of x_0 given x_t, in each direction."""
        alpha, sigma = SCHEDULE.alpha_sigma(t)
        return (self.std * sigma) ** 2 / ((alpha * self.std) ** 2 + sigma**2)

    def log_normaliser(self, mask: Tensor) -> float:
        """log E[exp(r / tau)] over the reference's chain, for samples of one mask (N,)."""
        chain, width = self.reference_chain(mask), self.tau * self.spread**2
        gap = self.space.project((chain.mean - self.reward.target)[None], mask[None]).square().sum()
        dof = int(self.space.dof(mask[None], self.n_channels)[0])
        return -0.5 * dof * math.log1p(chain.variance / width) - float(gap) / (2 * (width + chain.variance))

    def _data(self, mask: Tensor) -> Moments:
        return Moments(self.space.project(self.law.mean[None], mask[None])[0], self.std**2)

    def best_chain(self, mask: Tensor) -> Moments:
        """The law of the chain that maximises E[r] - tau KL over all mean-only kernels, exactly.

        Linear-quadratic control: with v_s(x) = -p |x - q|^2 / 2 and the base's mean mu, the best mean is
        mu - k (mu - q), k = p / (p + tau / std^2), and v_t(x) = -p (1 - k) |mu(x) - q|^2 / 2.
        """
        return self._chain(self._data(mask), mask, controlled=True)

    def _chain(self, law: Moments, mask: Tensor, controlled: bool) -> Moments:
        project = self.space.project
        times = self.sampler.times()
        steps = []
        for i, t in enumerate(times[:, None]):
            alpha, sigma = SCHEDULE.alpha_sigma(t)
            gain = alpha * law.variance / (alpha**2 * law.variance + sigma**2)
            rest = 1 - gain * alpha  # x0_hat = rest mean + gain x_t
            if i + 1 == len(times):
                a, b, std = gain, rest, sigma / alpha
            else:
                one = torch.ones(1, 1, 1, dtype=torch.float64)
                nothing = torch.ones(1, 1, dtype=torch.bool)
                step = Process(SCHEDULE, self.space).posterior
                of_x = step(one, 0 * one, nothing, t, times[i + 1 : i + 2])
                of_x0 = step(0 * one, one, nothing, t, times[i + 1 : i + 2])
                a, b, std = of_x.mean[0, 0] + of_x0.mean[0, 0] * gain, of_x0.mean[0, 0] * rest, of_x.std
            steps.append((float(a), float(b), float(std)))
        mean = law.mean
        feedback = []
        p, q = 1 / self.spread**2, project(self.reward.target[None], mask[None])[0]
        for a, b, std in reversed(steps):
            k = p / (p + self.tau / std**2) if controlled else 0.0
            feedback.append((k, q))
            p, q = p * (1 - k) * a**2, (q - b * mean) / a
        at, variance = torch.zeros_like(mean), 1.0
        for (a, b, std), (k, q) in zip(steps, reversed(feedback), strict=True):
            at = (1 - k) * (a * at + b * mean) + k * q
            variance = ((1 - k) * a) ** 2 * variance + std**2
        return Moments(at, variance)

    def found(self, state: State) -> dict[int, tuple[Tensor, Moments]]:
        """size -> (mask (N,), moments) of samples, size by size."""
        result = {}
        for size in self.sizes:
            rows = state.index(state.sizes == size)
            dof = float(self.space.dof(rows.mask[:1], self.n_channels)[0])
            mean = rows.x.mean(dim=0)
            variance = float((rows.x - mean).square().sum(dim=(1, 2)).mean()) / dof
            result[size] = (rows.mask[0], Moments(mean, variance))
        return result

    def distance(self, state: State, target: Callable[[Tensor], Moments]) -> float:
        """The largest KL per degree of freedom to the target law of a mask, over the sizes."""
        worst = 0.0
        for mask, moments in self.found(state).values():
            dof = float(self.space.dof(mask[None], self.n_channels)[0])
            worst = max(worst, moments.kl(target(mask), dof, mask))
        return worst


@dataclass(frozen=True)
class MixtureWorld:
    """Two Gaussians on the line, the reward in favour of one."""

    space: Space
    std: float = 0.35
    target: float = 0.8
    spread: float = 1.2
    tau: float = 1.0
    steps: int = STEPS
    n_channels: int = 1

    @property
    def process(self) -> Process:
        return Process(SCHEDULE, self.space)

    @property
    def sampler(self) -> Sampler:
        return rollout_sampler(self.process, self.steps)

    @property
    def law(self) -> MixtureLaw:
        means = torch.tensor([[[-1.0], [0.0]], [[1.0], [0.0]]], dtype=torch.float64)
        return MixtureLaw(self.process, means, torch.tensor([0.6, 0.4], dtype=torch.float64), self.std)

    @property
    def reward(self) -> QuadraticReward:
        return QuadraticReward(self.process, torch.tensor([[self.target], [0.0]], dtype=torch.float64), self.spread)

    def policy(self) -> MixturePolicy:
        return MixturePolicy(self.law, self.sampler)

    def batch(self, count: int) -> State:
        """One real point and one of padding."""
        mask = torch.tensor([[True, False]]).expand(count, -1)
        return State(torch.zeros(count, 2, 1, dtype=torch.float64), mask)

    def data(self, count: int, generator: torch.Generator) -> State:
        return self.draws(self.law, count, generator)

    @property
    def tilted_law(self) -> MixtureLaw:
        """The tilted law, which is a mixture again."""
        weight = 1 / (self.tau * self.spread**2)
        precision = 1 / self.std**2 + weight
        target = self.reward.target
        moved = (self.law.means / self.std**2 + weight * target) / precision
        wide = self.std**2 + self.tau * self.spread**2
        gap = (self.law.means - target).square().sum(dim=(1, 2))
        return MixtureLaw(
            self.process, moved, (self.law.weights.log() - gap / (2 * wide)).softmax(dim=0), precision**-0.5
        )

    def soft_value(self, state: State, t: Tensor) -> Tensor:
        """(B,) v_t(x_t) = tau log E[exp(r(x_0) / tau) | x_t], exactly."""
        alpha, sigma = SCHEDULE.alpha_sigma(t)
        spread = (self.std * sigma) ** 2 / ((alpha * self.std) ** 2 + sigma**2)
        width = self.tau * self.spread**2
        parts = torch.stack([GaussianLaw(self.process, mean, self.std)(state, t) for mean in self.law.means], dim=1)
        gap = (parts - self.reward.target)[:, :, 0].square().sum(dim=2)
        odds = self.law.responsibilities(state.x, alpha, sigma)
        each = -0.5 * torch.log1p(spread / width)[:, None] - gap / (2 * (width + spread))[:, None]
        return self.tau * (odds.log() + each).logsumexp(dim=1)

    def draws(self, law: MixtureLaw, count: int, generator: torch.Generator) -> State:
        """Samples of a mixture law, without a chain."""
        batch = self.batch(count)
        which = torch.multinomial(law.weights, count, replacement=True, generator=generator)
        noise = torch.randn(batch.x.shape, generator=generator, dtype=torch.float64)
        return batch.replace(x=self.space.project(law.means[which] + law.std * noise, batch.mask))

    def chain_draws(self, denoiser: DenoiserFunction, count: int, generator: torch.Generator) -> State:
        """Samples of a denoiser's chain of `steps` steps."""
        return self.sampler.sample(denoiser, self.batch(count).mask, 1, noise_source(generator))

    def tilted_chain_draws(self, count: int, generator: torch.Generator) -> State:
        """Draws of the tilted law of the reference's chain of `steps` steps, by weights."""
        chain = self.chain_draws(self.law, 4 * count, generator)
        weights = (self.reward(chain).values / self.tau).softmax(dim=0)
        return chain.index(torch.multinomial(weights, count, replacement=True, generator=generator))

    def distance(self, state: State, target: State) -> float:
        """Wasserstein-1 distance of samples to more numerous ones of another law, in units of x."""
        exact = target.x[:, 0, 0].sort().values
        found = state.x[:, 0, 0].sort().values
        levels = (torch.arange(len(found)) + 0.5) / len(found)
        return float((found - exact[(levels * len(exact)).long()]).abs().mean())


World = GaussianWorld | MixtureWorld


def noise_source(generator: torch.Generator) -> Callable[[Tensor, int], Tensor]:
    """As `SampleNoise`, from one generator and in float64."""
    return lambda mask, channels: torch.randn(*mask.shape, channels, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class GroupNoise:
    """As `SampleNoise` for `count` samples, from one generator and in float64: thousands of groups at once."""

    generator: torch.Generator
    count: int

    def __call__(self, mask: Tensor, n_channels: int) -> Tensor:
        return noise_source(self.generator)(mask, n_channels)

    def particles(self, count: int) -> Callable[[Tensor, int], Tensor]:
        return self

    def uniforms(self) -> Tensor:
        return torch.rand(self.count, generator=self.generator, dtype=torch.float64)


@dataclass(frozen=True)
class Outcome:
    """What a training run in a world came to."""

    policy: nn.Module
    samples: State
    cost: Cost
    seconds: float
    metrics: dict[str, Tensor]


def train(
    world: World,
    algorithm: Algorithm,
    iterations: int = 200,
    count: int = 256,
    learning_rate: float = 0.05,
    minibatches: int = 1,
    seed: int = 0,
    n_samples: int = 6000,
) -> Outcome:
    """A small trainer: Adam with a rate that falls to zero; weights are averaged over the second half."""
    generator = torch.Generator().manual_seed(seed)
    noise = noise_source(generator)
    policy = world.policy()
    parameters = [*policy.parameters(), *(p for module in algorithm.trained for p in module.parameters())]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1.0, 2 * (1 - k / (iterations + 1))))
    averaged, cost, metrics, began = copy.deepcopy(policy), Cost(), {}, time.process_time()
    for iteration in range(iterations):
        batch = world.data(count, generator) if algorithm.needs_data else world.batch(count)
        experience = algorithm.collect(policy, world.law, world.reward, batch, noise, generator)
        cost, metrics = cost + experience.cost, dict(experience.metrics)
        for _ in range(algorithm.epochs):
            parts = [experience] if minibatches == 1 else experience.minibatches(minibatches, generator)
            for part in parts:
                loss, more = algorithm.loss(policy, world.law, part)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                metrics |= more
        schedule.step()
        begun = iteration - iterations // 2
        if begun >= 0:
            with torch.no_grad():
                for mean, current in zip(averaged.parameters(), policy.parameters(), strict=True):
                    mean.lerp_(current, 1 / (begun + 1))
    seconds = time.process_time() - began
    samples = world.sampler.sample(averaged, world.batch(n_samples).mask, world.n_channels, noise)
    return Outcome(averaged, samples, cost, seconds, metrics)
