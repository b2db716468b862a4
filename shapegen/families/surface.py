"""Points on a surface, spread by area."""

from __future__ import annotations

import numpy as np
import trimesh


def sample_surface(mesh: trimesh.Trimesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Independent, uniformly spread points (count, 3) and the index of each one's face (count,).

    Args:
        mesh: with a positive area; faces without area get no points.
        count: number of points.
        rng: where the numbers come from.
    """
    cumulative = np.cumsum(mesh.area_faces)
    faces = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right").clip(max=len(cumulative) - 1)
    # Uniform in a triangle: the square root spreads evenly along the way to the first corner's opposite edge.
    root, share = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - root, root * (1 - share), root * share], axis=1)
    return np.einsum("pk,pkc->pc", weights, mesh.triangles[faces]), faces


def sample_with_normals(mesh: trimesh.Trimesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) and the unit normals (count, 3) of their faces, float32; outward where the mesh is closed."""
    points, faces = sample_surface(mesh, count, rng)
    return points.astype(np.float32), mesh.face_normals[faces].astype(np.float32)
