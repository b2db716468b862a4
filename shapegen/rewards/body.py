"""Exact values of meshes, for worker processes, one function each. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import trimesh

from common.errors import InputError
from common.workers import Failure
from shapegen.families.labels import LABELS, shape_labels
from shapegen.geometry.drop import drop
from shapegen.geometry.meshes import check_mesh

# A face hangs over where its normal is within 45 degrees of straight down and it is no part of the floor: what lies
# below this share of the height.
OVERHANG_COSINE = math.cos(math.radians(45))
FLOOR_SHARE = 0.005
DROP_STABLE, DROP_TILT = "drop_stable", "drop_tilt_deg"


@dataclass(frozen=True)
class Body:
    """A mesh, Z up.

    Attributes:
        mesh: in metres, or in an unknown unit.
        foot: what lies so high above the lowest point stands on the floor (`Reconstruction.foot`); 0 for a mesh of its
            own.
    """

    mesh: trimesh.Trimesh
    foot: float = 0.0

    @classmethod
    def of_arrays(cls, vertices: np.ndarray, faces: np.ndarray, foot: float = 0.0) -> Body:
        """From vertices (V, 3) and faces (F, 3)."""
        return cls(trimesh.Trimesh(vertices, faces, process=False), foot)

    @cached_property
    def labels(self) -> dict[str, float]:
        """The values of all labels by their names; NaN where the mesh has none."""
        values = shape_labels(self.mesh, "unitless", self.foot)
        return {label.name: values[label.column("unitless")] for label in LABELS.values()}


def components(body: Body) -> float:
    """Number of separate parts. In a closed mesh a hollow's inner surface is no part; in an open one it counts."""
    labels = trimesh.graph.connected_component_labels(body.mesh.face_adjacency, node_count=len(body.mesh.faces))
    if not (body.mesh.is_watertight and body.mesh.is_winding_consistent):
        return float(labels.max() + 1)
    corners = body.mesh.triangles - body.mesh.vertices.mean(axis=0)
    pieces = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return float((np.bincount(labels, weights=pieces) > 0).sum())


def watertight(body: Body) -> float:
    """1 if every edge has exactly two faces, else 0."""
    return float(body.mesh.is_watertight)


def overhang_share(body: Body) -> float:
    """Share of the area that looks down within 45 degrees of the vertical and does not lie on the floor."""
    floor, height = body.mesh.vertices[:, 2].min(), float(np.ptp(body.mesh.vertices[:, 2]))
    above = body.mesh.triangles[:, :, 2].mean(axis=1) > floor + FLOOR_SHARE * height
    hanging = above & (body.mesh.face_normals[:, 2] < -OVERHANG_COSINE)
    return float(body.mesh.area_faces[hanging].sum() / body.mesh.area)


def _label(name: str) -> Callable[[Body], float | Failure]:
    def value(body: Body) -> float | Failure:
        found = body.labels[name]
        if np.isnan(found) and LABELS[name].needs_solid:
            return Failure("not closed", "the mesh is open, inside out, or encloses nothing")
        return found

    return value


FUNCTIONS: Mapping[str, Callable[[Body], float | Failure]] = {
    **{name: _label(name) for name in LABELS},
    "components": components,
    "watertight": watertight,
    "overhang_share": overhang_share,
}


def dropped(body: Body) -> dict[str, float] | Failure:
    """`DROP_STABLE` and `DROP_TILT` of a drop in the physics engine."""
    try:
        check_mesh(body.mesh)
        result = drop(body.mesh, foot=body.foot)
    except InputError as error:
        return Failure("cannot be dropped", str(error))
    return {DROP_STABLE: float(result.stable), DROP_TILT: result.tilt_deg}
