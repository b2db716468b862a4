"""`Selector`: several particles a sample, and which of them go on.

All particles of a requested sample form a group: they start from that sample's streams of random numbers and are chosen
among by its own, so that a sample depends on (seed, its index) alone, here as everywhere (up to float rounding, which
may now and then tip a choice). Choices are made in float64 on the CPU.

A reward that cannot score a particle says nothing about it: while chains run it counts as the lowest of its group, and
where none of a group can be scored nothing is chosen at that time. At the end a failure is chosen only from a group of
failures, and is marked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource, Revise, Visit
from common.errors import InputError
from common.guidance.tilt import evaluate
from common.rewards import Reward

# Noisy states and their times (B,) -> (B,) values, in the reward's units.
Value = Callable[[State, Tensor], Tensor]


class ParticleNoise(Protocol):
    """Noise of B samples, as selectors need it; see `SampleNoise`."""

    def __call__(self, mask: Tensor, n_channels: int) -> Tensor:
        """(B, N, D) standard Gaussian noise."""
        ...

    def particles(self, count: int) -> NoiseSource:
        """Noise of B x `count` particles, those of a sample together."""
        ...

    def uniforms(self) -> Tensor:
        """(B,) float64 uniform numbers on the CPU, others at each call."""
        ...


@dataclass(frozen=True)
class Selected:
    """One sample out of each of B groups.

    Attributes:
        state: the B samples.
        values: (B,) their rewards; NaN where not valid.
        valid: (B,) bool; False only where no particle of the group was.
        log_normaliser: (B,) float64 estimate of log Z = log E[exp(scale r / tau)] over the chain's law, whose
            exponential has no bias; NaN for selectors that give none.
        effective: (B,) float64 the smallest effective number of particles on the way.
    """

    state: State
    values: Tensor
    valid: Tensor
    log_normaliser: Tensor
    effective: Tensor


class Selection(Protocol):
    """One use of a selector: it remembers weights from time to time."""

    def revise(self, visit: Visit) -> Visit:
        """See `common.diffusion.sampler.Revise`."""
        ...

    def finish(self, state: State) -> Selected:
        """One of each group of clean states."""
        ...


class Selector(Protocol):
    """Chooses among particles."""

    @property
    def particles(self) -> int:
        """K, of each sample."""
        ...

    @property
    def needs_noise(self) -> bool:
        """Whether steps have to be random, so that copies of a particle part."""
        ...

    def begin(self, uniforms: Callable[[], Tensor]) -> Selection:
        """A selection among B groups, with their random numbers."""
        ...


def select(
    selector: Selector,
    sampler: Sampler,
    denoiser: DenoiserFunction,
    mask: Tensor,
    n_channels: int,
    noise: NoiseSource,
    uniforms: Callable[[], Tensor],
    condition: Mapping[str, Tensor] | None = None,
    before: Revise | None = None,
) -> Selected:
    """B clean states, each chosen among K particles that are sampled together.

    Args:
        selector: chooses.
        sampler: draws the particles.
        denoiser: (state_t, t) -> x0_hat.
        mask: (B, N) bool, True = real.
        n_channels: D.
        noise: of the B x K particles; see `ParticleNoise`.
        uniforms: random numbers of the B samples; see there, too.
        condition: (B, ...) passed on in each state.
        before: another hook, whose visit the selector sees.
    """
    selection = selector.begin(uniforms)
    rows = torch.arange(len(mask), device=mask.device).repeat_interleave(selector.particles)

    def revise(visit: Visit) -> Visit:
        return selection.revise(visit if before is None else before(visit))

    repeated = {name: values[rows] for name, values in (condition or {}).items()}
    state = sampler.sample(denoiser, mask[rows], n_channels, noise, repeated, revise)
    return selection.finish(state)


@dataclass(frozen=True)
class LookAhead:
    """What a particle is worth before its end.

    Attributes:
        reward: of clean states; taken at x0_hat, which the chain has at hand.
        particles: K.
        every: steps from one valuation to the next; more saves reward calls.
        start: time from which on particles are valued; less leaves out estimates that are all noise.
        value: of noisy states, in the place of the reward at x0_hat.
    """

    reward: Reward
    particles: int
    every: int = 1
    start: float = 1.0
    value: Value | None = None

    def __post_init__(self) -> None:
        require_particles(self.particles)
        if self.every < 1 or not 0 <= self.start <= 1:
            raise InputError(f"got every {self.every} and start {self.start}, expected at least 1 and from 0 to 1")

    def __call__(self, visit: Visit) -> Tensor | None:
        """(B, K) values, NaN in groups without any; None at times that are passed over.

        The first time says nothing of the end, and the last is valued at its end.
        """
        if visit.place % self.every or visit.place == 0 or visit.s is None or visit.t > self.start:
            return None
        if self.value is None:
            found = evaluate(self.reward, visit.state.replace(x=visit.x0_hat))
            return grouped(found.values, found.valid, self.particles)
        values = self.value(visit.state, visit.state.x.new_full((len(visit.state),), visit.t))
        return grouped(values, torch.isfinite(values), self.particles)


@dataclass(frozen=True)
class Ends:
    """Clean states of B groups of K particles, scored.

    Attributes:
        state: B K states.
        values: (B K,) rewards; NaN where not valid.
        valid: (B K,) bool.
        ranked: (B, K) float64 on the CPU: the rewards, -inf for failures.
    """

    state: State
    values: Tensor
    valid: Tensor
    ranked: Tensor

    @classmethod
    def of(cls, reward: Reward, state: State, particles: int) -> Ends:
        """The ends of chains."""
        result = evaluate(reward, state)
        values = torch.where(result.valid, result.values, torch.nan)
        ranked = values.detach().cpu().double().nan_to_num(nan=-torch.inf).unflatten(0, (-1, particles))
        return cls(state, values, result.valid, ranked)

    def selected(self, places: Tensor, effective: Tensor, log_normaliser: Tensor | None = None) -> Selected:
        """Of each group the particle at places (B,)."""
        rows = rows_of(places[:, None], self.ranked.shape[1], self.state.x.device)
        if log_normaliser is None:
            log_normaliser = torch.full((len(places),), torch.nan, dtype=torch.float64)
        return Selected(self.state.index(rows), self.values[rows], self.valid[rows], log_normaliser, effective)


def grouped(values: Tensor, valid: Tensor, particles: int) -> Tensor:
    """(B, K) float64 on the CPU from values (B K,): a failure has the lowest of its group; NaN where all failed."""
    values, valid = (tensor.detach().cpu().unflatten(0, (-1, particles)) for tensor in (values, valid))
    values = torch.where(valid, values.double(), torch.inf)
    lowest = values.min(dim=1, keepdim=True).values.expand_as(values)
    values = torch.where(valid, values, lowest)
    return torch.where(torch.isfinite(values), values, torch.nan)


def one_of(logits: Tensor, uniforms: Tensor) -> Tensor:
    """(B,) a particle of each group, with the probabilities softmax(logits (B, K)); the first where all are -inf."""
    cumulative = _cumulative(logits)
    # Strictly above the number, so that a weight of zero is never drawn.
    drawn = torch.searchsorted(cumulative, uniforms[:, None], right=True)[:, 0]
    return torch.where(cumulative[:, -1] > 0, drawn, 0)


def systematic(logits: Tensor, uniforms: Tensor) -> Tensor:
    """(B, K) ancestors of K new particles of each group by systematic resampling: one uniform number a group.

    Each particle is copied K w times on average, and never off from that by one or more.
    """
    count = logits.shape[1]
    # Rounding must not carry the last position to 1, behind all weights.
    positions = ((uniforms[:, None] + torch.arange(count)) / count).clamp(max=1 - 2**-53)
    return torch.searchsorted(_cumulative(logits), positions, right=True).clamp(max=count - 1)


def effective_number(logits: Tensor) -> Tensor:
    """(B,) 1 / sum w^2 of the weights softmax(logits (B, K)), from 1 to K; 0 where all are -inf."""
    weights = torch.nan_to_num(logits.softmax(dim=1))
    return torch.nan_to_num(1 / weights.square().sum(dim=1), posinf=0.0)


def log_mean(logits: Tensor) -> Tensor:
    """(B,) log of the mean of exp(logits (B, K))."""
    return logits.logsumexp(dim=1) - math.log(logits.shape[1])


def rows_of(places: Tensor, particles: int, device: torch.device) -> Tensor:
    """(B M,) rows in a batch of groups of K particles, from M places (B, M) within each group."""
    groups = torch.arange(len(places))[:, None]
    return (groups * particles + places).flatten().to(device)


def require_particles(particles: int) -> None:
    """An `InputError` for a number of particles that is not positive."""
    if particles < 1:
        raise InputError(f"got {particles} particles, expected at least 1")


def _cumulative(logits: Tensor) -> Tensor:
    total = torch.nan_to_num(logits.softmax(dim=1)).cumsum(dim=1)
    # The last is 1 exactly, but for a group without weights.
    return total / total[:, -1:].clamp(min=1e-300)
