"""The mesh of a sample and its exact labels, in worker processes that never import torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import InputError
from common.workers import Failure, WorkerPool, available_cores
from shapegen.families.labels import shape_labels
from shapegen.geometry.reconstruction import reconstruct
from shapegen.rewards.body import DROP_STABLE, DROP_TILT, Body, components, dropped

_TIME_LIMIT_S = 600.0
PIECES = "pieces"
# Columns of a drop; NaN where there is none.
DROPS = (DROP_STABLE, DROP_TILT)


def measure(item: tuple[np.ndarray, str]) -> dict[str, float]:
    """In a worker: labels, drop and number of `pieces` of the mesh of (points (P, 3), unit `m` or `unitless`)."""
    points, unit = item
    made = reconstruct(points)
    if not made.mesh.is_watertight:
        raise InputError("the reconstructed mesh is not closed")
    body = Body(made.mesh, made.foot)
    fall = dropped(body)
    values = shape_labels(made.mesh, unit, made.foot) | dict.fromkeys(DROPS, np.nan)
    if isinstance(fall, dict):
        values |= fall
    return {**values, PIECES: components(body)}


def measure_many(
    clouds: Sequence[np.ndarray], unit: str, workers: int | None = None
) -> list[dict[str, float] | Failure]:
    """`measure` over a pool of processes, in the order given; a cloud without a closed mesh gives a `Failure`."""
    results: list[dict[str, float] | Failure] = [Failure("not run")] * len(clouds)
    usable = [k for k, cloud in enumerate(clouds) if np.isfinite(cloud).all()]
    for k in set(range(len(clouds))) - set(usable):
        results[k] = Failure("not finite")
    if not usable:
        return results
    with WorkerPool(measure, min(workers or available_cores(), len(usable)), _TIME_LIMIT_S) as pool:
        for place, result in pool.map((clouds[k], unit) for k in usable):
            results[usable[place]] = result
    return results
