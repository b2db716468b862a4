"""What a method spends, so that methods are compared at equal compute; and wrappers that count it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.diffusion import DenoiserFunction, State
from common.rewards import Reward, RewardResult


@dataclass(frozen=True)
class Cost:
    """What was spent, so that methods are compared at equal compute.

    Attributes:
        reward_calls: samples that a reward has scored.
        evaluations: samples that a denoiser has seen, policy and reference alike; a backward pass counts nothing.
    """

    reward_calls: int = 0
    evaluations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.reward_calls + other.reward_calls, self.evaluations + other.evaluations)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.reward_calls - other.reward_calls, self.evaluations - other.evaluations)


class Counted:
    """A denoiser, or another function of noisy states, that counts its evaluations: one for each sample that it sees.

    A function with an attribute `evaluations_each` takes that many.
    """

    def __init__(self, denoiser: DenoiserFunction) -> None:
        self._denoiser = denoiser
        self._each = getattr(denoiser, "evaluations_each", 1)
        self.evaluations = 0

    def __call__(self, state: State, t: Tensor) -> Tensor:
        self.evaluations += self._each * len(state)
        return self._denoiser(state, t)


class CountedReward:
    """A reward that counts the samples that it scores."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self.evaluations = 0

    @property
    def differentiable(self) -> bool:
        """See `Reward`."""
        return self._reward.differentiable

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`."""
        self.evaluations += len(state)
        return self._reward(state)
