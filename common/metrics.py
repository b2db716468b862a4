"""A metric's value with its sample size and 95 % interval, and how such intervals are made."""

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
        value: NaN where it is undefined (for instance uniqueness where nothing is valid).
        low, high: 95 % interval; NaN with the value.
        n: what the value is taken over (molecules, atoms, shapes, points), as `rule` says.
        rule: which definition this is, in words, with the sizes that it depends on: rules of one name differ between
            papers.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    rule: str

    @classmethod
    def undefined(cls, name: str, n: int, rule: str) -> Metric:
        """A metric that the samples do not allow."""
        return cls(name, math.nan, math.nan, math.nan, n, rule)

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


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion `share` seen in n trials (E. B. Wilson, JASA 1927, 22, 209).

    n may be an effective number of trials. NaN for n = 0.
    """
    if not n > 0:
        return math.nan, math.nan
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # The bounds meet 0 and 1 exactly at the ends; rounding must not put the value outside.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def proportion(name: str, hits: int, n: int, rule: str) -> Metric:
    """The share of n independent samples that are hits, with Wilson's interval; undefined for n = 0."""
    if n == 0:
        return Metric.undefined(name, 0, rule)
    return Metric(name, hits / n, *wilson(hits / n, n), n, rule)


def clustered_proportion(name: str, hits: np.ndarray, sizes: np.ndarray, rule: str) -> Metric:
    """The share of hits among all units (atoms) of clusters (molecules), whose units are not independent.

    Args:
        hits, sizes: (M,) hits and units of each cluster.

    The variance of the ratio is linearised over clusters; it gives an effective number of units for Wilson's
    interval, which stays right where the share is 0 or 1 (then a cluster counts as one unit).
    """
    total = int(sizes.sum())
    if total == 0:
        return Metric.undefined(name, 0, rule)
    share = float(hits.sum() / total)
    n_clusters = int((sizes > 0).sum())
    residuals = hits - share * sizes
    variance = float((residuals**2).sum()) / total**2 * n_clusters / max(1, n_clusters - 1)
    effective = share * (1 - share) / variance if variance > 0 else n_clusters
    return Metric(name, share, *wilson(share, min(effective, total)), total, rule)


def resamples(n: int, seed: int, draws: int = BOOTSTRAP_DRAWS) -> np.ndarray:
    """(draws, n) int64: how often each of n samples is in each resample of size n."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(draws)])


def from_draws(
    name: str, value: float, draws: np.ndarray, n: int, rule: str, least: float = 0.0, most: float = math.inf
) -> Metric:
    """A value with the normal interval of its bootstrap standard deviation, cut at `least` and `most`.

    Not the bootstrap's percentiles: resampling pushes distances up, and a set drawn with repetition has fewer distinct
    members than the original, which shifts nearest-neighbour metrics; so percentiles may miss the value.

    Args:
        draws: (B,) values of the resamples; NaN ones are left out.
    """
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(draws) < 2:
        return Metric(name, value, math.nan, math.nan, n, rule)
    half = Z95 * float(np.std(draws, ddof=1))
    return Metric(name, value, max(least, value - half), min(most, value + half), n, rule)
