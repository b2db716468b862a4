"""`Verdict`: what a judge says about the samples of one run, and how the runs of a method become one row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.metrics import Z95, Metric


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: of the metric.
        title: for people, the unit in it.
        better: 1 the larger the better, -1 the smaller, 0 neither.
        share: a number from 0 to 1, shown in per cent.
    """

    name: str
    title: str
    better: int = 0
    share: bool = False

    def text(self, metric: Metric | None) -> str:
        """`43.0` of a metric, "-" where it is undefined."""
        return "-" if metric is None or not math.isfinite(metric.value) else self.number(metric.value)

    def interval(self, metric: Metric | None) -> str:
        """`38.1 to 48.0`; an end that is infinite is left open; "" where it is undefined."""
        if metric is None or not (math.isfinite(metric.low) or math.isfinite(metric.high)):
            return ""
        if not math.isfinite(metric.high):
            return f"{self.number(metric.low)} or more"
        return f"{self.number(metric.low)} to {self.number(metric.high)}"

    def with_interval(self, metric: Metric | None) -> str:
        """`43.0 (38.1 to 48.0)`."""
        interval = self.interval(metric)
        return self.text(metric) + (f" ({interval})" if interval else "")

    def number(self, value: float) -> str:
        """A number as this column shows it."""
        if self.share:
            return f"{100 * value:.1f}"
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


@dataclass(frozen=True)
class Achieved:
    """What was asked of a quantity and what each of M samples has.

    Attributes:
        quantity: name with its unit.
        unit: for people.
        wanted: as understood: `gap_ev = 4.5 ± 0.2 eV`.
        target: the value asked for, or the nearer edge of a range; NaN where there is none.
        values: (M,) as the judge measures it; NaN where it could not.
        valid: (M,) whether the sample is one at all; values of others are kept, but hit nothing.
        judge: who measured.
    """

    quantity: str
    unit: str
    wanted: str
    target: float
    values: tuple[float, ...]
    valid: tuple[bool, ...]
    judge: str


@dataclass(frozen=True)
class Verdict:
    """The verdict on one run.

    Attributes:
        n_samples: judged; broken ones count.
        metrics: in reading order.
        achieved: for each quantity that was asked for, by each judge.
        failures: reason -> number of samples.
        notes: what a reader should know.
    """

    n_samples: int
    metrics: tuple[Metric, ...]
    achieved: tuple[Achieved, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For a file; see `from_json`."""
        return {
            "n_samples": self.n_samples,
            "metrics": [metric.as_row() for metric in self.metrics],
            "achieved": [vars(one) for one in self.achieved],
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Verdict:
        """What `as_json` gave, from a file: null is NaN again."""
        metrics = tuple(Metric(**{key: _number(value) for key, value in m.items()}) for m in row["metrics"])
        achieved = tuple(
            Achieved(
                **{
                    **one,
                    "target": _number(one["target"]),
                    "values": tuple(_number(value) for value in one["values"]),
                    "valid": tuple(one["valid"]),
                }
            )
            for one in row["achieved"]
        )
        return cls(row["n_samples"], metrics, achieved, row["failures"], tuple(row["notes"]))


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def mean(name: str, values: np.ndarray, rule: str) -> Metric:
    """The mean of n independent values with its normal 95 % interval; values that are not finite are left out."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Metric.undefined(name, 0, rule)
    value = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Metric(name, value, value - half, value + half, n, rule)


def median_with_failures(name: str, values: np.ndarray, rule: str) -> Metric:
    """The median of n values of at least 0 where NaN counts as infinitely large, so that a failure is never left out.

    The interval is that of order statistics (binomial, normal approximation; H. A. David, Order Statistics, 7.1). An
    infinite end, or an infinite median (half of the samples failed), is NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf))
    n = len(ordered)
    if n == 0:
        return Metric.undefined(name, 0, rule)
    half = Z95 * math.sqrt(n) / 2
    low = ordered[max(0, math.floor(n / 2 - half) - 1)]
    high = ordered[min(n - 1, math.ceil(n / 2 + half))]
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    value, low, high = (float(x) if math.isfinite(x) else math.nan for x in (middle, low, high))
    return Metric(name, value, low, high, n, rule)


def combine(
    metrics: Sequence[Metric], groups: Sequence[str], sets: Sequence[str] | None = None, share: bool = False
) -> Metric:
    """One metric of several runs: their mean, with a 95 % interval that knows both the samples' noise and the runs'.

    Random effects after DerSimonian and Laird (Controlled Clinical Trials 1986, 7, 177) with equal weights: the
    variance of a run is its sampling variance, or the variance between the runs of its group if that is larger. With
    two or three runs the interval is too narrow where runs differ much; more seeds mend that.

    Args:
        metrics: of the runs, all of one name.
        groups: the target of each run: runs for different targets differ for a reason, so they say nothing of noise.
        sets: the set of samples that each run judged, where several judged one: their errors count as the same error,
            exact for what the target does not change and on the safe side for the rest. None: each its own.
        share: bounds the interval to [0, 1].
    """
    first, known = metrics[0], [m for m in metrics if math.isfinite(m.value)]
    judged = sets or [str(i) for i in range(len(metrics))]
    n = sum(max(metric.n for metric, of in zip(metrics, judged, strict=True) if of == one) for one in set(judged))
    if len(known) < len(metrics) or len(known) == 0:
        # A mean over those runs alone that could be measured would flatter.
        return Metric.undefined(first.name, n, first.rule)
    if len(metrics) == 1:
        return first
    values = np.array([metric.value for metric in metrics])
    labels = np.array(groups)
    spread = np.zeros(len(values))
    for label in set(groups):
        inside = labels == label
        if inside.sum() > 1:
            spread[inside] = values[inside].var(ddof=1)
    owner = np.unique(judged, return_inverse=True)[1]
    value, ends = float(values.mean()), []
    for side, sign in ((np.array([m.low for m in metrics]), -1), (np.array([m.high for m in metrics]), 1)):
        sampling = ((side - values) / Z95) ** 2
        of_each_set = np.bincount(owner, np.sqrt(np.maximum(sampling, spread)))
        deviation = math.sqrt(float((of_each_set**2).sum())) / len(values)
        ends.append(value + sign * Z95 * deviation)
    if share:
        ends = [min(max(end, 0.0), 1.0) for end in ends]
    return Metric(first.name, value, ends[0], ends[1], n, f"mean of {len(values)} runs; {first.rule}")
