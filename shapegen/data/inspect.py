"""What is in a shape set: the figures behind `shapegen data inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from common.columns import ColumnSummary, column_lines
from shapegen.data.shapes import ShapeSet

_BAR = 40


@dataclass(frozen=True)
class Summary:
    """A set in figures.

    Attributes:
        num_shapes, num_points: shapes, and stored points of each.
        unit: of the sizes.
        classes: name -> number of shapes.
        class_sizes: name -> median of the largest extent, in `unit`.
        smallest, median, largest: largest extent of a shape, in `unit`, over all shapes.
        has_normals: whether normals are stored.
        properties: one entry a column.
    """

    num_shapes: int
    num_points: int
    unit: str
    classes: Mapping[str, int]
    class_sizes: Mapping[str, float]
    smallest: float
    median: float
    largest: float
    has_normals: bool
    properties: tuple[ColumnSummary, ...]

    def to_dict(self) -> dict:
        """Plain data for JSON (NaN where a column has no values)."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The summary as text for a terminal."""
        unit = "" if self.unit == "unitless" else f" {self.unit}"
        lines = [
            f"shapes   {self.num_shapes}",
            f"points   {self.num_points} a shape, {'with' if self.has_normals else 'without'} normals",
            f"size     {self.smallest:.4g} to {self.largest:.4g}{unit}, median {self.median:.4g}{unit}",
            "classes",
        ]
        most, width = max(self.classes.values(), default=1), max(map(len, self.classes), default=0)
        for name, count in self.classes.items():
            bar = "#" * max(1, round(_BAR * count / most)) if count else ""
            lines.append(f"  {name:<{width}} {count:8d} {self.class_sizes[name]:10.4g}{unit}  {bar}")
        return lines + column_lines(self.properties)


def summarise(shapes: ShapeSet) -> Summary:
    """The figures of a set of M shapes."""
    sizes = shapes.extents.max(axis=1) if len(shapes) else np.zeros(1)
    of_class = [sizes[shapes.class_index == k] if len(shapes) else sizes for k in range(len(shapes.class_names))]
    return Summary(
        num_shapes=len(shapes),
        num_points=shapes.num_points,
        unit=shapes.unit,
        classes=shapes.class_counts,
        class_sizes={
            name: float(np.median(s)) if len(s) else float("nan")
            for name, s in zip(shapes.class_names, of_class, strict=True)
        },
        smallest=float(sizes.min()),
        median=float(np.median(sizes)),
        largest=float(sizes.max()),
        has_normals=shapes.normals is not None,
        properties=tuple(ColumnSummary.of(name, values) for name, values in shapes.properties.items()),
    )
