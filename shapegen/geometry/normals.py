"""Normals of point clouds, with one consistent orientation."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from shapegen.geometry.clouds import check_cloud
from shapegen.geometry.winding import MAX_SOURCES, WindingField, fit_winding_field


def principal_normals(points: np.ndarray, neighbours: int = 16) -> np.ndarray:
    """Unoriented unit normals (P, 3): the direction in which a point's neighbours spread least (Hoppe et al. 1992).

    The sign of each is arbitrary. Rounded at edges, and wrong on walls thinner than the neighbourhood.

    Args:
        points: (P, 3).
        neighbours: in the neighbourhood, the point included.
    """
    points = check_cloud(points, minimum=3)
    _, index = KDTree(points).query(points, k=min(neighbours, len(points)))
    near = points[index] - points[index].mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))
    return axes[:, :, 0]


def oriented_normals(points: np.ndarray, field: WindingField | None = None, neighbours: int = 8) -> np.ndarray:
    """Unit normals (P, 3) that point outward from the solid that the cloud encloses.

    The direction is that of the winding number's moments (`fit_winding_field`), averaged over the neighbours that face
    the same side, so the two faces of a thin wall keep opposite normals.

    Args:
        points: (P, 3), more than 16,384 too: then a part of them is fitted, and the rest follow their nearest.
        field: the cloud's field, if it was fitted already.
        neighbours: that are averaged.
    """
    points = check_cloud(points, minimum=16)
    if field is None:
        field = fit_winding_field(thinned(points, MAX_SOURCES))
    directions = field.moments / np.maximum(np.linalg.norm(field.moments, axis=1, keepdims=True), 1e-20)
    tree = KDTree(field.points)
    _, index = tree.query(field.points, k=min(neighbours, len(directions)))
    agreement = np.maximum(np.einsum("nc,nkc->nk", directions, directions[index]), 0)
    smooth = np.einsum("nk,nkc->nc", agreement, directions[index])
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-20)
    _, nearest = tree.query(((points - field.centre) / field.width).astype(np.float32))
    return smooth[nearest].astype(np.float64)


def thinned(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """At most `count` of the points (P, 3), drawn at random without repetition, in their order."""
    if len(points) <= count:
        return points
    return points[np.sort(np.random.default_rng(seed).choice(len(points), count, replace=False))]
