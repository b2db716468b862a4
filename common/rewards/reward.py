"""`Reward`: what a user wants of samples, as one number a sample. The only thing that algorithms see of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from common.diffusion import State
from common.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class RewardResult:
    """The rewards of a batch of B samples.

    Attributes:
        values: (B,) the larger the better; where not valid NaN, or the floor if the reward has one.
        valid: (B,) bool, the sample could be scored and passes all filters.
        parts: name with unit -> (B,) raw values, NaN where that measurement failed.
        failures: reason -> number of samples; a sample may fail for several.
    """

    values: Tensor
    valid: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {name: tuple(part.shape) for name, part in self.parts.items()}
        if self.values.ndim != 1 or any(shape != tuple(self.values.shape) for shape in shapes.values()):
            raise ValueError(f"got values {tuple(self.values.shape)} and parts {shapes}, expected (B,) for all")
        if self.valid.dtype != torch.bool or self.valid.shape != self.values.shape:
            raise ValueError(f"got valid {tuple(self.valid.shape)} of {self.valid.dtype}, expected (B,) bool")
        if not torch.isfinite(self.values[self.valid]).all():
            raise ValueError("a valid sample has a reward that is not finite")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_failed(self) -> int:
        """Samples that could not be scored or did not pass a filter."""
        return int((~self.valid).sum())

    def order(self) -> Tensor:
        """(B,) indices, best first. Samples that are not valid come last, whatever stands in `values`: `argmax` and
        `topk` of torch would take NaN for the best."""
        return torch.where(self.valid, self.values, torch.full_like(self.values, -torch.inf)).argsort(
            descending=True, stable=True
        )

    def mean(self) -> Tensor:
        """Scalar mean over the valid samples, NaN if there is none."""
        return self.values[self.valid].mean()


class Reward(Protocol):
    """A reward of clean states."""

    @property
    def differentiable(self) -> bool:
        """Whether `values` carry a gradient with respect to `state.x`."""
        ...

    def __call__(self, state: State) -> RewardResult:
        """Score a batch of B clean states. A sample that cannot be scored is not valid; it raises nothing."""
        ...


@dataclass(frozen=True)
class FunctionReward:
    """A reward from a function of torch: `function(state) -> (B,)`; what is not finite is a failure.

    Args:
        function: as said.
        differentiable: whether autograd goes through it.
        example: a state on which the declaration is checked; needed if `differentiable`.
        name: of its one part.

    Raises:
        InputError: declared differentiable, and it is not.
    """

    function: Callable[[State], Tensor]
    differentiable: bool = False
    example: State | None = None
    name: str = "reward"

    def __post_init__(self) -> None:
        if self.differentiable:
            check_gradient(self.name, lambda state: self(state).values, self.example)

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`."""
        raw = checked_values(self.name, self.function(state), len(state))
        valid = torch.isfinite(raw)
        values = torch.where(valid, raw, torch.full_like(raw, torch.nan))
        failed = int((~valid).sum())
        return RewardResult(values, valid, {self.name: values}, {f"{self.name}: not finite": failed} if failed else {})


@dataclass(frozen=True)
class SummedReward:
    """Several rewards at once: their sum, valid where all of them are.

    Args:
        rewards: at least one, of the same states.
    """

    rewards: Sequence[Reward]

    @property
    def differentiable(self) -> bool:
        """See `Reward`: where all of them are."""
        return all(reward.differentiable for reward in self.rewards)

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`."""
        results = [reward(state) for reward in self.rewards]
        valid = torch.stack([result.valid for result in results]).all(dim=0)
        total = torch.stack([result.values for result in results]).sum(dim=0)
        parts: dict[str, Tensor] = {}
        failures: Counter[str] = Counter()
        for result in results:
            parts |= result.parts
            failures.update(result.failures)
        return RewardResult(total, valid, parts, failures)


class Remembering(Generic[T]):
    """A function of states that looks once at samples that it is given again, whatever else is asked of them.

    Only where no gradients are recorded: a graph can be gone through once.

    Args:
        function: such as a predictor or a `Reward`, that goes by what the samples are.
    """

    def __init__(self, function: Callable[[State], T]) -> None:
        self._function = function
        self._last: tuple[Tensor, Tensor, T] | None = None

    @property
    def differentiable(self) -> bool:
        """See `Reward`."""
        return getattr(self._function, "differentiable", True)

    def __call__(self, state: State) -> T:
        """What the function says of B states."""
        if torch.is_grad_enabled():
            return self._function(state)
        if self._last is None or self._last[0] is not state.x or self._last[1] is not state.mask:
            self._last = state.x, state.mask, self._function(state)
        return self._last[2]


class Explained:
    """A `Reward` that keeps in mind why samples of its last call failed.

    Args:
        reward: any.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._failures: Mapping[str, int] = {}

    @property
    def differentiable(self) -> bool:
        """See `Reward`."""
        return self._reward.differentiable

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`."""
        result = self._reward(state)
        # Not the result, which may hold a graph.
        self._failures = result.failures
        return result

    def why(self) -> str:
        """See `reasons`."""
        return reasons([self._failures])


def reasons(failures: Sequence[Mapping[str, int]], most: int = 3) -> str:
    """The `most` frequent reasons for which samples failed, such as `60 x gap: time limit`; for a line to the user."""
    counted: Counter[str] = Counter()
    for some in failures:
        counted.update(some)
    return "; ".join(f"{count} x {reason}" for reason, count in counted.most_common(most)) or "for no reason given"


def checked_values(name: str, values: Tensor, count: int) -> Tensor:
    """`values` if they are (count,) floats; a ValueError names their source otherwise."""
    if not isinstance(values, Tensor) or tuple(values.shape) != (count,) or not values.is_floating_point():
        got = f"{tuple(values.shape)} of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"'{name}' gave {got} for {count} samples, expected a float tensor ({count},)")
    return values


def check_gradient(name: str, function: Callable[[State], Tensor], example: State | None) -> None:
    """Check that the values (B,) of `function(example)` have a gradient with respect to the state.

    Raises:
        InputError: no example, no value on it, no gradient, or one that is zero or not finite everywhere.
    """
    if example is None:
        raise InputError(f"'{name}' is declared differentiable: give example=State(...), on which that is checked")
    x = example.x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        values = function(example.replace(x=x))
        usable = torch.isfinite(values.detach())
        if not usable.any():
            raise InputError(f"'{name}' scores no sample of the example, so its gradient cannot be checked")
        if not values.requires_grad:
            raise InputError(f"'{name}' is declared differentiable, but autograd does not reach the state through it")
        (gradient,) = torch.autograd.grad(values[usable].sum(), x, allow_unused=True)
    if gradient is None or not (gradient != 0).any():
        raise InputError(f"'{name}' is declared differentiable, but its gradient is zero on the whole example")
    if not torch.isfinite(gradient).all():
        raise InputError(f"'{name}' is declared differentiable, but its gradient is not finite on the example")
