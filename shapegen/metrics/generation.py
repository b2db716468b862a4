"""How well a set of samples follows a reference set: MMD, COV, 1-NNA and JSD.

MMD and COV: Achlioptas et al., ICML 2018, arXiv 1707.02392. 1-NNA: Lopez-Paz and Oquab, ICLR 2017, as used for shapes
by PointFlow (arXiv 1906.12320). Rows of a distance matrix are samples, columns are references.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import KDTree

from common.errors import InputError
from common.metrics import Metric, from_draws, resamples

# Of the bootstrap: a resample lacks all of so many neighbours with a chance of 1e-27.
_NEIGHBOURS = 64
_JSD_CELLS = 28


def minimum_matching_distance(between: np.ndarray) -> float:
    """MMD: mean over the references of the distance to the nearest sample. Lower is better.

    Args:
        between: (S, R) distances of samples to references.
    """
    return float(between.min(axis=0).mean())


def coverage(between: np.ndarray) -> float:
    """COV: share of the references that are the nearest reference of some sample. Higher is better; it does not see
    how far the samples are.

    Args:
        between: (S, R) distances of samples to references.
    """
    return len(np.unique(between.argmin(axis=1))) / between.shape[1]


@dataclass(frozen=True)
class NearestNeighbourTest:
    """1-NNA and its two sides, as shares.

    Attributes:
        accuracy: share of all shapes whose nearest other shape is from their own set; 1/2 is ideal.
        samples: the same among the samples: high where samples crowd (mode collapse) or lie apart.
        references: the same among the references: high where the samples miss some.
    """

    accuracy: float
    samples: float
    references: float


def nearest_neighbour_test(
    within: np.ndarray, between: np.ndarray, within_reference: np.ndarray
) -> NearestNeighbourTest:
    """1-NNA by leaving one out: the distance of a shape to itself counts as infinite.

    Args:
        within: (S, S) distances of the samples among themselves.
        between: (S, R) of samples to references.
        within_reference: (R, R) of the references among themselves.
    """
    hits = _own_neighbour(_joint(within, between, within_reference), len(within))
    s = len(within)
    return NearestNeighbourTest(float(hits.mean()), float(hits[:s].mean()), float(hits[s:].mean()))


def matrix_metrics(
    kind: str, within: np.ndarray, between: np.ndarray, within_reference: np.ndarray, sizes: str, seed: int = 0
) -> list[Metric]:
    """MMD, COV and 1-NNA as rows with bootstrap intervals.

    Args:
        kind: `cd` or `emd`: part of the names.
        within, between, within_reference: as in `nearest_neighbour_test`.
        sizes: in words, for the rules: numbers of shapes and points.
        seed: of the bootstrap.

    Returns:
        `mmd_<kind>` (squared unit for cd, unit for emd), `cov_<kind>_percent`, `1nna_<kind>_percent`, its sides
        `1nna_<kind>_samples_percent` and `..._references_percent`, and `1nna_<kind>_off_points`: |1-NNA - 50|.
    """
    s, r = between.shape
    picks = resamples(s, seed), resamples(r, seed + 1)
    minimum, covered = _resampled_mmd_cov(between, *picks)
    test = nearest_neighbour_test(within, between, within_reference)
    sides = _resampled_test(within, between, within_reference, *picks)
    measure = {"cd": "CD: squared, mean of each side, sides summed", "emd": "exact EMD: optimal assignment, mean"}[kind]
    rule = f"{measure}; {sizes}"
    label = f"1nna_{kind}"
    accuracy = from_draws(
        f"{label}_percent", 100 * test.accuracy, 100 * sides[0], s + r, f"1-NNA, 50 is ideal; {rule}", most=100
    )
    off = abs(accuracy.value - 50)
    bounds = abs(accuracy.low - 50), abs(accuracy.high - 50)
    inside = accuracy.low <= 50 <= accuracy.high
    return [
        from_draws(f"mmd_{kind}", minimum_matching_distance(between), minimum, r, f"MMD; {rule}"),
        from_draws(f"cov_{kind}_percent", 100 * coverage(between), 100 * covered, r, f"COV; {rule}", most=100),
        accuracy,
        from_draws(
            f"{label}_samples_percent", 100 * test.samples, 100 * sides[1], s, f"1-NNA among samples; {rule}", most=100
        ),
        from_draws(
            f"{label}_references_percent",
            100 * test.references,
            100 * sides[2],
            r,
            f"1-NNA among references; {rule}",
            most=100,
        ),
        Metric(f"{label}_off_points", off, 0.0 if inside else min(bounds), max(bounds), s + r, f"|1-NNA - 50|; {rule}"),
    ]


@dataclass(frozen=True)
class OccupancyDivergence:
    """JSD and how much of the data was outside its grid.

    Attributes:
        value: Jensen-Shannon divergence in bits, 0-1.
        outside_samples, outside_references: points beyond the sphere, which count for the nearest cell at its border.
    """

    value: float
    outside_samples: int
    outside_references: int


def occupancy_divergence(samples: np.ndarray, references: np.ndarray) -> OccupancyDivergence:
    """JSD: divergence between the two sets' shares of points in the cells of a grid, all shapes of a set pooled.

    The cells are the nearest-neighbour cells of the nodes of a 28^3 grid over the cube of side 1 around the origin that
    lie in the sphere of radius 1/2; logarithms to base 2 (Achlioptas et al., arXiv 1707.02392).

    Args:
        samples: (S, P, 3) in the frame of the grid; references: (R, Q, 3).
    """
    counts, outside = zip(*(_cell_counts(clouds) for clouds in (samples, references)), strict=True)
    value = _jensen_shannon(*(np.asarray(one.sum(axis=0)).ravel() for one in counts))
    return OccupancyDivergence(value, *outside)


def divergence_metrics(samples: np.ndarray, references: np.ndarray, frame: str, seed: int = 0) -> list[Metric]:
    """`jsd` with a bootstrap interval over shapes, and the shares of points outside the grid, in percent.

    Args:
        samples: (S, P, 3) in the frame of the grid; references: (R, Q, 3).
        frame: how the coordinates came into the frame, for the rules.
        seed: of the bootstrap.
    """
    (ours, outside), (theirs, outside_theirs) = _cell_counts(samples), _cell_counts(references)
    value = _jensen_shannon(ours.sum(axis=0), theirs.sum(axis=0))
    draws = np.array(
        [
            _jensen_shannon(p @ ours, q @ theirs)
            for p, q in zip(resamples(len(samples), seed), resamples(len(references), seed + 1), strict=True)
        ]
    )
    s, r = samples.shape[0] * samples.shape[1], references.shape[0] * references.shape[1]
    size = f"{len(samples)} samples, {len(references)} references, {samples.shape[1]} points each; {frame}"
    rule = f"JSD in bits, 28^3 cells in the sphere of radius 0.5; {size}"
    snapped = "points outside the sphere of JSD, snapped to its border"
    return [
        from_draws("jsd", value, draws, len(samples), rule, most=1.0),
        _share("jsd_outside_samples_percent", outside, s, f"{snapped}; {frame}"),
        _share("jsd_outside_references_percent", outside_theirs, r, f"{snapped}; {frame}"),
    ]


def _share(name: str, hits: int, n: int, rule: str) -> Metric:
    # Points of a shape go outside together, so an interval over points would be too narrow: a count, no estimate.
    value = 100 * hits / n
    return Metric(name, value, value, value, n, rule)


def _joint(within: np.ndarray, between: np.ndarray, within_reference: np.ndarray) -> np.ndarray:
    s, r = between.shape
    if within.shape != (s, s) or within_reference.shape != (r, r):
        shapes = f"{within.shape}, {between.shape} and {within_reference.shape}"
        raise InputError(f"got matrices of the shapes {shapes}, expected (S, S), (S, R) and (R, R)")
    joint = np.block([[within, between], [between.T, within_reference]])
    np.fill_diagonal(joint, np.inf)
    return joint


def _own_neighbour(joint: np.ndarray, samples: int) -> np.ndarray:
    """(S + R,) bool: the nearest other shape is from the shape's own set."""
    is_sample = np.arange(len(joint)) < samples
    return is_sample[joint.argmin(axis=1)] == is_sample


def _resampled_mmd_cov(
    between: np.ndarray, picks: np.ndarray, picks_reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) MMD and (B,) COV of resampled sets."""
    minimum, covered = np.empty(len(picks)), np.empty(len(picks))
    for k, (p, q) in enumerate(zip(picks, picks_reference, strict=True)):
        part = between[np.ix_(p > 0, q > 0)]
        minimum[k] = np.average(part.min(axis=0), weights=q[q > 0])
        covered[k] = len(np.unique(part.argmin(axis=1))) / part.shape[1]
    return minimum, covered


def _resampled_test(
    within: np.ndarray,
    between: np.ndarray,
    within_reference: np.ndarray,
    picks: np.ndarray,
    picks_reference: np.ndarray,
) -> np.ndarray:
    """(3, B) accuracy over all, samples, references of resampled sets; copies of a shape are not its neighbours."""
    joint = _joint(within, between, within_reference)
    s = len(within)
    is_sample = np.arange(len(joint)) < s
    order = np.argsort(joint, axis=1, kind="stable")[:, : min(_NEIGHBOURS, len(joint) - 1)]
    found = np.empty((3, len(picks)))
    for k, weights in enumerate(np.concatenate([picks, picks_reference], axis=1)):
        first = np.argmax(weights[order] > 0, axis=1)
        neighbour = np.take_along_axis(order, first[:, None], axis=1)[:, 0]
        hits = weights * (is_sample[neighbour] == is_sample)
        found[:, k] = (
            hits.sum() / weights.sum(),
            hits[:s].sum() / weights[:s].sum(),
            hits[s:].sum() / weights[s:].sum(),
        )
    return found


@lru_cache(maxsize=1)
def _grid() -> KDTree:
    line = np.arange(_JSD_CELLS) / (_JSD_CELLS - 1) - 0.5
    nodes = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    return KDTree(nodes[np.linalg.norm(nodes, axis=1) <= 0.5])


def _cell_counts(clouds: np.ndarray) -> tuple[csr_array, int]:
    """(S, cells) points of each shape in each cell, and how many points lay outside the sphere."""
    tree = _grid()
    shapes, points = clouds.shape[:2]
    flat = np.asarray(clouds, dtype=np.float64).reshape(-1, 3)
    _, cell = tree.query(flat)
    rows = np.repeat(np.arange(shapes), points)
    counts = csr_array((np.ones(len(flat)), (rows, cell)), shape=(shapes, tree.n))
    return counts, int((np.linalg.norm(flat, axis=1) > 0.5).sum())


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    p, q = p / p.sum(), q / q.sum()
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())
