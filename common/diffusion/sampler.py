"""`Sampler`: one reverse loop for every solver.

First and second order, stochastic and deterministic solvers are the same Gaussian step (`Process.posterior`) with
another estimate of the clean state and another eta:

| solver    | order | eta | known as                                                      |
|-----------|-------|-----|---------------------------------------------------------------|
| ancestral | 1     | 1   | DDPM (arXiv 2006.11239), EDM's sampler                        |
| ddim      | 1     | 0   | DDIM (arXiv 2010.02502)                                       |
| dpm2      | 2     | 0   | DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2)              |
| sde-dpm2  | 2     | 1   | SDE-DPM-Solver++(2M) (arXiv 2211.01095, section 5 and appendix) |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from common.diffusion.denoiser import DenoiserFunction
from common.diffusion.process import Process
from common.diffusion.state import State
from common.diffusion.transition import Transition
from common.errors import InputError
from common.named import build

NoiseSource = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Visit:
    """A chain at one of its times, after the denoiser was asked and before the step: what a hook may change.

    Attributes:
        place: of t among the sampler's times.
        t: time.
        s: time after the step; None before the last step, which ends at the clean state.
        state: B states at t.
        x0_hat: (B, N, D) the denoiser's estimate there.
        previous: (B, N, D) its estimate one time before, which second-order solvers use; None at the first.
    """

    place: int
    t: float
    s: float | None
    state: State
    x0_hat: Tensor
    previous: Tensor | None

    def index(self, rows: Tensor) -> Visit:
        """The chains at `rows` (K,), in that order: some go on several times, others not at all."""
        previous = None if self.previous is None else self.previous[rows]
        return replace(self, state=self.state.index(rows), x0_hat=self.x0_hat[rows], previous=previous)


# What happens to chains between two steps; the number of chains stays.
Revise = Callable[[Visit], Visit]

# name -> (order, eta)
SOLVERS = {"ancestral": (1, 1.0), "ddim": (1, 0.0), "dpm2": (2, 0.0), "sde-dpm2": (2, 1.0)}


@dataclass(frozen=True)
class Step:
    """One step of a reverse chain: what a rollout keeps and a selector acts on.

    Attributes:
        t: time before the step.
        s: time after it; None for the last step, which ends at the clean state.
        before: state at t, after the hook, if there is one.
        x0_hat: (B, N, D) the denoiser's estimate at t.
        transition: the law from which `after` was drawn.
        after: state at s.
    """

    t: float
    s: float | None
    before: State
    x0_hat: Tensor
    transition: Transition
    after: State


@dataclass(frozen=True)
class Sampler:
    """Draws states by reversing a process.

    Attributes:
        process: the process to reverse.
        steps: network evaluations a sample.
        solver: a key of `SOLVERS`.
        eta: overrides the solver's noise scale, in [0, 1].
        exponent: the times are linspace(1, 0, steps) ** exponent; above 1 puts more steps near the data.
        final_noise: add noise of std sigma(0) / alpha(0) to the last estimate, as EDM does (arXiv 2203.17003, 3.3).
    """

    process: Process
    steps: int = 50
    solver: str = "ancestral"
    eta: float | None = None
    exponent: float = 1.0
    final_noise: bool = False
    _order: int = field(init=False, repr=False)
    _eta: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"got solver '{self.solver}', expected one of {', '.join(SOLVERS)}")
        if self.steps < 1:
            raise ValueError(f"got {self.steps} steps, expected at least 1")
        order, eta = SOLVERS[self.solver]
        eta = eta if self.eta is None else self.eta
        if not 0 <= eta <= 1:
            raise ValueError(f"got eta {eta}, expected a number from 0 (deterministic) to 1 (ancestral)")
        if not 0 < self.exponent < math.inf:
            raise ValueError(f"got exponent {self.exponent}, expected a number above 0; 1 for even steps")
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_eta", eta)

    @property
    def noise_scale(self) -> float:
        """eta of the steps."""
        return self._eta

    @classmethod
    def edm(cls, process: Process, timesteps: int = 1000) -> Sampler:
        """EDM's sampler exactly: T ancestral steps and one noisy read-out, T + 1 evaluations (arXiv 2203.17003)."""
        return cls(process, steps=timesteps + 1, solver="ancestral", final_noise=True)

    def adjusted(
        self,
        steps: int | None = None,
        solver: str | None = None,
        eta: float | None = None,
        exponent: float | None = None,
    ) -> Sampler:
        """This sampler with what is not None changed; `InputError` for what cannot be."""
        changes = {"steps": steps, "solver": solver, "eta": eta, "exponent": exponent}
        try:
            return replace(self, **{name: value for name, value in changes.items() if value is not None})
        except ValueError as error:
            raise InputError(str(error)) from error

    def settings(self) -> dict[str, Any]:
        """What `build_sampler` needs to make this sampler again."""
        return {name: getattr(self, name) for name in ("steps", "solver", "eta", "exponent", "final_noise")}

    def times(self) -> Tensor:
        """(steps,) float64 decreasing times at which the network is evaluated, from 1 to 0."""
        return torch.linspace(1, 0, self.steps, dtype=torch.float64) ** self.exponent

    @torch.no_grad()
    def sample(
        self,
        denoiser: DenoiserFunction,
        mask: Tensor,
        n_channels: int,
        noise: NoiseSource,
        condition: Mapping[str, Tensor] | None = None,
        revise: Revise | None = None,
    ) -> State:
        """Clean states (B, N, D) for a mask (B, N).

        Args:
            denoiser: (state_t, t (B,)) -> x0_hat (B, N, D).
            mask: (B, N) bool, True = real.
            n_channels: D.
            noise: (mask, D) -> standard Gaussian noise; see `SampleNoise`.
            condition: passed on in each state.
            revise: see `reverse`.
        """
        state = State(self.process.prior(noise(mask, n_channels), mask), mask, condition or {})
        for step in self.reverse(denoiser, state, noise, revise):
            state = step.after
        return state

    def reverse(
        self, denoiser: DenoiserFunction, prior: State, noise: NoiseSource, revise: Revise | None = None
    ) -> Iterator[Step]:
        """The steps from a prior state (t = 1) to the clean state. Gradients flow unless the caller forbids them.

        `revise` may put other chains in the place of these at each time: see `common.guidance`.
        """
        times = self.times().tolist()
        log_snr = self.process.schedule.log_snr(torch.tensor(times, dtype=torch.float64)).tolist()
        state, previous = prior, None
        for i, t in enumerate(times):
            s = times[i + 1] if i + 1 < len(times) else None
            t_batch = state.x.new_full((len(state),), t)
            x0_hat = denoiser(state, t_batch)
            if revise is not None:
                visit = revise(Visit(i, t, s, state, x0_hat, previous))
                state, x0_hat, previous = visit.state, visit.x0_hat, visit.previous
            if s is None:
                transition = self._read_out(x0_hat, t_batch, state.mask)
            else:
                estimate = x0_hat
                # The step to t = 0 leaps in log-SNR, and extrapolating over it overshoots: first order there, as the
                # solver's authors do for few steps.
                if self._order == 2 and previous is not None and i + 2 < len(times):
                    # Linear extrapolation of x0_hat in log-SNR to the middle of the step (arXiv 2211.01095, alg. 2).
                    ratio = (log_snr[i + 1] - log_snr[i]) / (log_snr[i] - log_snr[i - 1])
                    estimate = x0_hat + 0.5 * ratio * (x0_hat - previous)
                transition = self.process.posterior(
                    state.x, estimate, state.mask, t_batch, state.x.new_full((len(state),), s), self._eta
                )
            stochastic = self._eta > 0 if s is not None else self.final_noise
            x = transition.sample(noise(state.mask, state.x.shape[-1])) if stochastic else transition.mean
            after = state.replace(x=x)
            yield Step(t, s, state, x0_hat, transition, after)
            state, previous = after, x0_hat

    def _read_out(self, x0_hat: Tensor, t: Tensor, mask: Tensor) -> Transition:
        alpha, sigma = self.process.schedule.alpha_sigma(t)
        std = sigma / alpha if self.final_noise else torch.zeros_like(t)
        return Transition(mean=x0_hat, std=std, space=self.process.space, mask=mask)


def build_sampler(process: Process, settings: Mapping[str, Any]) -> Sampler:
    """The sampler that a model's description recommends; `InputError` for unusable settings."""
    return build(Sampler, {**settings, "process": process}, "sampler")
