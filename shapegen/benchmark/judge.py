"""`ShapeJudge`: class by the nearest held-out shapes, properties on the reconstructed mesh, and distances between sets.

No network has a say. All samples count: one that is not finite, could not be read or gives no closed mesh hits nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.benchmark.aims import achieved, errors, hits
from common.benchmark.config import Benchmark
from common.benchmark.verdict import Achieved, Verdict
from common.diffusion.model_file import model_directory, read_description
from common.errors import InputError
from common.metrics import Metric, proportion
from common.named import build
from common.rewards import Category, Condition, Quantity, Range, Target, find_quantity, parse
from common.workers import Failure
from shapegen.benchmark.measure import DROPS, PIECES, measure_many
from shapegen.data.codec import ShapeCodec
from shapegen.data.files import read_shapes
from shapegen.data.shapes import METRES, UNITLESS, ShapeSet
from shapegen.data.sources import load_data, options_of_training, split_data
from shapegen.families.labels import LABELS
from shapegen.metrics.distances import distance_matrix, distance_pool
from shapegen.metrics.protocols import Protocol
from shapegen.metrics.report import MIN_SHAPES, evaluate
from shapegen.pretrained import STORE
from shapegen.results import RAW_SAMPLES
from shapegen.rewards.table import REWARDS

Found = TypeVar("Found")

KEPT_METRICS = (
    "1nna_cd_percent", "cov_cd_percent", "mmd_cd", "1nna_emd_percent", "novelty_percent", "uniqueness_percent",
)  # fmt: skip
# Column of a kept set: 1 where a closed mesh could be made.
MESHED = "meshed"
# A benchmark judges many small sets: fewer shapes and points than `shapegen evaluate`.
PROTOCOL = Protocol("benchmark", 64, 512, 24, 256, 24, 256, ("cd",), 256, 512)
# Shapes of each procedural class, a tenth of which is held out. Parts are cut by rank, so they depend on this number a
# little: none of these held-out shapes is in the training part of 20 to 4,000 a class.
_COUNT_PER_CLASS = 200
_POINTS = 2048
# The class of a sample is that of most of its nearest held-out shapes, by Chamfer distance.
_NEIGHBOURS, _CLASS_POINTS, _CLASS_SHAPES = 3, 512, 24
_UNITS = {0: "", 1: "m", 2: "m^2", 3: "m^3", 5: "m^5"}
_QUANTITIES = tuple(
    Quantity(
        name=label.column("m"),
        unit=label.suffix.strip("_") or _UNITS[label.power],
        description=label.description,
        aliases=() if label.column("m") == label.name else (label.name,),
    )
    for label in LABELS.values()
) + tuple(REWARDS[name] for name in DROPS)


class ShapeJudge:
    """See `common.benchmark.domain.Judge`.

    Args:
        benchmark: names the reference data.
        workers: processes at most; None for one a core.

    Raises:
        InputError: a target asks for a class that the reference data lack, or there are no reference data.
    """

    def __init__(self, benchmark: Benchmark, workers: int | None = None) -> None:
        if not benchmark.data:
            raise InputError(f"benchmark '{benchmark.name}' names no 'data', which shapes are compared with")
        self._benchmark, self._workers = benchmark, workers
        # Samples that were asked for nothing are judged for every target: their meshes and distances are the same.
        self._known: dict[tuple[str, ...], Any] = {}
        for target in benchmark.targets:
            if any(isinstance(condition.goal, Category) for condition in check_target(target)):
                check_target(target, self._held_out.class_names)

    def close(self) -> None:
        """See `Judge`: no worker outlives a call."""

    @cached_property
    def _parts(self) -> tuple[ShapeSet, ShapeSet]:
        known = options_of_training(self._base, self._benchmark.data)
        report = load_data(
            self._benchmark.data, data_folder=self._benchmark.data_folder, workers=self._workers,
            **{**known, "points": _POINTS, "count_per_class": _COUNT_PER_CLASS},
        )  # fmt: skip
        parts = split_data(report)
        if not len(parts["test"]):
            raise InputError(f"{self._benchmark.data} has no test part: too few shapes to hold any out")
        held_out, train = (self._codec.as_generated(report.shapes.select(parts[name])) for name in ("test", "train"))
        return held_out, train

    @cached_property
    def _base(self) -> dict[str, Any]:
        """The description of the base."""
        return read_description(model_directory(STORE.find(self._benchmark.model)))

    @cached_property
    def _codec(self) -> ShapeCodec:
        """Of the base: what it normalises away plays no part in any comparison."""
        return build(ShapeCodec, self._base["codec"], "codec")

    @property
    def _held_out(self) -> ShapeSet:
        return self._parts[0]

    def __call__(self, samples: Path, target: str, keep: Path) -> Verdict:
        """See `common.benchmark.domain.Judge`."""
        shapes, unread = read_samples(samples, self._workers)
        notes, unit = [], self._held_out.unit
        if shapes.unit == unit or (shapes.unit in METRES and unit in METRES):
            shapes = shapes.in_unit(unit)
        elif shapes.unit == UNITLESS:
            shapes = replace(shapes, unit=unit)
            notes.append(f"the samples do not say their unit; taken for {unit}")
        else:
            raise InputError(f"got samples in {shapes.unit}, but the base makes shapes without a size")
        conditions = check_target(target, self._held_out.class_names) if target else ()
        digest = shapes.digest()
        measured, failures = self._once(("mesh", digest), lambda: self._measure(shapes))
        valid = np.isfinite(measured[PIECES])
        n = len(shapes) + unread
        metrics, aims = self._aims(conditions, shapes, measured, valid, n)
        metrics += [
            proportion("meshed", int(valid.sum()), n, "a closed mesh could be reconstructed; over all samples"),
            proportion("one_piece", int((measured[PIECES] == 1).sum()), n, "its mesh is closed and one piece"),
        ]
        if len(shapes) >= MIN_SHAPES:
            labels = tuple(condition.goal.label for condition in conditions if isinstance(condition.goal, Category))
            key = ("sets", digest, str(unread), *labels)
            metrics += self._once(key, lambda: self._compare(shapes, labels, unread))
        else:
            notes.append(f"{len(shapes)} shapes are too few to compare with the data, at least {MIN_SHAPES} are needed")
        if unread:
            failures = {**failures, "not read": unread}
            notes.append(f"{unread} shapes could not be read and count as failures")
        replace(shapes, properties={**measured, MESHED: valid.astype(float)}).save(keep)
        return Verdict(n, tuple(metrics), tuple(aims), failures, tuple(notes))

    def _once(self, key: tuple[str, ...], make: Callable[[], Found]) -> Found:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _measure(self, shapes: ShapeSet) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Column -> (M,) values on the meshes, and why some have none."""
        metric = shapes.unit in METRES
        in_metres = shapes.in_unit("m") if metric else shapes
        found = measure_many(list(in_metres.points), "m" if metric else UNITLESS, self._workers)
        columns = [*(label.column("m" if metric else UNITLESS) for label in LABELS.values()), *DROPS, PIECES]
        values = {
            column: np.array([np.nan if isinstance(one, Failure) else one[column] for one in found], dtype=np.float64)
            for column in columns
        }
        reasons = Counter(f"no mesh: {one.detail or one.reason}" for one in found if isinstance(one, Failure))
        return values, dict(reasons.most_common())

    def _aims(
        self,
        conditions: tuple[Condition, ...],
        shapes: ShapeSet,
        measured: dict[str, np.ndarray],
        valid: np.ndarray,
        n: int,
    ) -> tuple[list[Metric], list[Achieved]]:
        """How well the samples meet what was asked for."""
        if not conditions:
            return [], []
        hit, metrics, aims = valid.copy(), [], []
        for condition in conditions:
            if isinstance(condition.goal, Category):
                hit &= hits(condition, self._classes(shapes))
                continue
            name = condition.quantity.name
            if name not in measured:
                raise InputError(f"got the target '{condition.text}', but these shapes have no unit of length")
            values = measured[name]
            hit &= hits(condition, values)
            # What could not be read has no value, and is not valid.
            lost = n - len(shapes)
            every = np.concatenate([values, np.full(lost, np.nan)])
            sound = np.concatenate([valid, np.zeros(lost, bool)])
            metrics += errors(condition, name, every, sound)
            aims.append(achieved(condition, every, sound, f"{condition.quantity.description}, on the mesh"))
        rule = "a closed mesh, and every target met: values within the tolerance, class by the nearest held-out shapes"
        return [proportion("hit_rate", int(hit.sum()), n, f"{rule}; over all samples"), *metrics], aims

    def _classes(self, shapes: ShapeSet) -> np.ndarray:
        """(M,) class of each sample, as an index; NaN where it is not finite."""
        held_out = self._held_out
        kept = np.concatenate(
            [np.flatnonzero(held_out.class_index == k)[:_CLASS_SHAPES] for k in range(len(held_out.class_names))]
        )
        finite = np.flatnonzero(np.isfinite(shapes.points).all(axis=(1, 2)))
        classes = np.full(len(shapes), np.nan)
        if len(finite):
            with distance_pool(self._workers) as pool:
                points = self._codec.as_generated(shapes.select(finite)).points
                # Points of anyone may come in any order: sorted, say, or part by part.
                drawn = np.random.default_rng(0).permutation(points.shape[1])[:_CLASS_POINTS]
                matrix = distance_matrix("cd", points[:, drawn], held_out.points[kept, :_CLASS_POINTS], pool=pool)
            nearest = held_out.class_index[kept][np.argsort(matrix, axis=1)[:, :_NEIGHBOURS]]
            # Of classes that are equally frequent, that of the nearest shape.
            classes[finite] = [Counter(row.tolist()).most_common(1)[0][0] for row in nearest]
        return classes

    def _compare(self, shapes: ShapeSet, labels: tuple[str, ...], unread: int) -> list[Metric]:
        """Distances to the held-out shapes: to those of the class where one was asked for. `unread` more are broken."""
        held_out, train = self._parts
        for label in labels:
            held_out, train = (one.select_classes([label]) for one in (held_out, train))
        if min(len(held_out), len(train)) < MIN_SHAPES:
            return []
        found = self._codec.as_generated(shapes).points
        points = np.concatenate([found, np.full((unread, *found.shape[1:]), np.nan, found.dtype)])
        evaluation = evaluate(
            points, held_out.points, train.points, mode=PROTOCOL, workers=self._workers
        )  # fmt: skip
        return [metric for name in KEPT_METRICS for metric in evaluation.metrics if metric.name == name]


def check_target(target: str, class_names: tuple[str, ...] | None = None) -> tuple[Condition, ...]:
    """The conditions of a target.

    Args:
        target: as typed.
        class_names: the classes there are; None takes any.

    Raises:
        InputError: it cannot be read, or asks for something that one cannot hit or miss.
    """
    if class_names is None:
        class_names = tuple(re.findall(r"class\s*=\s*([\w.-]+)", target))
    known = (*_QUANTITIES, Quantity(name="class", description="kind of shape", categories=class_names))
    conditions = parse(target, lambda name, _: find_quantity(name, known, "shape property"))
    for condition in conditions:
        goal = condition.goal
        if not isinstance(goal, Target | Range | Category) or (isinstance(goal, Target) and goal.tolerance is None):
            raise InputError(
                f"got the target '{target}', expected a class or values with their tolerance, such as class=chair or "
                "aspect_ratio=2±0.1"
            )
    return conditions


def read_samples(path: str | Path, workers: int | None = None) -> tuple[ShapeSet, int]:
    """The samples of a run directory, or of a folder or file of shapes; and how many could not be read."""
    path = Path(path)
    if (path / RAW_SAMPLES).exists():
        # Whole, without the reader's checks: broken ones count as failures.
        return ShapeSet.load(path / RAW_SAMPLES, memory_map=True), 0
    report = read_shapes(path, points=_POINTS, workers=workers)
    return report.shapes, len(report.skipped)
