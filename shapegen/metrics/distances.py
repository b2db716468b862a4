"""Distances between point clouds, and matrices of them over two sets of clouds.

Chamfer distance (`cd`): squared Euclidean distance to the nearest point of the other cloud, mean over the points on
each side, the two sides summed. Earth mover's distance (`emd`): the optimal one-to-one assignment (exact, not an
auction or Sinkhorn approximation), unsquared Euclidean, mean over the pairs. Both as in PointFlow (Yang et al., ICCV
2019, arXiv 1906.12320), whose CUDA EMD is approximate: values of the two don't mix.

On a GPU, Chamfer matrices are computed by `torch_distances`, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from common.errors import InputError
from common.workers import Failure, WorkerPool

Kind = Literal["cd", "emd"]
KINDS: tuple[Kind, ...] = ("cd", "emd")
Progress = Callable[[int, int], None]

# Seconds that one pair takes on one core: linear in points for the tree, a power for the assignment. For chunking only.
_TREE_S_PER_POINT = 1.2e-6
_ASSIGNMENT_S = 0.4
_ASSIGNMENT_POINTS = 2048
_ASSIGNMENT_POWER = 2.5
# Work that a worker gets at a time, and the wall time it may take on a crowded machine.
_BLOCK_S = 2.0
_BLOCK_LIMIT_S = 3600.0
# Smaller jobs are done before workers have started.
_ALONE_S = 2.0


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Chamfer distance of two clouds (P, 3) and (Q, 3), in the square of their unit."""
    return _tree_chamfer(a, b, KDTree(a), KDTree(b))


def earth_mover(a: np.ndarray, b: np.ndarray) -> float:
    """Exact earth mover's distance of two clouds (P, 3) of as many points, in their unit.

    Raises:
        InputError: different numbers of points.
    """
    if len(a) != len(b):
        raise InputError(f"got clouds of {len(a)} and {len(b)} points, the earth mover's distance needs equal numbers")
    costs = cdist(a, b)
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].mean())


def distance_matrix(
    kind: Kind,
    a: np.ndarray,
    b: np.ndarray | None = None,
    *,
    pool: WorkerPool | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> np.ndarray:
    """All distances (M, N) float64 between the clouds of `a` and those of `b`.

    Args:
        kind: `cd` (squared unit) or `emd` (unit).
        a: (M, P, 3).
        b: (N, Q, 3); `a` itself where None: then symmetric with a zero diagonal, at half the cost.
        pool: workers of `distance_pool`, which serve several calls; this process does the work where None.
        device: other than `cpu`, Chamfer matrices are computed there with torch.
        progress: called with (pairs done, pairs in all).

    Raises:
        InputError: wrong shapes, NaN, or different numbers of points for `emd`.
    """
    if kind not in KINDS:
        raise InputError(f"got the distance '{kind}', expected one of {', '.join(KINDS)}")
    a = _checked(a)
    other = a if b is None else _checked(b)
    if kind == "emd" and a.shape[1] != other.shape[1]:
        raise InputError(
            f"got clouds of {a.shape[1]} and {other.shape[1]} points, the earth mover's distance needs equal numbers"
        )
    if kind == "cd" and device != "cpu":
        # Here, as only this path wants torch.
        from shapegen.metrics.torch_distances import chamfer_matrix

        return chamfer_matrix(a, b, device, progress)

    matrix = np.zeros((len(a), len(other)))
    seconds = pair_seconds(kind, a.shape[1], other.shape[1])
    blocks = list(_blocks(len(a), len(other), b is None, max(1, int(np.sqrt(_BLOCK_S / seconds)))))
    total = sum((i1 - i0) * (j1 - j0) for i0, i1, j0, j1 in blocks)
    items: Iterator[tuple[Kind, np.ndarray, np.ndarray | None]] = (
        (kind, a[i0:i1], None if b is None and i0 == j0 else other[j0:j1]) for i0, i1, j0, j1 in blocks
    )
    if pool is None or total * seconds < _ALONE_S:
        results = ((k, distance_block(item)) for k, item in enumerate(items))
    else:
        results = pool.map(items)
    done = 0
    for k, result in results:
        i0, i1, j0, j1 = blocks[k]
        if isinstance(result, Failure):
            raise RuntimeError(f"distances could not be computed: {result.reason}: {result.detail}")
        matrix[i0:i1, j0:j1] = result
        if b is None and i0 != j0:
            matrix[j0:j1, i0:i1] = result.T
        done += (i1 - i0) * (j1 - j0)
        if progress is not None:
            progress(done, total)
    return matrix


def distance_pool(workers: int | None = None) -> WorkerPool:
    """Workers for `distance_matrix`; all cores by default. To be closed, or used as a context manager."""
    return WorkerPool(distance_block, workers, timeout_s=_BLOCK_LIMIT_S)


def pair_seconds(kind: Kind, points: int, others: int) -> float:
    """About how many seconds one distance takes on one core."""
    if kind == "cd":
        return _TREE_S_PER_POINT * (points + others) / 2
    return _ASSIGNMENT_S * (points / _ASSIGNMENT_POINTS) ** _ASSIGNMENT_POWER


def distance_block(item: tuple[Kind, np.ndarray, np.ndarray | None]) -> np.ndarray:
    """In a worker: distances (m, n) of a block; of the first clouds among themselves where the second are None."""
    kind, first, second = item
    if second is None:
        block = np.zeros((len(first), len(first)))
        upper = np.triu_indices(len(first), 1)
        block[upper] = [
            value for _, _, value in _pairs(kind, first, first, zip(*(k.tolist() for k in upper), strict=True))
        ]
        return block + block.T
    block = np.empty((len(first), len(second)))
    for i, j, value in _pairs(kind, first, second, np.ndindex(*block.shape)):
        block[i, j] = value
    return block


def _pairs(
    kind: Kind, first: np.ndarray, second: np.ndarray, where: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, float]]:
    if kind == "emd":
        for i, j in where:
            yield i, j, earth_mover(first[i], second[j])
        return
    trees = [KDTree(cloud) for cloud in first]
    others = trees if second is first else [KDTree(cloud) for cloud in second]
    for i, j in where:
        yield i, j, _tree_chamfer(first[i], second[j], trees[i], others[j])


def _tree_chamfer(a: np.ndarray, b: np.ndarray, tree_a: KDTree, tree_b: KDTree) -> float:
    there, back = tree_b.query(a)[0], tree_a.query(b)[0]
    return float((there**2).mean() + (back**2).mean())


def _blocks(rows: int, columns: int, symmetric: bool, side: int) -> Iterator[tuple[int, int, int, int]]:
    for i in range(0, rows, side):
        for j in range(i if symmetric else 0, columns, side):
            yield i, min(i + side, rows), j, min(j + side, columns)


def _checked(clouds: np.ndarray) -> np.ndarray:
    clouds = np.asarray(clouds)
    if clouds.ndim != 3 or clouds.shape[2] != 3 or 0 in clouds.shape:
        raise InputError(
            f"got an array of shape {clouds.shape}, expected (shapes, points, 3) with at least one of each"
        )
    if not np.isfinite(clouds).all():
        raise InputError("some clouds have NaN or infinite coordinates; leave them out or mend them first")
    return clouds
