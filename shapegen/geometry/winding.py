"""The winding number of an unoriented point cloud: a smooth field, about 1 inside the surface and 0 outside.

Gauss: for a closed surface with outward normal n, the integral of n . (y - x) / (4 pi |y - x|^3) over y is 1 for x
inside, 1/2 on the surface and 0 outside. With the cloud's points as sources, each with an unknown moment (area times
normal), "1/2 at every point" is a linear system whose regularised smallest solution gives the moments, hence normals of
one orientation and the field everywhere. No normals are asked for, and walls as thin as the distance between points
come out as walls. Parametric Gauss reconstruction: Lin, Xiao, Shi, Wang, ACM Trans. Graph. 2022, 42(2), 18.

Here the kernel is (y - x) / (4 pi (|y - x|^2 + width^2)^(3/2)) with one width for all sources. Then every product with
the (P, 3 P) matrix of the system reduces to products with one symmetric (P, P) matrix, and conjugate gradients need a
fraction of a second for 2,048 points.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from common.workers import available_cores
from shapegen.geometry.clouds import check_cloud, spacing

logger = logging.getLogger(__name__)

# The symmetric matrix takes 4 P^2 bytes: 1 GiB.
MAX_SOURCES = 16_384
# Factors on the diagonal of the system: 1 interpolates every point, noise included; the larger, the smoother.
SMOOTHINGS = (1.05, 1.2, 1.5, 2.5)
# The smoothest whose error on held-out points is within this factor of the best one's: the minimum is flat under noise,
# and on its rough side surfaces crumple.
_AS_GOOD = 1.1
_HELD_OUT_SHARE = 0.1
# Relative residuals of the solution, and where smoothings are only compared.
_TOLERANCE = 3e-3
_ROUGH_TOLERANCE = 1e-2
_MAX_ITERATIONS = 300
# Elements of a block of queries x sources: small enough for the cache.
_BLOCK = 1_000_000


@dataclass(frozen=True)
class WindingField:
    """A fitted field.

    Attributes:
        points: (P, 3) float32 sources, relative to `centre`, in widths of the kernel (so no unit overflows float32).
        moments: (P, 3) float32, outward normal times the area that the point stands for, in squares of the width.
        centre: (3,) float64, in the unit of the cloud.
        width: of the kernel, in the unit of the cloud.
        level: the value where the surface lies: a little below 1/2, the more the smoother.
        smoothing: the factor on the diagonal.
    """

    points: np.ndarray
    moments: np.ndarray
    centre: np.ndarray
    width: float
    level: float
    smoothing: float

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        """The field (Q,) float32 at queries (Q, 3)."""
        queries = ((np.asarray(queries) - self.centre) / self.width).astype(np.float32)
        sources = _sources(self.points, self.moments)
        step = max(64, _BLOCK // len(self.points))
        starts = range(0, len(queries), step)

        def block(start: int) -> np.ndarray:
            part = queries[start : start + step]
            return _gather(part, _inverse_cubes(part, self.points) @ sources)

        with ThreadPoolExecutor(min(available_cores(), max(1, len(starts)))) as pool:
            return np.concatenate([np.empty(0, np.float32), *pool.map(block, starts)])


def fit_winding_field(
    points: np.ndarray, smoothing: float | None = None, width: float | None = None, seed: int = 0
) -> WindingField:
    """Fit the field to a cloud.

    Args:
        points: (P, 3), at most `MAX_SOURCES`, no normals needed.
        smoothing: at least 1, or None to choose among `SMOOTHINGS` by the error at held-out points.
        width: of the kernel; the cloud's spacing where None, so that the sheet of sources has no holes.
        seed: of the choice of the held-out points.

    Raises:
        InputError: an unusable cloud (see `check_cloud`), too many points, or a smoothing below 1.
    """
    points = check_cloud(points, minimum=16)
    if len(points) > MAX_SOURCES:
        raise InputError(f"got {len(points)} points, a winding field takes at most {MAX_SOURCES}; thin the cloud first")
    if smoothing is not None and not smoothing >= 1:
        raise InputError(f"smoothing is {smoothing}, expected at least 1 (1 interpolates, 2.5 suits noisy clouds)")
    if width is None:
        width = spacing(points)
    if not width > 0:
        raise InputError("most points coincide with others, expected points spread over a surface")
    if smoothing is None:
        smoothing = _choose_smoothing(points, width, seed)
    return _fit(points, width, (smoothing,))[0]


def _choose_smoothing(points: np.ndarray, width: float, seed: int) -> float:
    """The smoothest field that still predicts 1/2 at points that it was not fitted to."""
    chosen = np.random.default_rng(seed).permutation(len(points))
    count = max(4, int(_HELD_OUT_SHARE * len(points)))
    held_out, rest = points[chosen[:count]], points[chosen[count:]]
    fields = _fit(rest, width, SMOOTHINGS, _ROUGH_TOLERANCE)
    errors = [float(np.sqrt(np.mean((field(held_out) - 0.5) ** 2))) for field in fields]
    logger.debug("error of smoothings %s at held-out points: %s", SMOOTHINGS, [round(e, 3) for e in errors])
    return max(a for a, error in zip(SMOOTHINGS, errors, strict=True) if error <= _AS_GOOD * min(errors))


def _fit(
    points: np.ndarray, width: float, smoothings: Sequence[float], tolerance: float = _TOLERANCE
) -> list[WindingField]:
    centre = (points.max(axis=0) + points.min(axis=0)) / 2
    x = ((points - centre) / width).astype(np.float32)
    matrix = _inverse_cubes(x, x)
    columns = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    systems = len(smoothings)

    # All systems in step: reading the matrix is what takes the time.
    def product(rows: np.ndarray) -> np.ndarray:  # (K, P, 4) -> (K, P, 4)
        together = matrix @ np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(len(x), -1)
        return together.reshape(len(x), systems, 4).transpose(1, 0, 2)

    def adjoint(weights: np.ndarray) -> np.ndarray:  # B^T xi: (K, P) -> (K, P, 3)
        total = product(weights[..., None] * columns)
        return x * total[..., 3:] - total[..., :3]

    def forward(moments: np.ndarray) -> np.ndarray:  # B mu: (K, P, 3) -> (K, P)
        return _gather(x, product(_sources(x, moments)))

    factors = np.asarray(smoothings, np.float32)[:, None]
    diagonal = _diagonal(x, matrix)
    scale = 1 / np.sqrt(factors * diagonal)
    extra = (factors - 1) * diagonal

    def system(v: np.ndarray) -> np.ndarray:
        return scale * (forward(adjoint(scale * v)) + extra * scale * v)

    moments = adjoint(scale * _conjugate_gradients(system, np.float32(0.5) * scale, tolerance))
    # Smoothing pulls the values at the points below 1/2. Their mean is right for a lone smooth sheet, 1/2 keeps the
    # hollows of thin walls open: halfway, volumes come out best.
    levels = (forward(moments).mean(axis=1) + 0.5) / 2
    return [
        WindingField(x, moments[k], centre, width, float(levels[k]), float(smoothing))
        for k, smoothing in enumerate(smoothings)
    ]


def _inverse_cubes(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(Q, P) float32: 1 / (4 pi (|y - x|^2 + 1)^(3/2))."""
    squares = queries @ points.T
    squares *= np.float32(-2)
    squares += np.einsum("qc,qc->q", queries, queries)[:, None]
    squares += np.einsum("pc,pc->p", points, points) + np.float32(1)
    np.maximum(squares, np.float32(1), out=squares)  # rounding
    cubes = np.sqrt(squares)
    cubes *= squares
    return np.divide(np.float32(1 / (4 * np.pi)), cubes, out=cubes)


def _diagonal(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Diagonal of B B^T, (P,): the sum over sources of |y - x|^2 times the squared inverse cube."""
    diagonal = np.empty(len(points), np.float32)
    squared = np.einsum("pc,pc->p", points, points)
    for start in range(0, len(points), 512):
        rows = slice(start, start + 512)
        squares = np.maximum(squared[rows, None] + squared - 2 * points[rows] @ points.T, 0)
        diagonal[rows] = np.einsum("qp,qp,qp->q", squares, matrix[rows], matrix[rows])
    return diagonal


def _sources(points: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(..., P, 4): what a row of inverse cubes is multiplied with, so that `_gather` can finish the sum."""
    return np.concatenate([moments, np.einsum("pc,...pc->...p", points, moments)[..., None]], axis=-1)


def _gather(queries: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """sum s (y - x) . mu = sum s y . mu - x . sum s mu, (..., Q) from the sums (..., Q, 4)."""
    return sums[..., 3] - np.einsum("qc,...qc->...q", queries, sums[..., :3])


def _conjugate_gradients(system: Callable[[np.ndarray], np.ndarray], right: np.ndarray, tolerance: float) -> np.ndarray:
    """Solve symmetric positive systems with right sides (K, P) float32 in step, until all residuals are small enough.

    Own code because SciPy's solves one system at a time, in float64: eight times the memory traffic.
    """
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    square = _squared(residual)
    goal = tolerance**2 * square
    for _ in range(_MAX_ITERATIONS):
        image = system(direction)
        # A system that is solved exactly stands still.
        length = square / np.maximum(np.einsum("kp,kp->k", direction, image)[:, None], np.float32(1e-30))
        solution += length * direction
        residual -= length * image
        previous, square = square, _squared(residual)
        if (square <= goal).all():
            break
        direction = residual + square / np.maximum(previous, np.float32(1e-30)) * direction
    return solution


def _squared(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("kp,kp->k", vectors, vectors)[:, None]
