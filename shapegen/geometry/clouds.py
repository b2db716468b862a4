"""Point clouds as arrays: checks, spacing, stray points."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from common.errors import InputError

# A square lattice of pitch 1 has one point per unit of area; so has a Poisson process, whose k-th neighbour lies at
# this many pitches on average, over k = 1..15: mean of Gamma(k + 1/2) / (Gamma(k) sqrt(pi)).
_NEIGHBOURS = 15
_MEAN_NEIGHBOUR_DISTANCE = 1.4928

MAX_CLOUD_POINTS = 5_000_000


def check_cloud(points: np.ndarray, minimum: int = 4) -> np.ndarray:
    """The cloud as (P, 3) float64.

    Args:
        points: (P, 3).
        minimum: fewest points that the caller can use.

    Raises:
        InputError: wrong shape, too few or too many points, NaN or infinity, or all points in one place.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"got an array of shape {points.shape}, expected (P, 3) coordinates of one point cloud")
    if len(points) < minimum:
        raise InputError(f"got {len(points)} points, expected at least {minimum}; sample more points")
    if len(points) > MAX_CLOUD_POINTS:
        raise InputError(f"got {len(points)} points, at most {MAX_CLOUD_POINTS} are read; thin the cloud first")
    bad = int((~np.isfinite(points).all(axis=1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(points)} points have NaN or infinite coordinates; remove them first")
    if not np.ptp(points, axis=0).max() > 0:
        raise InputError("all points lie in one place, expected a surface")
    return points


def spacing(points: np.ndarray) -> float:
    """The pitch h of a cloud: h^2 is the area that one point stands for, in the unit of the points.

    From the mean distance to the nearest 15 neighbours of the median point, as if spread at random over a plane. On
    walls thinner than a few h it comes out up to a fifth too small, since both faces are counted.

    Args:
        points: (P, 3), at least two of them distinct.
    """
    k = min(_NEIGHBOURS, len(points) - 1)
    distances, _ = KDTree(points).query(points, k=k + 1)
    order = np.arange(1, k + 1)
    # Fewer neighbours than the constant is for: the k-th distance grows as sqrt(k).
    expected = _MEAN_NEIGHBOUR_DISTANCE * np.sqrt(order).mean() / np.sqrt(np.arange(1, _NEIGHBOURS + 1)).mean()
    return float(np.median(distances[:, 1:].mean(axis=1)) / expected)


def inliers(points: np.ndarray, neighbours: int = 8, threshold: float = 6.0) -> np.ndarray:
    """(P,) bool: False for stray points.

    A point is stray when its mean distance to its neighbours exceeds the median of all points by `threshold` times
    their median absolute deviation (scaled to a standard deviation), and lies beyond twice the median.

    Args:
        points: (P, 3).
        neighbours: how many neighbours are looked at.
        threshold: robust standard deviations.
    """
    points = check_cloud(points, minimum=2)
    distances, _ = KDTree(points).query(points, k=min(neighbours, len(points) - 1) + 1)
    mean = distances[:, 1:].mean(axis=1)
    middle = np.median(mean)
    deviation = 1.4826 * np.median(np.abs(mean - middle))
    return mean <= np.maximum(middle + threshold * deviation, 2 * middle)
