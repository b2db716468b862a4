"""The named parameters of a family: what may vary, between which limits, in which unit."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from common.errors import InputError
from common.named import nearest


class Parameter(Protocol):
    """One parameter of a family."""

    @property
    def meaning(self) -> str:
        """What it is, in a few words."""
        ...

    def draw(self, rng: np.random.Generator) -> Any:
        """A value by the parameter's law."""
        ...

    def accepts(self, value: Any) -> bool:
        """Whether a value that somebody typed is allowed."""
        ...

    def limits(self) -> str:
        """The allowed values, for people."""
        ...


@dataclass(frozen=True)
class Range:
    """A real number, uniform in [low, high]; `unit` is `m`, `deg` or empty for a ratio."""

    low: float
    high: float
    meaning: str
    unit: str = "m"

    def draw(self, rng: np.random.Generator) -> float:
        """See `Parameter.draw`."""
        return float(rng.uniform(self.low, self.high))

    def accepts(self, value: Any) -> bool:
        """See `Parameter.accepts`."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def limits(self) -> str:
        """See `Parameter.limits`."""
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Count:
    """A whole number, uniform in low, ..., high."""

    low: int
    high: int
    meaning: str

    def draw(self, rng: np.random.Generator) -> int:
        """See `Parameter.draw`."""
        return int(rng.integers(self.low, self.high + 1))

    def accepts(self, value: Any) -> bool:
        """See `Parameter.accepts`."""
        return isinstance(value, int) and self.low <= value <= self.high

    def limits(self) -> str:
        """See `Parameter.limits`."""
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of several names, all equally likely."""

    options: tuple[str, ...]
    meaning: str

    def draw(self, rng: np.random.Generator) -> str:
        """See `Parameter.draw`."""
        return self.options[int(rng.integers(len(self.options)))]

    def accepts(self, value: Any) -> bool:
        """See `Parameter.accepts`."""
        return value in self.options

    def limits(self) -> str:
        """See `Parameter.limits`."""
        return ", ".join(self.options)


def draw_parameters(
    family: str, parameters: Mapping[str, Parameter], seed: int, fixed: Mapping[str, Any], attempt: int = 0
) -> dict[str, Any]:
    """A value for each parameter, drawn from `seed` unless it is `fixed`.

    Each parameter has its own stream: fixing or adding one leaves the others as they were. Another `attempt` gives
    other values for the same seed.

    Raises:
        InputError: `fixed` names no parameter of the family, or a value outside its limits; or a negative seed.
    """
    if seed < 0:
        raise InputError(f"got seed {seed}, expected a whole number from 0")
    for name, value in fixed.items():
        if name not in parameters:
            raise InputError(
                f"a {family} has no parameter '{name}'{nearest(name, parameters)}; known: {', '.join(parameters)}"
            )
        if not parameters[name].accepts(value):
            raise InputError(f"{family}: got {name} = {value!r}, expected {parameters[name].limits()}")
    family_key = zlib.crc32(family.encode())
    again = [attempt] if attempt else []
    drawn = {
        name: parameter.draw(np.random.default_rng([family_key, seed, zlib.crc32(name.encode()), *again]))
        for name, parameter in parameters.items()
    }
    return drawn | dict(fixed)
