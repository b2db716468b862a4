"""From points to a closed mesh: the level set of the winding number, by marching cubes.

Marching cubes: Lewiner, Lopes, Vieira, Tavares, J. Graph. Tools 2003, 8(2), 1 (scikit-image). The field is evaluated on
a coarse grid first and refined where the surface passes or points lie; the border of the grid counts as outside, so the
mesh is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.stats import qmc
from skimage.measure import marching_cubes

from common.errors import InputError
from common.workers import Failure, WorkerPool, available_cores
from shapegen.geometry.clouds import check_cloud, inliers, spacing
from shapegen.geometry.normals import thinned
from shapegen.geometry.winding import MAX_SOURCES, SMOOTHINGS, WindingField, fit_winding_field

logger = logging.getLogger(__name__)

MIN_POINTS = 32
# Grid cells along the longest side; 100 million cells at most.
MAX_RESOLUTION = 460
_CELLS_PER_SPACING = 2.0
_LEVELS = 3
# Empty room around the cloud, in cells of the coarsest grid: the surface must not touch the border.
_MARGIN_CELLS = 2
# Surface farther than this from all points was made up; more than this share of it asks for a sharper field.
_BRIDGE_SPACINGS = 2.5
_ACCEPTED_BRIDGES = 0.005
# Parts below this share of the volume are bubbles of the field, not parts of the shape.
_MIN_PART_SHARE = 1e-3
# A flat underside comes out uneven by so many cells. 39 solids, 2,048 points each: the tip angle is then right to
# 1.0 degree (median), where it is wrong by 7 with the foot of an exact mesh, and by 2.3 with one cell.
_FOOT_CELLS = 2.0
# Sobol points in the box, a power of 2.
_SAMPLES = 32_768
_TIME_LIMIT_S = 600.0


@dataclass(frozen=True)
class Reconstruction:
    """A mesh and how it came about.

    Attributes:
        mesh: closed, normals outward, in the units of the points.
        field: the winding number whose level set it is.
        cell: edge of a grid cell, in the unit of the points.
        used_points: how many points the surface was fitted to.
        stray_points: how many were left out as far from all others.
        bubbles: components that were dropped because their volume is below 0.1 % of the whole.
        bridged: share of the surface that is farther than 2.5 spacings from every point: lids over openings whose walls
            are thinner than the points can resolve, and sheets across gaps. 0 is faithful.
        occupancy: volume of the place where the field is above its level, without the mesh: by sampling, good to about
            3 %. Far from the mesh's volume, the mesh is at fault.
    """

    mesh: trimesh.Trimesh
    field: WindingField
    cell: float
    used_points: int
    stray_points: int
    bubbles: int
    bridged: float
    occupancy: float

    @property
    def foot(self) -> float:
        """What lies so high above the lowest point stands on the floor, in the unit of the points."""
        return _FOOT_CELLS * self.cell


def reconstruct(
    points: np.ndarray,
    resolution: int | None = None,
    smoothing: float | None = None,
    drop_stray: bool = True,
    seed: int = 0,
) -> Reconstruction:
    """The closed surface of a cloud without normals.

    Walls and rods come out down to a thickness of about the spacing of the points (`clouds.spacing`): 8,192 points
    halve what 2,048 can resolve.

    Args:
        points: (P, 3), in any order and unit. Of more than 16,384, so many are drawn at random.
        resolution: grid cells along the longest side; two for each spacing of the points where None, at most 460.
        smoothing: see `fit_winding_field`; chosen by the data where None.
        drop_stray: leave out points far from all others (`clouds.inliers`).
        seed: of the thinning and the choice of smoothing.

    Raises:
        InputError: an unusable cloud, or one that encloses nothing; a resolution outside 8-460.
    """
    points = check_cloud(points, MIN_POINTS)
    check_resolution(resolution)
    distinct = np.unique(points, axis=0)
    kept = distinct[inliers(distinct)] if drop_stray else distinct
    used = thinned(check_cloud(kept, MIN_POINTS), MAX_SOURCES, seed)
    pitch = spacing(used)
    longest = float(np.ptp(used, axis=0).max())
    cells = _CELLS_PER_SPACING * longest / pitch if resolution is None else resolution
    cell = longest / float(np.clip(cells, 8, MAX_RESOLUTION))

    found: list[Reconstruction] = []
    for factor, width in ((smoothing, pitch), (SMOOTHINGS[0], pitch), (SMOOTHINGS[0], pitch / 2)):
        field = fit_winding_field(used, factor, width, seed)
        mesh, edge, bubbles = _level_set(field, used, cell)
        bridged = _bridged_share(mesh, used, _BRIDGE_SPACINGS * pitch)
        volume, stray = _field_volume(field, used), len(distinct) - len(kept)
        found.append(Reconstruction(mesh, field, edge, len(used), stray, bubbles, bridged, volume))
        # A smoothing that was asked for stays; the others are for walls that the first closed over.
        if bridged <= _ACCEPTED_BRIDGES or smoothing is not None:
            break
        logger.info("%.1f %% of the surface is far from all points: trying a sharper field", 100 * bridged)
    return min(found, key=lambda one: one.bridged)


def check_resolution(resolution: int | None) -> None:
    """Raise `InputError` for a number of grid cells along the longest side that is not taken; None is."""
    if resolution is not None and not 8 <= resolution <= MAX_RESOLUTION:
        raise InputError(f"resolution is {resolution}, expected 8-{MAX_RESOLUTION} cells along the longest side")


def reconstruct_many(
    clouds: Sequence[np.ndarray],
    resolution: int | None = None,
    smoothing: float | None = None,
    workers: int | None = None,
    timeout_s: float = _TIME_LIMIT_S,
) -> list[Reconstruction | Failure]:
    """`reconstruct` over a pool of processes, in the order given; a cloud that fails gives a `Failure`."""
    if not len(clouds):
        return []
    results: list[Reconstruction | Failure] = [Failure("not run")] * len(clouds)
    with WorkerPool(_reconstruct_item, min(workers or available_cores(), len(clouds)), timeout_s) as pool:
        for index, result in pool.map((cloud, resolution, smoothing) for cloud in clouds):
            results[index] = result
    return results


def _reconstruct_item(item: tuple[np.ndarray, int | None, float | None]) -> Reconstruction:
    return reconstruct(*item)


def _field_volume(field: WindingField, points: np.ndarray) -> float:
    room = 0.5 * field.width
    return _volume_above(field, points.min(axis=0) - room, points.max(axis=0) + room, _SAMPLES)


def _volume_above(field: WindingField, low: np.ndarray, high: np.ndarray, count: int) -> float:
    samples = qmc.scale(qmc.Sobol(3, scramble=True, rng=0).random(count), low, np.maximum(high, low + 1e-12))
    return float((field(samples) > field.level).mean() * np.prod(high - low))


def occupancy_volume(points: np.ndarray, normals: np.ndarray, count: int = _SAMPLES) -> float:
    """Volume that a cloud with outward normals encloses, without a mesh: the part of its box with winding number > 1/2.

    Each point is a dipole of the area that it stands for, from the distance to its neighbours on the same side of the
    wall; the box is sampled with a Sobol sequence. Good to a few percent where the normals are the surface's own and
    walls are thicker than two spacings.

    Args:
        points: (P, 3).
        normals: (P, 3) unit, outward.
        count: samples of the box, a power of 2.

    Returns:
        The volume, in the cube of the unit of the points.
    """
    points = check_cloud(points, MIN_POINTS)
    low, high = points.min(axis=0), points.max(axis=0)
    centre, width = (low + high) / 2, 0.5 * spacing(points)
    sources = ((points - centre) / width).astype(np.float32)
    moments = (normals * _areas(sources, normals)[:, None]).astype(np.float32)
    field = WindingField(sources, moments, centre, width, 0.5, 1.0)
    return _volume_above(field, low, high, count)


def _areas(points: np.ndarray, normals: np.ndarray, neighbours: int = 32) -> np.ndarray:
    """(P,) area that each point stands for: pi r^2 / m within the radius r of the m-th neighbour that faces its way."""
    k = min(neighbours, len(points) - 1)
    distances, index = KDTree(points).query(points, k=k + 1)
    same = np.einsum("nc,nkc->nk", normals, normals[np.asarray(index)[:, 1:]]) > 0.3
    rank = np.cumsum(same, axis=1)
    # The 8th neighbour of the same side, or the last there is.
    wanted = np.clip(same.sum(axis=1), 1, 8)
    last = np.argmax(rank >= wanted[:, None], axis=1)
    radius = distances[np.arange(len(points)), 1 + last]
    # For a Poisson process, (m - 1/2) / (pi r_m^2) is close to an unbiased density.
    return np.pi * radius**2 / np.maximum(wanted - 0.5, 0.5)


def _level_set(field: WindingField, points: np.ndarray, cell: float) -> tuple[trimesh.Trimesh, float, int]:
    """The mesh at the field's level, the edge of a cell, and the number of bubbles that were dropped."""
    coarse = cell * 2 ** (_LEVELS - 1)
    low = points.min(axis=0) - _MARGIN_CELLS * coarse
    counts = np.ceil((np.ptp(points, axis=0) + 2 * _MARGIN_CELLS * coarse) / coarse).astype(int) + 1
    step = coarse
    values = field(low + step * np.argwhere(np.ones(counts, dtype=bool))).reshape(counts)
    for _ in range(_LEVELS - 1):
        step /= 2
        values = _doubled(values)
        near = np.zeros(values.shape, dtype=bool)
        near[tuple(np.rint((points - low) / step).astype(int).T)] = True
        near = ndimage.binary_dilation(near, iterations=2)
        crossed = (ndimage.maximum_filter(values, 3) > field.level) & (ndimage.minimum_filter(values, 3) <= field.level)
        near = np.logical_or(near, crossed)
        where = np.argwhere(near)
        values[near] = field(low + step * where)
    inner = (slice(1, -1),) * 3
    closed = np.zeros_like(values)
    closed[inner] = values[inner]
    # A value at the level itself would give triangles without area.
    closed = np.where(np.abs(closed - field.level) < 1e-5, np.float32(field.level - 1e-5), closed)
    if not (closed > field.level).any():
        raise InputError("the points enclose no volume; expected points on the surface of a solid")
    vertices, faces, _, _ = marching_cubes(closed, field.level, gradient_direction="ascent")
    # In cells until the end: trimesh merges vertices at an absolute distance.
    mesh, bubbles = _without_bubbles(trimesh.Trimesh(vertices, faces, process=True))
    mesh.vertices = low + step * np.asarray(mesh.vertices, dtype=np.float64)
    return mesh, step, bubbles


def _doubled(values: np.ndarray) -> np.ndarray:
    """Each axis from n to 2 n - 1 nodes by linear interpolation."""
    for axis in range(3):
        values = np.moveaxis(values, axis, 0)
        fine = np.empty((2 * len(values) - 1, *values.shape[1:]), values.dtype)
        fine[::2] = values
        fine[1::2] = (values[:-1] + values[1:]) / 2
        values = np.moveaxis(fine, 0, axis)
    return np.ascontiguousarray(values)


def _without_bubbles(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, int]:
    """The mesh without components (parts or hollows) of nearly no volume, and how many there were."""
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    corners = mesh.triangles - mesh.vertices.mean(axis=0)
    pieces = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    volumes = np.abs(np.bincount(labels, weights=pieces))
    kept = volumes >= _MIN_PART_SHARE * volumes.max()
    if kept.all():
        return mesh, 0
    parts = mesh.copy()
    parts.update_faces(kept[labels])
    parts.remove_unreferenced_vertices()
    return parts, int((~kept).sum())


def _bridged_share(mesh: trimesh.Trimesh, points: np.ndarray, reach: float) -> float:
    """Share of the area whose faces have their centres beyond `reach` of every point."""
    far = ~np.isfinite(KDTree(points).query(mesh.triangles_center, distance_upper_bound=reach)[0])
    return float(mesh.area_faces[far].sum() / mesh.area)
