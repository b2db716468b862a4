"""Columns of a data set in figures: what the verb `data inspect` of both commands says of properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ColumnSummary:
    """One property column: how many values are there, and where they lie; NaN where there are none.

    Attributes:
        name, unit: of the column; the unit is empty where the name says it or nobody knows.
        count, missing: values that are numbers, and that are not.
        mean, std, minimum, median, maximum: of the numbers.
    """

    name: str
    unit: str
    count: int
    missing: int
    mean: float
    std: float
    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, name: str, values: np.ndarray, unit: str = "") -> ColumnSummary:
        """The figures of values (M,), NaN where one is missing."""
        there = values[np.isfinite(values)]
        figures = [np.nan] * 5
        if len(there):
            figures = [there.mean(), there.std(), there.min(), np.median(there), there.max()]
        return cls(name, unit, len(there), len(values) - len(there), *map(float, figures))


def column_lines(columns: Sequence[ColumnSummary]) -> list[str]:
    """The columns as a table for a terminal; no line where there are none."""
    if not columns:
        return []
    width = max(len(column.name) for column in columns)
    heads = ("mean", "std", "min", "median", "max")
    lines = [f"{'property':<{width}}" + "".join(f"{head:>14}" for head in heads) + f"{'missing':>9}"]
    for column in columns:
        figures = (column.mean, column.std, column.minimum, column.median, column.maximum)
        lines.append(f"{column.name:<{width}}" + "".join(f"{x:14.6g}" for x in figures) + f"{column.missing:9d}")
    return lines
