"""A metric's value with its sample size and 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# Two-sided 95 % of the normal distribution.
Z95 = 1.959963984540054
BOOTSTRAP_DRAWS = 200


@dataclass(frozen=True)
class Metric:
    """One number about a set of samples.

    Attributes:
        name: column name, the unit in it where there is one.
        value: NaN where it is undefined.
        low, high: 95 % interval; NaN with the value.
        n: what the value is taken over, as `rule` says.
        rule: which definition this is, in words, with the sizes it was computed at: values at other numbers of shapes
            or points don't compare.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    rule: str

    def as_row(self) -> dict[str, str | float | int | None]:
        """A JSON row: NaN, which JSON lacks, becomes None."""

        def number(x: float) -> float | None:
            return float(x) if math.isfinite(x) else None

        return {
            "name": self.name,
            "value": number(self.value),
            "low": number(self.low),
            "high": number(self.high),
            "n": self.n,
            "rule": self.rule,
        }

    def renamed(self, name: str) -> Metric:
        """The same number under another name."""
        return replace(self, name=name)


def from_draws(
    name: str, value: float, draws: np.ndarray, n: int, rule: str, least: float = 0.0, most: float = math.inf
) -> Metric:
    """A value with the normal interval of its bootstrap standard deviation, cut at `least` and `most`.

    Not the bootstrap's percentiles: a set drawn with repetition has fewer distinct shapes than the original, which
    shifts nearest-neighbour metrics, so percentiles may miss the value.

    Args:
        draws: (B,) values of the resamples; NaN ones are left out.
    """
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(draws) < 2:
        return Metric(name, value, math.nan, math.nan, n, rule)
    half = Z95 * float(np.std(draws, ddof=1))
    return Metric(name, value, max(least, value - half), min(most, value + half), n, rule)


def resamples(n: int, seed: int, draws: int = BOOTSTRAP_DRAWS) -> np.ndarray:
    """(draws, n) int64: how often each of n shapes is in each resample of size n."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(draws)])
