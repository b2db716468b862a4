"""What a reader made of a folder or a file: the shapes, and an account of everything that was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from shapegen.data.shapes import METRES, UNITLESS, ShapeSet
from shapegen.families.labels import LABELS

PARTS = ("train", "val", "test")
MIN_POINTS = 16
# Past this, float32 cannot tell the points of a shape apart any more.
_FARTHEST = 1e5
# Sizes that differ by more within one set hint at mixed units.
_MIXED_SCALES = 100.0
_SHOWN = 5

# From the axes of a file to Z up: rotations, so that left and right stay what they are.
UP_AXES = {
    "z": np.eye(3, dtype=np.float32),
    "y": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32),
    "-y": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32),
}


class Skipped(NamedTuple):
    """A file or shape that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ReadReport:
    """What a reader made of its source.

    Attributes:
        shapes: M shapes.
        skipped: what was left out, in the order of the source.
        groups: (M,) array of str: shapes of one group are copies or near copies and stay in one part of a split.
        parts: (M,) array of str, the published part (`train`, `val`, `test`) of each shape; None where there is none.
        warnings: one line for each thing that the user should know.
    """

    shapes: ShapeSet
    skipped: list[Skipped] = field(default_factory=list)
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, np.str_))
    parts: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, int]:
        """Column -> number of shapes without a value there, for the columns that lack some."""
        counts = {name: int(np.isnan(v).sum()) for name, v in self.shapes.properties.items()}
        return {name: count for name, count in counts.items() if count}

    def lines(self) -> list[str]:
        """The account for the user, a few lines."""
        total = len(self.shapes) + len(self.skipped)
        lines = [f"read {len(self.shapes)} of {total} shapes in {len(self.shapes.class_names)} classes"]
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped[:_SHOWN]]
        if len(self.skipped) > _SHOWN:
            lines.append(f"... and {len(self.skipped) - _SHOWN} more")
        return lines + self.warnings


@dataclass(frozen=True)
class Sample:
    """One shape as a reader found it, Z up.

    Attributes:
        name: where it is, relative to the source; becomes the id.
        class_name: of the shape.
        points: (K, 3) float32, K at least as many as the set will store, in random order.
        normals: (K, 3) float32 or None.
        properties: column -> value.
        group: what it is a copy of; its own name where nothing else is known.
        part: `train`, `val`, `test`, or empty.
        notes: what is worth counting about it though it is kept.
    """

    name: str
    class_name: str
    points: np.ndarray
    normals: np.ndarray | None = None
    properties: dict[str, float] = field(default_factory=dict)
    group: str = ""
    part: str = ""
    notes: Sequence[str] = ()


def points_problem(points: np.ndarray) -> str | None:
    """Why these points (K, 3) cannot be used as a shape, or None."""
    if points.ndim != 2 or points.shape[1] != 3:
        return f"array of shape {points.shape}, expected (points, 3)"
    if len(points) < MIN_POINTS:
        return f"{len(points)} points, expected at least {MIN_POINTS}"
    broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if broken.size:
        return f"point {broken[0] + 1} has a coordinate that is not a finite number"
    extent, farthest = float(np.ptp(points, axis=0).max()), float(np.abs(points).max())
    if extent == 0:
        return "all points are one point"
    if farthest > _FARTHEST * extent:
        return f"lies {farthest / extent:.0e} times its own size away from the origin; move it there"
    return None


def cloud_labels(points: np.ndarray, unit: str) -> dict[str, np.ndarray]:
    """The labels that a cloud without a surface has, column -> (M,): the extents of points (M, P, 3) and their ratios.

    Extents of a sample are a little smaller than those of the surface.
    """
    name = "m" if unit in METRES else UNITLESS
    width, depth, height = (np.ptp(points.astype(np.float64), axis=1) * METRES.get(unit, 1.0)).T
    long, short = np.maximum(width, depth), np.minimum(width, depth)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "width": width,
            "depth": depth,
            "height": height,
            "aspect_ratio": height / long,
            "footprint_ratio": long / short,
        }
    return {LABELS[key].column(name): np.where(np.isfinite(v), v, np.nan) for key, v in values.items()}


def gather(
    samples: Sequence[Sample],
    skipped: Sequence[Skipped],
    source: str,
    points: int,
    unit: str,
    warnings: Sequence[str] = (),
) -> ReadReport:
    """One report of many samples, all cut to the same number of points.

    That number is `points`, or what nineteen in twenty of the samples have, if that is less; the others are skipped.

    Raises:
        InputError: no sample is left.
    """
    skipped, warnings = list(skipped), list(warnings)
    if not samples:
        if not skipped:
            raise InputError(f"{source}: holds no shapes")
        first = skipped[0]
        raise InputError(f"{source}: none of its {len(skipped)} shapes can be used; {first.name}: {first.reason}")
    sizes = np.array([len(sample.points) for sample in samples])
    stored = min(points, int(np.quantile(sizes, 0.05, method="lower")))
    if stored < points:
        warnings.append(f"{stored} points a shape are stored instead of {points}: the files hold no more")
    few = [s for s, size in zip(samples, sizes, strict=True) if size < stored]
    skipped += [Skipped(s.name, f"{len(s.points)} points, fewer than the {stored} of the other shapes") for s in few]
    samples = [s for s, size in zip(samples, sizes, strict=True) if size >= stored]
    class_names = tuple(sorted({sample.class_name for sample in samples}))
    number = {name: k for k, name in enumerate(class_names)}
    columns = dict.fromkeys(name for sample in samples for name in sample.properties)
    shapes = ShapeSet(
        points=np.stack([sample.points[:stored] for sample in samples]),
        class_index=np.array([number[sample.class_name] for sample in samples]),
        class_names=class_names,
        unit=unit,
        normals=np.stack([sample.normals[:stored] for sample in samples])  # type: ignore[index]
        if all(sample.normals is not None for sample in samples)
        else None,
        properties={n: np.array([s.properties.get(n, np.nan) for s in samples], np.float64) for n in columns},
        ids=np.array([sample.name for sample in samples], dtype=np.str_),
    )
    notes = Counter(note for sample in samples for note in sample.notes)
    warnings += [f"{count} {note}" for note, count in notes.items()]
    parts = np.array([sample.part for sample in samples], dtype=np.str_)
    if (parts == "").any():
        if (parts != "").any():
            warnings.append(f"{int((parts == '').sum())} shapes lie in no part (train, val, test): split by id instead")
        parts = None
    groups = np.array([sample.group or sample.name for sample in samples], dtype=np.str_)
    return ReadReport(shapes, skipped, groups, parts, warnings + set_warnings(shapes))


def set_warnings(shapes: ShapeSet) -> list[str]:
    """One line for each thing about a whole set that a user should know before training on it."""
    warnings = []
    lonely = [name for name, count in shapes.class_counts.items() if count == 1]
    if lonely:
        names = ", ".join(lonely[:_SHOWN]) + (", ..." if len(lonely) > _SHOWN else "")
        warnings.append(f"{len(lonely)} classes hold one shape only ({names}): nothing can be held out of them")
    boxes = shapes.extents
    sizes = boxes.max(axis=1)
    if len(sizes) > 1 and sizes.max() > _MIXED_SCALES * np.median(sizes):
        warnings.append(
            f"sizes run from {sizes.min():.3g} to {sizes.max():.3g} (median {np.median(sizes):.3g}): mixed units? "
            "convert them, or normalise per shape"
        )
    elif len(sizes) > 1 and np.median(sizes) > _MIXED_SCALES * sizes.min():
        warnings.append(
            f"the smallest shape measures {sizes.min():.3g}, the median {np.median(sizes):.3g}: mixed units?"
        )
    return warnings
