"""`Algorithm`: how a denoiser learns from experience. One paper a file; the trainer knows nothing but this.

Notation of all files here: t = 1 is noise and t = 0 data; `reference` is the frozen pre-trained denoiser and p_ref its
reverse kernel, `policy` the trained one and p_theta its kernel; r(x_0) is the reward and tau the temperature of

    max_theta  E[r(x_0)] - tau sum_t KL(p_theta(. | x_t) || p_ref(. | x_t)),        (arXiv 2407.13734, section 3)

whose optimum has the terminal law p_ref(x_0) exp(r(x_0) / tau) / Z if x_T tells nothing of x_0. The kernels share their
std, so that only means are learnt; in K steps that leaves a bias of order 1 / K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from common.algorithms.experience import Experience
from common.diffusion import DenoiserFunction, Process, Sampler, State, Transition
from common.diffusion.denoiser import Parameterisation
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.rewards import Reward


class Policy(Protocol):
    """What is trained: a `Denoiser`, a `ControlledDenoiser`, or anything else that has this."""

    @property
    def process(self) -> Process:
        """The process that it denoises."""
        ...

    @property
    def parameterisation(self) -> Parameterisation:
        """What its raw output means; weighs the denoising loss."""
        ...

    def __call__(self, state: State, t: Tensor) -> Tensor:
        """x0_hat (B, N, D) at times t (B,)."""
        ...


class Algorithm(Protocol):
    """Training-time control."""

    @property
    def sampler(self) -> Sampler | None:
        """Whose steps `Experience.steps` counts; None where no chain is drawn."""
        ...

    @property
    def needs_gradient(self) -> bool:
        """Whether the reward has to be differentiable."""
        ...

    @property
    def needs_data(self) -> bool:
        """Whether `batch.x` has to hold clean data; else its mask, channels and condition say what to generate."""
        ...

    @property
    def epochs(self) -> int:
        """How often an experience may be gone through before a new one is collected."""
        ...

    @property
    def rows_together(self) -> int:
        """How many rows of an experience that follow each other belong to one loss: 1 for none, 0 for all."""
        ...

    @property
    def trained(self) -> Sequence[nn.Module]:
        """What is trained beside the policy (a value function); the trainer owns their optimiser, too."""
        ...

    def collect(
        self,
        policy: Policy,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """Experience for some steps of training, without a graph.

        Args:
            policy: the denoiser that is trained.
            reference: the frozen one.
            reward: of clean states.
            batch: B clean states (`needs_data`), or what to generate: mask (B, N), the channels of x, condition.
            noise: (mask, D) -> standard Gaussian noise of a batch like `batch`; see `SampleNoise`.
            generator: on the CPU, for all other draws.
        """
        ...

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to minimise and scalars for the log. It draws nothing: the same experience gives the same loss."""
        ...


class FromData:
    """What all algorithms have in common whose experience is the data set: see `Algorithm`."""

    sampler = None
    needs_gradient = False
    needs_data = True
    epochs = 1
    rows_together = 1
    trained = ()


class FromChains:
    """What most algorithms have in common whose experience are their own chains: see `Algorithm`."""

    needs_gradient = False
    rows_together = 1
    trained = ()


@dataclass(frozen=True)
class Scored:
    """Rewards of B samples, ready for use.

    Attributes:
        values: (B,) NaN where not valid.
        valid: (B,) bool.
        gradient: (B, N, D) of each valid sample's reward with respect to it, zero elsewhere; None if not asked for.
    """

    values: Tensor
    valid: Tensor
    gradient: Tensor | None = None

    def filled(self) -> Tensor:
        """(B,) where not valid the lowest valid reward of the batch: a failure gains over nobody. Zeros if none is."""
        if not self.valid.any():
            return torch.zeros_like(self.values)
        return torch.where(self.valid, self.values, self.values[self.valid].min())

    def metrics(self) -> dict[str, Tensor]:
        """Mean reward of the valid samples (NaN if none), and their share."""
        return {"reward": self.values[self.valid].mean(), "valid": self.valid.to(self.values.dtype).mean()}


def score(reward: Reward, state: State) -> Scored:
    """Rewards of clean states, without a graph."""
    with torch.no_grad():
        result = reward(state)
    return Scored(_valid_only(result.values, result.valid), result.valid)


def score_with_gradient(reward: Reward, state: State) -> Scored:
    """Rewards of clean states and their gradients.

    Raises:
        InputError: the reward is not differentiable.
    """
    require_differentiable(reward)
    x = state.x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        result = reward(state.replace(x=x))
        gradient = torch.zeros_like(x)
        if result.valid.any():
            (gradient,) = torch.autograd.grad(result.values[result.valid].sum(), x)
    usable = result.valid & torch.isfinite(gradient).flatten(1).all(dim=1)
    gradient = torch.where(usable[:, None, None], gradient, torch.zeros_like(gradient))
    return Scored(_valid_only(result.values.detach(), result.valid), result.valid, gradient)


def require_differentiable(reward: Reward) -> None:
    """An `InputError` for a reward without a gradient."""
    if not reward.differentiable:
        raise InputError(
            "this method needs a differentiable reward and got one that is not; take rgdm, policy_gradient, "
            "reward_weighted, path_consistency or, for controls, hindsight; or a predictor as the reward"
        )


def require_temperature(tau: float) -> None:
    """An `InputError` for a temperature that is not above zero."""
    if not tau > 0:
        raise InputError(f"got tau {tau}, expected a number above 0: the weight of the divergence from the base")


def require_groups(group_size: int, count: int) -> None:
    """An `InputError` for a batch of `count` chains that does not split into groups; 0 is one group of all."""
    if group_size and count % group_size:
        raise InputError(f"got a batch of {count}, expected a multiple of the group size {group_size}")


def _valid_only(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, torch.full_like(values, torch.nan))


def regress(step: Transition, target: Tensor, weights: Tensor) -> Tensor:
    """Scalar mean over M steps of weights (M,) times ||target (M, N, D) - mean||^2 / (2 std^2): -log p, but for a
    constant."""
    squared = step.space.project(target - step.mean, step.mask).square().sum(dim=(1, 2))
    return (weights * squared / (2 * step.std**2)).mean()


def scalars(**values: float | Tensor) -> Mapping[str, Tensor]:
    """Detached scalars for the log."""
    return {
        name: value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
        for name, value in values.items()
    }
