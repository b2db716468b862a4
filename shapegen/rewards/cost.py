"""What scoring costs: seconds a shape for each scorer, on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from common.workers import Failure, WorkerPool
from shapegen.rewards.calculation import BodyItem, CloudItem, DropItem, Triangles, calculate, processor_seconds
from shapegen.rewards.cloud import Cloud
from shapegen.rewards.scoring import estimate
from shapegen.rewards.table import REWARDS, Place, Scorer


def measure_costs(clouds: np.ndarray, time_limit_s: float = 120.0) -> tuple[dict[str, float], float]:
    """Seconds a shape for each row of `REWARDS` that takes nothing in parentheses, NaN where none could be scored; and
    for the reconstruction of a mesh, which all scorers that need one share.

    Mean processor time of one thread, without what is loaded once. Estimates from points cost little more together
    than the dearest of them alone: neighbours and solid are found once.

    Args:
        clouds: (B, P, 3) in metres.
    """
    cloud = torch.from_numpy(np.asarray(clouds, np.float32))
    mask = torch.ones(cloud.shape[:2], dtype=torch.bool)
    threads = torch.get_num_threads()
    costs = {}
    torch.set_num_threads(1)
    try:
        for scorer in _rows(Place.POINTS):
            estimate([scorer], Cloud.of_points(cloud, mask))
            started = time.process_time()
            estimate([scorer], Cloud.of_points(cloud, mask))
            costs[scorer.name] = (time.process_time() - started) / len(clouds)
    finally:
        torch.set_num_threads(threads)
    with WorkerPool(processor_seconds, workers=1, timeout_s=time_limit_s) as pool:
        reconstruction = _mean_seconds(pool, [CloudItem(points) for points in clouds])
    with WorkerPool(calculate, workers=1, timeout_s=time_limit_s) as pool:
        made = [mesh for _, mesh in pool.map([CloudItem(points) for points in clouds]) if isinstance(mesh, Triangles)]
    with WorkerPool(processor_seconds, workers=1, timeout_s=time_limit_s) as pool:
        for scorer in _rows(Place.MESH):
            costs[scorer.name] = _mean_seconds(pool, [BodyItem(mesh, {scorer.name: scorer.exact}) for mesh in made])
        for scorer in _rows(Place.DROP):
            costs[scorer.name] = _mean_seconds(pool, [DropItem(mesh) for mesh in made])
    return costs, reconstruction


def _rows(place: Place) -> list[Scorer]:
    return [scorer for scorer in REWARDS.values() if scorer.place is place and not scorer.takes]


def _mean_seconds(pool: WorkerPool, items: Sequence[Any]) -> float:
    work: list[tuple[Callable[[Any], Any], Any]] = [(calculate, item) for item in items]
    for _ in pool.map(work[:1]):  # loads what is loaded once
        pass
    seconds = [result for _, result in pool.map(work) if not isinstance(result, Failure)]
    return sum(seconds) / len(seconds) if seconds else math.nan
