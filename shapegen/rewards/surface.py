"""Estimates from clouds, one function each: a `Cloud` in, (B,) values out, differentiable almost everywhere.

The exact values of meshes that they stand for are those of `shapegen.families.labels` and `shapegen.rewards.body`; how
far off they are is in docs/results.md. Lengths are in the unit of the cloud. Values of unusable clouds mean nothing:
the caller replaces them (`Cloud.known`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from common.errors import InputError
from common.workers import Failure
from shapegen.data.items import describe_item_failure, find_items, read_items
from shapegen.data.shapes import METRES
from shapegen.families.surface import sample_surface
from shapegen.geometry.clouds import check_cloud
from shapegen.geometry.normals import thinned
from shapegen.rewards.body import FLOOR_SHARE, OVERHANG_COSINE
from shapegen.rewards.cloud import Cloud, distances_to, soft_maximum

# Directions in which the foot is looked at, and how steeply a point above the floor drops out of it.
_DIRECTIONS, _LIFT = 64, 10.0
# What lies so high above the lowest point is the foot: a share of the height, at least this share of a spacing.
_FOOT_SHARE, _FOOT_SPACINGS = 0.01, 0.25
# A cloud as flat as this share of its diagonal is its own mirror image: it has no symmetry to speak of.
_FLAT = 0.02
# Of the step between what hangs over and what does not, and the height of the floor's own zone in spacings.
_COSINE_SOFTNESS, _FLOOR_SPACINGS = 0.05, 1.5
_TINY = 1e-30
_PARTIAL_POINTS = 2048
# Mean distance to a given cloud at which the closeness is 1/2, as a share of that cloud's diagonal.
_HALF_CLOSE = 0.05


def width(cloud: Cloud) -> Tensor:
    """Extent along X."""
    return cloud.extents[:, 0]


def depth(cloud: Cloud) -> Tensor:
    """Extent along Y."""
    return cloud.extents[:, 1]


def height(cloud: Cloud) -> Tensor:
    """Extent along Z."""
    return cloud.extents[:, 2]


def aspect_ratio(cloud: Cloud) -> Tensor:
    """Height / the larger of width and depth."""
    return cloud.extents[:, 2] / cloud.extents[:, :2].amax(dim=1)


def footprint_ratio(cloud: Cloud) -> Tensor:
    """The larger of width and depth / the smaller."""
    return cloud.extents[:, :2].amax(dim=1) / cloud.extents[:, :2].amin(dim=1)


def volume(cloud: Cloud) -> Tensor:
    """Volume inside the winding number's level set; too large where walls thinner than the spacing close over."""
    return cloud.solid.occupancy.sum(dim=1) * cloud.solid.cell


def fill(cloud: Cloud) -> Tensor:
    """Volume / volume of the box of the extents."""
    return volume(cloud) / cloud.extents.prod(dim=1)


def area(cloud: Cloud) -> Tensor:
    """Area of the level set: the integral of the occupancy's slope. Edges are rounded, so it comes out too small."""
    return _safe_norm(cloud.solid.slope).sum(dim=1) * cloud.solid.cell


def centre_height(cloud: Cloud) -> Tensor:
    """Height of the solid's centre of mass above the lowest point."""
    return _centre(cloud)[:, 2] - cloud.low[:, 2]


def inertia_small(cloud: Cloud) -> Tensor:
    """Smallest principal moment of inertia of the solid about its centre of mass, at density 1."""
    return _inertia(cloud)[:, 0]


def inertia_middle(cloud: Cloud) -> Tensor:
    """Middle principal moment of inertia."""
    return _inertia(cloud)[:, 1]


def inertia_large(cloud: Cloud) -> Tensor:
    """Largest principal moment of inertia."""
    return _inertia(cloud)[:, 2]


def elongation(cloud: Cloud) -> Tensor:
    """sqrt(l1 / l2) of the eigenvalues l1 >= l2 >= l3 of the solid's covariance."""
    spread = _spread(cloud)
    return (spread[:, 2] / spread[:, 1]).sqrt()


def flatness(cloud: Cloud) -> Tensor:
    """sqrt(l2 / l3) of the same."""
    spread = _spread(cloud)
    return (spread[:, 1] / spread[:, 0]).sqrt()


def symmetry_error(cloud: Cloud) -> Tensor:
    """Mean distance of the mirrored points to the points, less that of the points among themselves / diagonal.

    The subtracted part is what two samples of one surface are apart; so a symmetric shape has 0 on average, and may
    come out a little below. The plane is x = mean of the points. NaN for a cloud that is narrower than 2 % of its
    diagonal: collapsed onto the plane, anything is symmetric.
    """
    weights, total = cloud.weights, cloud.weights.sum(dim=1)
    points = cloud.points - cloud.centre
    middle = (points[..., 0] * weights).sum(dim=1) / total
    turned = torch.cat([2 * middle[:, None, None] - points[..., :1], points[..., 1:]], dim=2)
    apart = distances_to(turned, points, cloud.mask & (weights > 0))
    excess = ((apart - cloud.neighbour_distances[..., 0]) * weights).sum(dim=1) / total
    diagonal = cloud.extents.norm(dim=1)
    flat = cloud.extents[:, 0] < _FLAT * diagonal
    return torch.where(flat, torch.full_like(excess, torch.nan), excess / diagonal)


def stability_margin(cloud: Cloud) -> Tensor:
    """How far the centre of mass lies inside the foot, both seen from above; negative outside.

    The foot is the convex hull of the kept points next to the floor, by its support in 64 directions; the margin is
    the smallest distance to a supporting line.
    """
    turns = torch.arange(_DIRECTIONS, dtype=cloud.points.dtype, device=cloud.points.device)
    angles = 2 * math.pi * turns / _DIRECTIONS
    directions = torch.stack([angles.cos(), angles.sin()])
    centre = _centre(cloud)[:, None, :2]
    band = torch.maximum(_FOOT_SHARE * cloud.extents[:, 2], _FOOT_SPACINGS * cloud.spacing)
    lift = (cloud.points[..., 2] - (cloud.low[:, 2] + band)[:, None]).clamp(min=0)
    reach = (cloud.points[..., :2] - centre) @ directions - _LIFT * lift[..., None]
    return soft_maximum(reach, cloud.weights, cloud.temperature).amin(dim=1)


def tip_angle(cloud: Cloud) -> Tensor:
    """Degrees of tilt that topple it: atan(stability margin / height of the centre)."""
    return torch.rad2deg(torch.atan2(stability_margin(cloud), centre_height(cloud)))


def overhang_share(cloud: Cloud) -> Tensor:
    """Share of the surface that looks down, within 45 degrees of the vertical, and does not lie on the floor."""
    slope = cloud.solid.slope
    amount = _safe_norm(slope)
    looks_down = ((-slope[..., 2] / amount - OVERHANG_COSINE) / _COSINE_SOFTNESS).sigmoid()
    room = torch.maximum(_FLOOR_SPACINGS * cloud.spacing, FLOOR_SHARE * cloud.extents[:, 2])[:, None]
    rise = (cloud.solid.samples[..., 2] - cloud.low[:, None, 2]) / room
    return (amount * looks_down * ((rise - 1) / 0.1).sigmoid()).sum(dim=1) / amount.sum(dim=1)


def uniformity(cloud: Cloud) -> Tensor:
    """Mean squared / mean of the squares, of the distances to the nearest neighbour: 1 for a lattice, 0.785 for points
    spread at random over a surface, towards 0 where points coincide, clump, or stray."""
    nearest = torch.where(cloud.mask, cloud.neighbour_distances[..., 0], torch.zeros_like(cloud.weights))
    count = cloud.mask.sum(dim=1)
    return (nearest.sum(dim=1) / count) ** 2 / ((nearest * nearest).sum(dim=1) / count).clamp(min=_TINY)


def closeness(cloud: Cloud, path: str) -> Tensor:
    """1 / (1 + d / s): d as `distance`, s 5 % of the diagonal of the file's cloud."""
    given = _given(cloud, path)
    diagonal = (given.amax(dim=0) - given.amin(dim=0)).norm()
    return 1 / (1 + distance(cloud, path) / (_HALF_CLOSE * diagonal))


def distance(cloud: Cloud, path: str) -> Tensor:
    """Mean distance from the points of a file to the nearest point of the shape: the shape may have more to it."""
    given = _given(cloud, path).expand(len(cloud.points), -1, -1)
    return distances_to(given - cloud.centre, cloud.points - cloud.centre, cloud.mask & (cloud.weights > 0)).mean(dim=1)


def check_partial(path: str) -> str:
    """The path of a file of one shape, absolute; raises `InputError` where there is none."""
    if not path.strip() or not Path(path).is_file():
        raise InputError(f"got '{path}', expected a file with a point cloud or a mesh such as partial.ply")
    absolute = str(Path(path).resolve())
    read_partial(absolute)
    return absolute


@lru_cache(maxsize=16)
def read_partial(path: str) -> tuple[np.ndarray, str]:
    """(P, 3) float64 points of a file of one shape, Z up, at most 2,048; and their unit, `unitless` if unknown.

    Raises:
        InputError: the file cannot be read, holds several shapes, or points that are no cloud.
    """
    items = find_items([path])
    if len(items) != 1:
        raise InputError(f"{path} holds {len(items)} shapes, expected one")
    (found,) = read_items(items, workers=1)
    if isinstance(found, Failure):
        raise InputError(f"{path}: {describe_item_failure(found)}")
    shape, unit = found
    if isinstance(shape, trimesh.Trimesh):
        shape = sample_surface(shape, _PARTIAL_POINTS, np.random.default_rng(0))[0]
    try:
        return thinned(check_cloud(shape), _PARTIAL_POINTS), unit
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _given(cloud: Cloud, path: str) -> Tensor:
    """(P, 3) points of a file, in the unit of the cloud."""
    points, unit = read_partial(path)
    points = points * METRES.get(unit, METRES.get(cloud.unit, 1.0))
    return torch.as_tensor(points, dtype=cloud.points.dtype, device=cloud.points.device)


def _centre(cloud: Cloud) -> Tensor:
    """(B, 3) centre of mass of the solid."""
    shares = cloud.solid.occupancy / cloud.solid.occupancy.sum(dim=1, keepdim=True).clamp(min=_TINY)
    return (shares[..., None] * cloud.solid.samples).sum(dim=1)


def _covariance(cloud: Cloud) -> Tensor:
    """(B, 3, 3) of the solid."""
    shares = cloud.solid.occupancy / cloud.solid.occupancy.sum(dim=1, keepdim=True).clamp(min=_TINY)
    centred = cloud.solid.samples - _centre(cloud)[:, None]
    return (shares[..., None] * centred).transpose(1, 2) @ centred


def _spread(cloud: Cloud) -> Tensor:
    """(B, 3) eigenvalues of the covariance, ascending, none of them 0."""
    covariance = _covariance(cloud)
    size = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None]
    return torch.maximum(torch.linalg.eigvalsh(covariance), 1e-9 * size + _TINY)


def _inertia(cloud: Cloud) -> Tensor:
    """(B, 3) principal moments, ascending: volume (trace C - l) for the eigenvalues l of the covariance C."""
    spread = _spread(cloud)
    return (volume(cloud)[:, None] * (spread.sum(dim=1, keepdim=True) - spread)).flip(1)


def _safe_norm(vectors: Tensor) -> Tensor:
    return ((vectors * vectors).sum(dim=2) + _TINY).sqrt()
