"""Shapes that can be turned, for plotly: `cloud_figure`, `mesh_figure`, or their traces for a scene of one's own."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import trimesh
from plotly.basedatatypes import BaseTraceType
from scipy.spatial import KDTree

from common.view3d import LIGHT_POSITION, LIGHTING, bare_figure
from shapegen.geometry.clouds import check_cloud
from shapegen.geometry.drawing import hue
from shapegen.geometry.meshes import check_mesh
from shapegen.geometry.normals import principal_normals, thinned

# What a page needs at most of each shape: more is slow to turn and not seen.
MAX_POINTS = 8192
MAX_FACES = 30_000
# Light from two sides, since the signs of estimated normals mean nothing.
_LIGHT = np.array([-0.35, -0.62, 0.70])


def cloud_figure(points: np.ndarray, group: int = 0, normals: np.ndarray | None = None, height: int = 420) -> go.Figure:
    """A cloud in a bare scene, `height` pixels high; arguments as in `cloud_trace`."""
    return bare_figure([cloud_trace(points, group, normals)], height, turntable=True)


def mesh_figure(mesh: trimesh.Trimesh, group: int = 0, height: int = 420) -> go.Figure:
    """A mesh in a bare scene, `height` pixels high; arguments as in `mesh_trace`."""
    return bare_figure([mesh_trace(mesh, group)], height, turntable=True)


def cloud_trace(points: np.ndarray, group: int = 0, normals: np.ndarray | None = None) -> BaseTraceType:
    """Points shaded by their normals, in the colour of a class.

    Args:
        points: (P, 3), Z up, in any unit; of more than 8,192, so many are drawn at random.
        group: an integer such as the class; equal ones get the same colour.
        normals: (P, 3) unit vectors, signs arbitrary; estimated where None.

    Raises:
        InputError: fewer than 4 points, NaN among them, or all in one place.
    """
    points = check_cloud(points)
    # Drawn together, so that each point keeps its normal.
    both = points if normals is None else np.concatenate([points, normals], axis=1)
    both = thinned(both, MAX_POINTS)
    points = both[:, :3]
    directions = principal_normals(points) if normals is None else both[:, 3:]
    shade = 0.15 + 0.85 * np.abs(directions @ _LIGHT)
    # Estimated normals are noisy on thin walls: a point is lit as its neighbours are.
    _, near = KDTree(points).query(points, k=min(6, len(points)))
    shade = shade[near].mean(axis=1)
    x, y, z = _centred(points).T
    size = float(np.clip(160 / np.sqrt(len(points)), 1.6, 5.0))
    marker = {
        "size": size, "color": shade.astype(np.float32), "cmin": 0, "cmax": 1, "colorscale": _tones(group),
        "showscale": False, "line": {"width": 0},
    }  # fmt: skip
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, hoverinfo="skip")


def mesh_trace(mesh: trimesh.Trimesh, group: int = 0) -> BaseTraceType:
    """A lit surface in the colour of a class.

    Args:
        mesh: Z up, in any unit; of more than 30,000 faces, a coarser copy is shown.
        group: an integer such as the class; equal ones get the same colour.

    Raises:
        InputError: a mesh without faces or area, or with NaN.
    """
    check_mesh(mesh)
    vertices, faces = coarser(np.asarray(mesh.vertices), np.asarray(mesh.faces), MAX_FACES)
    x, y, z = _centred(vertices).T
    i, j, k = faces.astype(np.uint16 if len(vertices) < 2**16 else np.int32).T
    return go.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, color=_css(np.array(hue(group))), hoverinfo="skip", flatshading=True,
        lighting=LIGHTING, lightposition=LIGHT_POSITION,
    )  # fmt: skip


def coarser(vertices: np.ndarray, faces: np.ndarray, max_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 3) with at most `max_faces` faces: vertices of one cell of a grid become one.

    For the eye only: thin walls may touch. The mesh itself where it is small enough.
    """
    if len(faces) <= max_faces:
        return vertices, faces
    # A surface crosses about as many cells as it has faces in the end, half of that for each of its two triangles.
    area = float(trimesh.triangles.area(vertices[faces]).sum())
    cell = np.sqrt(2 * area / max_faces)
    while True:
        places = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
        _, index = np.unique(places, axis=0, return_inverse=True)
        index = index.reshape(-1)
        counts = np.bincount(index)
        merged = np.stack([np.bincount(index, weights=vertices[:, axis]) / counts for axis in range(3)], axis=1)
        kept = index[faces]
        kept = kept[(kept != np.roll(kept, 1, axis=1)).all(axis=1)]
        _, first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
        if len(first) <= max_faces:
            return merged, kept[np.sort(first)]
        cell *= 1.2


def _centred(points: np.ndarray) -> np.ndarray:
    """(P, 3) float32 around the middle of the box, where float32 keeps its digits."""
    return (points - (points.max(axis=0) + points.min(axis=0)) / 2).astype(np.float32)


def _tones(group: int) -> list[list[float | str]]:
    """From a dark through the plain to a light tone of a class's colour."""
    plain = np.array(hue(group))
    return [[0.0, _css(0.3 * plain)], [0.6, _css(plain)], [1.0, _css(0.4 * plain + 0.6)]]


def _css(colour: np.ndarray) -> str:
    red, green, blue = np.rint(255 * colour).astype(int).tolist()
    return f"rgb({red},{green},{blue})"
