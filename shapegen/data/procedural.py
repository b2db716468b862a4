"""`procedural`: a data set of the procedural families, made on the fly in parallel, with exact labels."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from common.workers import Failure, WorkerPool, available_cores
from shapegen.data.shapes import ShapeSet
from shapegen.families import FAMILIES, build, find_family
from shapegen.families.labels import columns, shape_labels
from shapegen.families.surface import sample_with_normals

logger = logging.getLogger(__name__)

# Shapes that one message to a worker asks for; numbers that belong to one seed of a data set.
_CHUNK = 16
_PER_SEED = 1_000_000
# A shape takes a fiftieth of a second; this is for a machine that does much else.
_TIME_LIMIT_S = 120.0


@dataclass(frozen=True)
class Order:
    """Shapes number `first`, ..., `first + count - 1` of a family, of `points` points each, measured if `labels`."""

    family: str
    first: int
    count: int
    points: int
    labels: bool = True


def procedural(
    count_per_class: int,
    seed: int = 0,
    points: int = 4096,
    workers: int | None = None,
    classes: Sequence[str] | None = None,
    normals: bool = True,
    labels: bool = True,
) -> ShapeSet:
    """Shapes of the procedural families, in metres, with normals and the labels of `shapegen.families.labels`.

    The same arguments give the same set, bit for bit, whatever the number of workers; more shapes a class only add to
    it. Shape k of a class is `build(class, seed * 1,000,000 + k)`, and that number stands in its id.

    Args:
        count_per_class: shapes of each class, up to 1,000,000.
        seed: another one gives other shapes.
        points: stored points of each shape.
        workers: processes; None takes all cores, 1 works in this process.
        classes: keys of `shapegen.families.FAMILIES`; None takes all.
        normals: keep the normals too (as much memory as the points).
        labels: measure the solids, which takes as long as making them.

    Raises:
        InputError: an unknown class, or a number that is not positive.
    """
    names = tuple(FAMILIES) if classes is None else tuple(find_family(name).name for name in classes)
    if not 1 <= count_per_class <= _PER_SEED:
        raise InputError(f"got {count_per_class} shapes a class, expected 1 to {_PER_SEED}")
    if points < 1 or seed < 0:
        raise InputError(f"got {points} points and seed {seed}, expected at least 1 point and a seed from 0")
    total = count_per_class * len(names)
    all_points = np.empty((total, points, 3), np.float32)
    all_normals = np.empty((total, points, 3), np.float32) if normals else None
    names_of_labels = columns() if labels else ()
    measured = np.empty((total, len(names_of_labels)))
    orders, places = [], []
    for k, name in enumerate(names):
        for first in range(0, count_per_class, _CHUNK):
            count = min(_CHUNK, count_per_class - first)
            orders.append(Order(name, seed * _PER_SEED + first, count, points, labels))
            places.append(slice(k * count_per_class + first, k * count_per_class + first + count))
    for index, result in _results(orders, workers):
        all_points[places[index]], made, measured[places[index]] = result
        if all_normals is not None:
            all_normals[places[index]] = made
    numbers = np.tile(seed * _PER_SEED + np.arange(count_per_class), len(names))
    class_index = np.repeat(np.arange(len(names)), count_per_class)
    return ShapeSet(
        points=all_points,
        class_index=class_index,
        class_names=names,
        unit="m",
        normals=all_normals,
        properties={name: measured[:, k].copy() for k, name in enumerate(names_of_labels)},
        ids=np.array([f"{names[c]}/{number}" for c, number in zip(class_index, numbers, strict=True)]),
    )


def make(order: Order) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (C, P, 3), normals (C, P, 3) and labels (C, number of labels, 0 without) of an order of C shapes."""
    results = []
    for number in range(order.first, order.first + order.count):
        mesh = build(order.family, number).mesh
        rng = np.random.default_rng([zlib.crc32(order.family.encode()), number])
        labels = list(shape_labels(mesh).values()) if order.labels else []
        results.append((*sample_with_normals(mesh, order.points, rng), labels))
    points, normals, labels = (np.stack([result[k] for result in results]) for k in range(3))
    return points, normals, labels


def _results(orders: list[Order], workers: int | None) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    workers = min(available_cores() if workers is None else workers, len(orders))
    if workers <= 1:
        yield from enumerate(map(make, orders))
        return
    with WorkerPool(make, workers, timeout_s=_TIME_LIMIT_S) as pool:
        for index, result in pool.map(orders):
            if isinstance(result, Failure):
                raise RuntimeError(f"making {orders[index]} failed: {result.reason} {result.detail}")
            yield index, result
