"""One mesh file -> points on its surface and its labels. Runs in worker processes, within limits."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from common.errors import InputError
from shapegen.data.records import UP_AXES, Sample, points_problem
from shapegen.data.shapes import METRES, UNITLESS
from shapegen.data.streams import MAX_FILE_BYTES, read_bytes
from shapegen.families.labels import shape_labels
from shapegen.families.surface import sample_with_normals

MESHES = (".obj", ".ply", ".stl", ".off", ".glb")
MAX_FACES = 5_000_000
# Address space of a worker: what a file of the largest size takes with room to spare.
MAX_MEMORY_BYTES = 12 << 30


@dataclass(frozen=True)
class MeshFile:
    """One file to read: where it is, what to call it, and what is known of it."""

    path: str
    name: str
    class_name: str
    part: str = ""


@dataclass(frozen=True)
class MeshReader:
    """Reads mesh files in a worker.

    Attributes:
        points: points to put on each surface; a file that holds a cloud instead keeps up to as many of its own.
        unit: of the resulting set (`m`, `cm`, `mm`, `unitless`): files that do not say theirs are in this one.
        up: the axis that is up in files that do not say it, a key of `records.UP_AXES`.
        seed: of the points.
        max_bytes: larger files are refused.
        max_memory: bytes of address space that the worker may take.
    """

    points: int
    unit: str = UNITLESS
    up: str = "z"
    seed: int = 0
    max_bytes: int = MAX_FILE_BYTES
    max_memory: int = MAX_MEMORY_BYTES

    def prepare(self) -> None:
        """Limit this process's memory: a file of a few bytes can ask for all there is."""
        # trimesh reports harmless oddities of files as warnings, one line each.
        logging.getLogger("trimesh").setLevel(logging.ERROR)
        limit_memory(self.max_memory)

    def __call__(self, file: MeshFile) -> Sample:
        """The sample of one file.

        Raises:
            InputError: why it cannot be used. Anything else that is raised is the parser's, and the caller counts it.
        """
        path = Path(file.path)
        suffix = path.suffix.lower()
        content = read_bytes(path, suffix, self.max_bytes)
        group = hashlib.sha256(content).hexdigest()[:16]
        mesh = parse_mesh(content, suffix)
        del content
        turn = UP_AXES["y" if suffix == ".glb" else self.up]
        factor = 1.0
        if suffix == ".glb" and self.unit in METRES:
            factor = 1 / METRES[self.unit]
        rng = np.random.default_rng([self.seed, int(group, 16)])
        sample = Sample(file.name, file.class_name, np.empty((0, 3)), group=group, part=file.part)
        if isinstance(mesh, np.ndarray):
            points = (mesh @ turn.T.astype(float)) * factor
            problem = points_problem(points)
            if problem is not None:
                raise InputError(problem)
            return replace(sample, points=rng.permutation(points)[: self.points].astype(np.float32))
        mesh.vertices = (mesh.vertices @ turn.T.astype(float)) * factor
        return sample_mesh(mesh, sample, self.points, self.unit, rng)


def limit_memory(max_bytes: int) -> None:
    """Let this process allocate no more than `max_bytes` of address space, where the system can see to that."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes if hard < 0 else min(max_bytes, hard), hard))


def parse_mesh(content: bytes, suffix: str) -> trimesh.Trimesh | np.ndarray:
    """The one mesh of a file (its parts together, vertices merged), or the points (K, 3) of a cloud.

    No other file is opened: material, texture and buffer references lead nowhere.

    Args:
        content: of the file.
        suffix: one of `MESHES`.

    Raises:
        InputError: nothing in it, more than `MAX_FACES` faces, or faces that name vertices which don't exist.
    """
    scene: Any = trimesh.load_scene(io.BytesIO(content), file_type=suffix[1:], skip_materials=True, process=False)
    geometries = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
    total = sum(len(getattr(geometry, "faces", ())) for geometry in geometries)
    # A file may name one part a million times: counted before anything is copied.
    if total > MAX_FACES or sum(len(geometry.vertices) for geometry in geometries) > 3 * MAX_FACES:
        raise InputError(f"has {total} faces, more than the limit of {MAX_FACES}; simplify it")
    if total == 0:
        clouds = [np.asarray(g.vertices, float) for g in geometries if isinstance(g, trimesh.PointCloud)]
        if clouds and suffix == ".ply":
            return np.concatenate(clouds)
        raise InputError("has no faces" + ("; save a point cloud as .npy or .ply" if clouds else ""))
    for geometry in geometries:
        faces = getattr(geometry, "faces", np.empty((0, 3), int))
        if len(faces) and not 0 <= faces.min() <= faces.max() < len(geometry.vertices):
            raise InputError("a face names a vertex that does not exist")
    mesh = scene.to_mesh()
    mesh = trimesh.Trimesh(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces), process=False)
    mesh.remove_unreferenced_vertices()
    return mesh


def sample_mesh(mesh: trimesh.Trimesh, sample: Sample, points: int, unit: str, rng: np.random.Generator) -> Sample:
    """`sample` with points on the mesh, its normals, labels and notes.

    Args:
        mesh: Z up, in `unit`; changed by this (vertices merged, faces of two corners dropped).
        sample: what is known already.
        points: points to put on it.
        unit: labels are given in metres where this is a length.
        rng: where the points come from.

    Raises:
        InputError: coordinates that are no numbers, or no area.
    """
    problem = _vertices_problem(mesh.vertices)
    if problem is not None:
        raise InputError(problem)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces((mesh.faces != np.roll(mesh.faces, 1, axis=1)).all(axis=1))
    # Relative to its size, so that a part in kilometres is as good as one in millimetres.
    if len(mesh.faces) == 0 or mesh.area <= 1e-12 * float(np.ptp(mesh.vertices, axis=0).max()) ** 2:
        raise InputError("has no area: all of its faces are lines or points")
    notes = []
    if not mesh.is_watertight:
        notes.append("meshes are not watertight: sampled, but without volume and what follows from it")
    elif not mesh.is_winding_consistent:
        notes.append("meshes have faces of both orientations: their normals and volumes mean nothing")
    elif mesh.volume < 0:
        mesh.invert()
        notes.append("meshes were inside out: turned")
    found, normals = sample_with_normals(mesh, points, rng)
    metric = unit in METRES
    scaled = mesh if not metric or unit == "m" else mesh.copy().apply_scale(METRES[unit])
    labels = shape_labels(scaled, "m" if metric else UNITLESS)
    return replace(sample, points=found, normals=normals, properties=labels, notes=notes)


def _vertices_problem(vertices: np.ndarray) -> str | None:
    if not len(vertices):
        return "has no faces"
    # Points of a surface repeat, so that a triangle is as good as a cloud.
    return points_problem(np.resize(vertices, (max(len(vertices), 16), 3)))
