"""What is wanted of a quantity: transforms from raw values to scores. Each is differentiable where its input is.

Three readings of the same goal serve three ways to combine goals (`common.rewards.aggregate`):

- `score`: log-likelihood of being right, at most 0, for targets and ranges; the quantity itself for maximise.
- `desirability`: from 0 to 1; exp(score) for targets and ranges.
- `met`: yes or no.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import InputError

# Of a value that is asked for give or take a share of it; what is smaller, or negative, counts as this.
_LEAST_SHARE = 1e-6


class Goal(Protocol):
    """What is wanted of one quantity. All three take finite raw values (B,) in the quantity's unit."""

    def score(self, values: Tensor) -> Tensor:
        """(B,) the larger the better; what a weighted sum adds up."""
        ...

    def desirability(self, values: Tensor) -> Tensor:
        """(B,) from 0 to 1; what a product multiplies."""
        ...

    def met(self, values: Tensor) -> Tensor:
        """(B,) bool; what a filter asks."""
        ...


@dataclass(frozen=True)
class Target:
    """A value to hit: the Gaussian log-likelihood -(v - value)^2 / (2 tolerance^2), without its constant.

    Attributes:
        value: in the quantity's unit.
        tolerance: the Gaussian's standard deviation; also how far off still counts as met.
        relative: the tolerance is a share of the value, and the Gaussian that of log(v): half and double are equally
            far off. For positive quantities that range over orders of magnitude, such as volumes.
    """

    value: float
    tolerance: float | None = None
    relative: bool = False

    def score(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        return -0.5 * self._off(values) ** 2

    def desirability(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        return self.score(values).exp()

    def met(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        # A hair's breadth more, so that 4.3 meets 4.5 ± 0.2 in binary numbers too.
        return self._off(values).abs() <= 1 + 1e-6

    def _off(self, values: Tensor) -> Tensor:
        """(B,) how far off, in tolerances."""
        tolerance = _needed(self.tolerance, self)
        if not self.relative:
            return (values - self.value) / tolerance
        return (values / self.value).clamp(min=_LEAST_SHARE).log() / math.log1p(tolerance)

    def __str__(self) -> str:
        return f"= {self.value:g}{_give_or_take(self.tolerance, self.relative)}"


@dataclass(frozen=True)
class Range:
    """A range to stay in: 0 inside, outside as a `Target` at the nearer edge. Open edges count as closed.

    Attributes:
        low, high: in the quantity's unit; None for a side without limit.
        tolerance: the standard deviation beyond an edge; a filter needs none.
        relative: see `Target`.
    """

    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    relative: bool = False

    def score(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        edges = [Target(edge, self.tolerance, self.relative) for edge in (self.low, self.high) if edge is not None]
        nearest = torch.stack([edge.score(values) for edge in edges]).amax(dim=0)
        return torch.where(self.met(values), torch.zeros_like(nearest), nearest)

    def desirability(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        return self.score(values).exp()

    def met(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        inside = torch.ones_like(values, dtype=torch.bool)
        inside = inside if self.low is None else inside & (values >= self.low)
        return inside if self.high is None else inside & (values <= self.high)

    def __str__(self) -> str:
        soft = _give_or_take(self.tolerance, self.relative)
        if self.low is None or self.high is None:
            return (f"> {self.low:g}" if self.high is None else f"< {self.high:g}") + soft
        return f"from {self.low:g} to {self.high:g}" + soft


@dataclass(frozen=True)
class Maximise:
    """As large as possible, or as small: `sign` is 1 or -1.

    With `low` and `high` the score runs from 0 at the bad end to 1 at the good one and stays there; without them it is
    the value itself (its negative to minimise), and no product can be formed.
    """

    sign: int = 1
    low: float | None = None
    high: float | None = None

    def score(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        return self.sign * values if self.low is None else self.desirability(values)

    def desirability(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        low, high = self._scale()
        share = ((values - low) / (high - low)).clamp(0, 1)
        return share if self.sign > 0 else 1 - share

    def met(self, values: Tensor) -> Tensor:
        """See `Goal`: the good end is reached."""
        low, high = self._scale()
        return values >= high if self.sign > 0 else values <= low

    def _scale(self) -> tuple[float, float]:
        if self.low is None or self.high is None:
            raise InputError(f"'{self}' has no scale from 0 to 1; say '{self} NAME from LOW to HIGH'")
        return self.low, self.high

    def __str__(self) -> str:
        return ("maximise" if self.sign > 0 else "minimise") + (
            "" if self.low is None else f" from {self.low:g} to {self.high:g}"
        )


@dataclass(frozen=True)
class Category:
    """A label to hit; values are indices of labels, so only the right one has 1, all others 0.

    Attributes:
        label: as typed.
        index: of the label among the quantity's categories; None until they are known.
    """

    label: str
    index: int | None = None

    def score(self, values: Tensor) -> Tensor:
        """See `Goal`: 0 for the label, -1 for the others."""
        return self.desirability(values) - 1

    def desirability(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        return self.met(values).to(values.dtype)

    def met(self, values: Tensor) -> Tensor:
        """See `Goal`."""
        return values == _needed(self.index, self)

    def __str__(self) -> str:
        return f"= {self.label}"


def _give_or_take(tolerance: float | None, relative: bool) -> str:
    if tolerance is None:
        return ""
    return f" ± {100 * tolerance:g} %" if relative else f" ± {tolerance:g}"


def _needed(number: float | None, goal: Goal) -> float:
    """A setting without which the goal cannot be computed; conditions fill it in or refuse (`conditions.parse`)."""
    if number is None:
        raise InputError(f"goal '{goal}' lacks its tolerance or its categories")
    return number
