"""Exact labels of a solid, computed from its mesh: the values that rewards and conditions refer to.

A length carries its unit in the name (`height_m`, `volume_m3`); a bare name (`height`) is a length whose unit nobody
knows. Ratios have no unit. Z is up, -Y is the front, and the mass is spread evenly through the solid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from shapely import MultiPoint, Point, Polygon

from common.errors import InputError
from common.named import nearest
from shapegen.families.surface import sample_surface

# The foot of a solid is what lies below this share of its height.
_FOOT_SHARE = 0.005
# Of the symmetry error: points that find the triangles, points that are mirrored, triangles tried for each.
_DENSE, _QUERIES, _CANDIDATES = 4096, 512, 6
_SUFFIX = {"m": ("_m", "_m2", "_m3", "_m5"), "unitless": ("", "", "", "")}


@dataclass(frozen=True)
class Label:
    """One label.

    Attributes:
        name: what the user types.
        power: of the length in its unit (1 length, 2 area, 3 volume, 5 second moment, 0 a ratio or a count).
        description: its definition.
        needs_solid: only a closed mesh has it.
        suffix: the unit in the column's name where that is not a power of the metre.
    """

    name: str
    power: int
    description: str
    needs_solid: bool = True
    suffix: str = ""

    def column(self, unit: str = "m") -> str:
        """The property column; `unit` is `m` or `unitless`."""
        if self.power == 0:
            return self.name + self.suffix
        return self.name + _SUFFIX[unit][{1: 0, 2: 1, 3: 2, 5: 3}[self.power]]


LABELS: Mapping[str, Label] = {
    label.name: label
    for label in (
        Label("volume", 3, "volume of the material"),
        Label("area", 2, "area of the whole surface, inside walls included", needs_solid=False),
        Label("width", 1, "extent along X", needs_solid=False),
        Label("depth", 1, "extent along Y", needs_solid=False),
        Label("height", 1, "extent along Z", needs_solid=False),
        Label("aspect_ratio", 0, "height / the larger of width and depth", needs_solid=False),
        Label("footprint_ratio", 0, "the larger of width and depth / the smaller", needs_solid=False),
        Label("fill", 0, "volume / volume of the box of the extents"),
        Label("centre_height", 1, "height of the centre of mass above the lowest point"),
        Label("inertia_small", 5, "smallest principal moment of inertia about the centre of mass, at density 1"),
        Label("inertia_middle", 5, "middle principal moment of inertia"),
        Label("inertia_large", 5, "largest principal moment of inertia"),
        Label("elongation", 0, "sqrt(l1 / l2) of the eigenvalues l1 >= l2 >= l3 of the solid's covariance; 1 or more"),
        Label("flatness", 0, "sqrt(l2 / l3) of the same; 1 or more"),
        Label(
            "symmetry_error",
            0,
            "distance between surface and mirror image (left-right) / diagonal of the box",
            needs_solid=False,
        ),
        Label("genus", 0, "number of handles (through holes), from the Euler characteristic"),
        Label("stability_margin", 1, "distance of the centre of mass, seen from above, inside the edge of the foot"),
        Label("tip_angle", 0, "tilt that topples it: atan(stability margin / height of the centre)", suffix="_deg"),
    )
}


def find_label(name: str) -> Label:
    """The label called `name` (or whose column is `name`); an `InputError` names the nearest otherwise."""
    for label in LABELS.values():
        if name.lower() in (label.name, label.column("m")):
            return label
    known = [*LABELS, *(label.column("m") for label in LABELS.values())]
    raise InputError(f"unknown shape property '{name}'{nearest(name.lower(), known)}; known: {', '.join(LABELS)}")


def columns(unit: str = "m") -> tuple[str, ...]:
    """The columns of all labels, in the order of `LABELS`; `unit` is `m` or `unitless`."""
    return tuple(label.column(unit) for label in LABELS.values())


def shape_labels(mesh: trimesh.Trimesh, unit: str = "m", foot: float = 0.0) -> dict[str, float]:
    """All labels of a mesh, column -> value.

    What only a closed mesh has is NaN where the mesh is open, inside out, or encloses nothing.

    Args:
        mesh: vertices in metres, or in an unknown unit.
        unit: `m` or `unitless`.
        foot: see `stability_margin`.
    """
    width, depth, height = np.ptp(mesh.vertices, axis=0)
    found = {
        "area": mesh.area,
        "width": width,
        "depth": depth,
        "height": height,
        "aspect_ratio": _ratio(height, max(width, depth)),
        "footprint_ratio": _ratio(max(width, depth), min(width, depth)),
        "symmetry_error": symmetry_error(mesh),
    }
    if mesh.is_watertight and mesh.is_winding_consistent:
        found |= _solid_labels(mesh, (width, depth, height), foot)
    return {label.column(unit): float(found.get(label.name, np.nan)) for label in LABELS.values()}


def _solid_labels(mesh: trimesh.Trimesh, extents: tuple[float, float, float], foot: float) -> dict[str, float]:
    volume, centre, inertia = mass_properties(mesh.triangles)
    if not volume > 0:
        return {}
    moments, _ = np.linalg.eigh(inertia)
    # The covariance has the axes of the inertia tensor: C = (trace(I) / 2 - I) / V.
    spread = np.maximum(np.sort(moments.sum() / 2 - moments)[::-1], 1e-300)
    floor = mesh.vertices[:, 2].min()
    margin = stability_margin(mesh.vertices, centre, foot)
    rise = centre[2] - floor
    return {
        "volume": volume,
        "fill": _ratio(volume, float(np.prod(extents))),
        "centre_height": rise,
        "inertia_small": moments[0],
        "inertia_middle": moments[1],
        "inertia_large": moments[2],
        "elongation": np.sqrt(spread[0] / spread[1]),
        "flatness": np.sqrt(spread[1] / spread[2]),
        "genus": genus(mesh),
        "stability_margin": margin,
        "tip_angle": np.degrees(np.arctan2(margin, rise)),
    }


def mass_properties(triangles: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Volume, centre of mass (3,) and inertia tensor (3, 3) about it, at density 1, of a closed surface.

    Centre and inertia are NaN where the volume is not positive (the surface is inside out, or flat). Sums over the
    tetrahedra between the triangles (T, 3, 3) and a point near the surface (the divergence theorem).
    """
    origin = triangles.reshape(-1, 3).mean(axis=0)
    corners = triangles - origin
    six_volumes = np.einsum("ti,ti->t", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    volume = float(six_volumes.sum() / 6)
    total = corners.sum(axis=1)
    if volume <= 0:  # inside out, or flat
        return volume, np.full(3, np.nan), np.full((3, 3), np.nan)
    centre = six_volumes @ total / (24 * volume)
    # Integral of x x^T over a tetrahedron with one corner at 0: det / 120 (sum of a a^T + s s^T), s = sum of corners.
    second = np.einsum("t,tki,tkj->ij", six_volumes, corners, corners)
    second += np.einsum("t,ti,tj->ij", six_volumes, total, total)
    second = second / 120 - volume * np.outer(centre, centre)
    return volume, centre + origin, np.trace(second) * np.eye(3) - second


def genus(mesh: trimesh.Trimesh) -> int:
    """Handles of all components of a closed mesh: sum of (2 - chi) / 2, chi = V - E + F over vertices that faces use.

    Every edge of a closed mesh has two faces, so E = 3 F / 2.
    """
    used, corners = np.unique(mesh.faces, return_inverse=True)
    corners = corners.reshape(-1, 3)
    ones = np.ones(2 * len(corners), dtype=bool)
    edges = (ones, (np.r_[corners[:, 0], corners[:, 1]], np.r_[corners[:, 1], corners[:, 2]]))
    components, _ = connected_components(coo_matrix(edges, shape=(len(used), len(used))), directed=False)
    chi = len(used) - len(corners) // 2
    return int(components - chi // 2)


def symmetry_error(mesh: trimesh.Trimesh) -> float:
    """Mean distance of the mirrored surface to the surface itself / diagonal of the box of the extents.

    The mirror plane is x = centroid of the surface (left and right). 0 is symmetric; a shape that leans to one side
    has about 0.05. The mean runs over 512 points spread by area, the distances are to the triangles near by: a
    symmetric solid has 0 up to rounding, and the rest is known to about 5 %.
    """
    points, faces = sample_surface(mesh, _DENSE, np.random.default_rng(0))
    mirrored = points[:_QUERIES] * [-1, 1, 1] + [2 * mesh.triangles_center[:, 0] @ mesh.area_faces / mesh.area, 0, 0]
    # Large triangles are found by the points on them, small ones by their centres.
    _, near = KDTree(np.concatenate([points, mesh.triangles_center])).query(mirrored, k=_CANDIDATES)
    candidates = mesh.triangles[np.concatenate([faces, np.arange(len(mesh.faces))])[near.ravel()]]
    repeated = np.repeat(mirrored, _CANDIDATES, axis=0)
    closest = trimesh.triangles.closest_point(candidates, repeated)
    distances = np.linalg.norm(closest - repeated, axis=1).reshape(-1, _CANDIDATES).min(axis=1)
    return float(distances.mean() / np.linalg.norm(np.ptp(mesh.vertices, axis=0)))


def stability_margin(vertices: np.ndarray, centre: np.ndarray, foot: float = 0.0) -> float:
    """How far the centre of mass lies inside the foot, both seen from above; negative where it is outside.

    What it stands on is the convex hull of the vertices (V, 3) that lie within 0.5 % of the height above the lowest
    one, or within the length `foot` where that is more: meshes reconstructed from points have uneven undersides. A hull
    that is a point or a line has no inside: the margin is then zero at best.
    """
    heights = vertices[:, 2] - vertices[:, 2].min()
    hull = MultiPoint(vertices[heights <= max(_FOOT_SHARE * heights.max(), foot), :2]).convex_hull
    point = Point(centre[:2])
    if isinstance(hull, Polygon):
        distance = hull.exterior.distance(point)
        return float(distance if hull.contains(point) else -distance)
    return -float(hull.distance(point))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")
