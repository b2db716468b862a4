"""Meshes for printing and scenes: hole report, repair, and files of absolute size that are opened again after writing.

Units in files: GLB is in metres with Y up, as the format prescribes. STL, PLY and OBJ have no unit: they are in
millimetres with Z up, as slicers take them.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from trimesh.graph import connected_component_labels

from common.atomic import atomic_writer
from common.errors import InputError

FORMATS = ("glb", "stl", "ply", "obj")
UP_AXES = ("x", "y", "z")
_MAX_FACES = 20_000_000
# Numbers in files are float32: so many times its own size away from the origin, a mesh keeps a ten-thousandth of it.
_MAX_REACH = 1000.0


@dataclass(frozen=True)
class MeshReport:
    """What is wrong with a mesh, and what is not.

    Attributes:
        vertices, faces: counts.
        watertight: every edge has exactly two faces.
        winding_consistent: neighbouring faces agree on which side is outside.
        components: pieces that share no vertex.
        holes: number of boundary loops.
        hole_edges: edges of each loop, longest loop first.
        hole_lengths: length of each loop in the unit of the mesh, in the same order.
        non_manifold_edges: edges with more than two faces.
        degenerate_faces: faces without area.
        extents: (x, y, z) size in the unit of the mesh.
        area: in the square of the unit.
        volume: in the cube of the unit; None where the mesh isn't closed and consistent.
        euler_number: vertices - edges + faces.
    """

    vertices: int
    faces: int
    watertight: bool
    winding_consistent: bool
    components: int
    holes: int
    hole_edges: tuple[int, ...]
    hole_lengths: tuple[float, ...]
    non_manifold_edges: int
    degenerate_faces: int
    extents: tuple[float, float, float]
    area: float
    volume: float | None
    euler_number: int

    def as_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        state = "watertight" if self.watertight else f"NOT watertight: {self.holes} holes"
        if self.holes:
            state += f" of {', '.join(map(str, self.hole_edges[:5]))}{', ...' if self.holes > 5 else ''} edges"
        if self.non_manifold_edges:
            state += f", {self.non_manifold_edges} edges of more than two faces"
        if not self.winding_consistent:
            state += ", faces disagree on the outside"
        parts = f"{self.components} part{'' if self.components == 1 else 's'}"
        return f"{self.faces} faces, {parts}, {state}"


def inspect(mesh: trimesh.Trimesh) -> MeshReport:
    """Report on a mesh as it is; nothing is mended.

    Raises:
        InputError: a mesh without faces, or with NaN or infinite vertices.
    """
    check_mesh(mesh)
    edges, counts = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    boundary = edges[counts == 1]
    lengths = np.linalg.norm(mesh.vertices[boundary[:, 0]] - mesh.vertices[boundary[:, 1]], axis=1)
    holes, label = _groups(boundary, len(mesh.vertices))
    sizes = np.bincount(label, minlength=holes)
    loop_lengths = np.bincount(label, weights=lengths, minlength=holes)
    order = np.argsort(-loop_lengths, kind="stable")
    width, depth, height = np.ptp(mesh.vertices[np.unique(mesh.faces)], axis=0)
    watertight, consistent = bool(mesh.is_watertight), bool(mesh.is_winding_consistent)
    return MeshReport(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        watertight=watertight,
        winding_consistent=consistent,
        components=_groups(edges, len(mesh.vertices))[0],
        holes=holes,
        hole_edges=tuple(int(sizes[k]) for k in order),
        hole_lengths=tuple(float(loop_lengths[k]) for k in order),
        non_manifold_edges=int((counts > 2).sum()),
        degenerate_faces=int((mesh.area_faces <= 0).sum()),
        extents=(float(width), float(depth), float(height)),
        area=float(mesh.area),
        volume=float(mesh.volume) if watertight and consistent else None,
        euler_number=int(len(np.unique(mesh.faces)) - len(edges) + len(mesh.faces)),
    )


def check_mesh(mesh: trimesh.Trimesh) -> None:
    """Raise an InputError for a mesh without faces or area, with broken numbers, or beyond 20 million faces."""
    if not len(mesh.faces):
        raise InputError("the mesh has no faces; a point cloud must be reconstructed first")
    if len(mesh.faces) > _MAX_FACES:
        raise InputError(f"the mesh has {len(mesh.faces)} faces, at most {_MAX_FACES} are taken; simplify it first")
    if not np.isfinite(mesh.vertices).all():
        raise InputError("the mesh has NaN or infinite vertices; remove them first")
    if not mesh.area > 0:
        raise InputError("the mesh has no area; expected triangles with three distinct corners")


def repair(mesh: trimesh.Trimesh, max_hole_edges: int | None = None) -> trimesh.Trimesh:
    """A mended copy: merged vertices, no degenerate or double faces, holes closed, normals outward.

    A hole is closed by a fan around the middle of its loop, which is right for small and for flat holes. What can't be
    mended (edges of more than two faces) stays, and `inspect` tells.

    Args:
        mesh: left as it is.
        max_hole_edges: loops with more edges stay open (an opening may be meant); all are closed where None.
    """
    check_mesh(mesh)
    mended = trimesh.Trimesh(mesh.vertices.copy(), mesh.faces.copy(), process=True)
    mended.merge_vertices(digits_vertex=_merge_digits(mended))
    mended.update_faces(mended.nondegenerate_faces())
    mended.update_faces(mended.unique_faces())
    mended.remove_unreferenced_vertices()
    check_mesh(mended)
    trimesh.repair.fix_winding(mended)
    mended = _close_holes(mended, max_hole_edges)
    return _turned_outward(mended)


def _turned_outward(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh with those of its closed bodies turned that are inside out; what encloses a hollow stays so."""
    label = connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    # From near by: far from the origin the pieces of a small body's volume cancel.
    corners = mesh.triangles - mesh.vertices.mean(axis=0)
    volumes = np.bincount(label, np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))
    if (volumes >= 0).all():
        return mesh
    bodies = np.split(corners[label.argsort(kind="stable")], np.bincount(label).cumsum()[:-1])
    low, high = (np.stack([edge(body, axis=(0, 1)) for body in bodies]) for edge in (np.min, np.max))
    turned = np.zeros(len(bodies), bool)
    for k in np.flatnonzero(volumes < 0):
        around = (volumes > 0) & (low < low[k]).all(axis=1) & (high > high[k]).all(axis=1)
        turned[k] = not any(_encloses(bodies[other], bodies[k][0, 0]) for other in np.flatnonzero(around))
    faces = np.where(turned[label][:, None], mesh.faces[:, ::-1], mesh.faces)
    return trimesh.Trimesh(mesh.vertices, faces, process=False)


def _encloses(surface: np.ndarray, point: np.ndarray) -> bool:
    """Whether a closed surface (F, 3, 3) goes around a point (3,)."""
    # Its solid angle as seen from there (van Oosterom and Strackee, 1983): 4 pi from within.
    a, b, c = (surface - point).transpose(1, 0, 2)
    la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
    numerator = np.einsum("fi,fi->f", a, np.cross(b, c))
    dot_ab, dot_bc, dot_ca = (np.einsum("fi,fi->f", *pair) for pair in ((a, b), (b, c), (c, a)))
    angles = 2 * np.arctan2(numerator, la * lb * lc + dot_ab * lc + dot_bc * la + dot_ca * lb)
    return bool(abs(angles.sum()) > 2 * np.pi)


def export_mesh(
    mesh: trimesh.Trimesh, path: str | Path, *, scale_mm: float | None = None, unit_mm: float = 1000.0, up: str = "z"
) -> MeshReport:
    """Write a mesh, open the file again, and report on what was read back.

    Args:
        mesh: to write; left as it is.
        path: its suffix, one of `FORMATS`, chooses the format. The file appears whole or not at all.
        scale_mm: the longest side in millimetres, where the size is to be chosen.
        unit_mm: millimetres in one unit of the mesh, where `scale_mm` is None: 1000 for metres.
        up: which axis of the mesh points up.

    Returns:
        The report on the file's mesh, in the file's unit (GLB metres, else millimetres).

    Raises:
        InputError: an empty or broken mesh, one far from the origin, an unknown format, or a size that isn't positive.
        RuntimeError: the file that was written doesn't hold the mesh.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise InputError(f"cannot write a mesh as '{path.suffix}'; expected {', '.join(FORMATS)}")
    check_mesh(mesh)
    factor = unit_mm if scale_mm is None else scale_mm / float(mesh.extents.max())
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"got the size {unit_mm if scale_mm is None else scale_mm} mm, expected a positive number")
    vertices = in_file_frame(upright(mesh.vertices, up) * factor, kind)
    reach = float(np.abs(vertices).max() / np.ptp(vertices, axis=0).max())
    if reach > _MAX_REACH:
        raise InputError(f"the mesh lies {reach:.0e} times its own size away from the origin; move it there")
    written = trimesh.Trimesh(vertices, mesh.faces, process=False)
    with atomic_writer(path, "wb") as file:
        data = written.export(file_type=kind)
        file.write(data.encode() if isinstance(data, str) else data)
    return _read_back(path, kind, written)


def in_file_frame(points_mm: np.ndarray, kind: str) -> np.ndarray:
    """Points (P, 3) in millimetres, Z up, in the unit and axes of a format: metres, Y up for `glb`; else unchanged."""
    if kind != "glb":
        return points_mm
    # Z up to Y up: (x, y, z) -> (x, z, -y).
    return points_mm[:, [0, 2, 1]] * [0.001, 0.001, -0.001]


def load_exported(path: str | Path) -> trimesh.Trimesh:
    """The single mesh in a file of one of `FORMATS`, in the file's unit, doubled vertices merged."""
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    loaded = trimesh.load_mesh(io.BytesIO(path.read_bytes()), file_type=kind, process=True)
    if not isinstance(loaded, trimesh.Trimesh):
        raise InputError(f"{path} holds no single mesh")
    loaded.merge_vertices(merge_norm=True, merge_tex=True)
    return loaded


def upright(points: np.ndarray, up: str) -> np.ndarray:
    """Points (P, 3) turned (not mirrored) so that the axis `up` becomes Z; unchanged for "z".

    Raises:
        InputError: `up` isn't x, y or z.
    """
    if up not in UP_AXES:
        raise InputError(f"got the up axis '{up}', expected one of {', '.join(UP_AXES)}")
    points = np.asarray(points)
    if up == "y":
        return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)
    if up == "x":
        return np.stack([-points[..., 2], points[..., 1], points[..., 0]], axis=-1)
    return points


def _read_back(path: Path, kind: str, written: trimesh.Trimesh) -> MeshReport:
    found = load_exported(path)
    if len(found.faces) != len(written.faces):
        raise RuntimeError(f"{path}: wrote {len(written.faces)} faces as {kind}, read back {len(found.faces)}")
    if not np.allclose(found.bounds, written.bounds, rtol=0, atol=1e-4 * written.extents.max()):
        raise RuntimeError(f"{path}: wrote extents {written.extents}, read back {found.extents}")
    return inspect(found)


def _groups(edges: np.ndarray, vertices: int) -> tuple[int, np.ndarray]:
    """Number of connected groups of edges (E, 2), and each edge's group (E,)."""
    if not len(edges):
        return 0, np.empty(0, np.int64)
    links = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(vertices, vertices))
    _, label = connected_components(links, directed=False)
    groups, of_edge = np.unique(label[edges[:, 0]], return_inverse=True)
    return len(groups), of_edge.reshape(-1)


def _merge_digits(mesh: trimesh.Trimesh) -> int:
    """Decimals to which vertices must agree to be one: a hundred-thousandth of the longest side."""
    return int(np.clip(5 - np.floor(np.log10(mesh.extents.max())), 0, 15))


def _close_holes(mesh: trimesh.Trimesh, max_edges: int | None) -> trimesh.Trimesh:
    # Directed edges of the faces that have no partner; the fan runs against them.
    directed = mesh.edges
    _, inverse, counts = np.unique(mesh.edges_sorted, axis=0, return_inverse=True, return_counts=True)
    open_edges = directed[counts[inverse.reshape(-1)] == 1]
    holes, label = _groups(open_edges, len(mesh.vertices))
    sizes = np.bincount(label, minlength=holes)
    closed = np.flatnonzero(sizes >= 3) if max_edges is None else np.flatnonzero((sizes >= 3) & (sizes <= max_edges))
    if not len(closed):
        return mesh
    number = np.full(holes, -1)
    number[closed] = np.arange(len(closed))
    chosen = number[label] >= 0
    fan_edges, fan = open_edges[chosen], number[label[chosen]]
    middles = np.stack(
        [
            np.bincount(fan, weights=mesh.vertices[fan_edges].mean(axis=1)[:, axis]) / np.bincount(fan)
            for axis in range(3)
        ],
        axis=1,
    )
    faces = np.stack([fan_edges[:, 1], fan_edges[:, 0], len(mesh.vertices) + fan], axis=1)
    return trimesh.Trimesh(np.concatenate([mesh.vertices, middles]), np.concatenate([mesh.faces, faces]), process=False)
