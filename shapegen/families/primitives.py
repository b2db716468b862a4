"""Building blocks of the families: closed solids in metres, Z up, made and combined by manifold3d.

Every block overlaps its neighbours by a real amount; faces that only touch would leave edges of more than two faces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from manifold3d import CrossSection, Manifold, Mesh64, OpType
from scipy.interpolate import PchipInterpolator

SEGMENTS = 48
Point = tuple[float, float, float]
_ORIGIN = (0.0, 0.0, 0.0)


def box(size: Point, at: Point = _ORIGIN) -> Manifold:
    """A box of `size` (x, y, z) that stands on `at`, the middle of its lowest face."""
    return Manifold.cube(size).translate((at[0] - size[0] / 2, at[1] - size[1] / 2, at[2]))


def cylinder(
    radius: float, height: float, at: Point = _ORIGIN, *, top: float | None = None, segments: int = SEGMENTS
) -> Manifold:
    """An upright cylinder (or cone of `top` radius) that stands on `at`, the middle of its lowest face."""
    return Manifold.cylinder(height, radius, radius if top is None else top, segments).translate(at)


def rod(start: Point, end: Point, radius: float, end_radius: float | None = None, segments: int = 16) -> Manifold:
    """A straight round rod between two points, its radius running from `radius` to `end_radius`."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(b - a))
    x, y, z = (b - a) / length
    # Rotate +Z onto the rod: first by the polar angle about Y, then by the azimuth about Z.
    polar, azimuth = np.degrees(np.arccos(np.clip(z, -1, 1))), np.degrees(np.arctan2(y, x))
    upright = cylinder(radius, length, top=end_radius, segments=segments)
    return upright.rotate((0.0, polar, 0.0)).rotate((0.0, 0.0, azimuth)).translate(tuple(a))


def revolve(profile: np.ndarray | Sequence[tuple[float, float]], segments: int = SEGMENTS) -> Manifold:
    """The solid of revolution about Z of a closed polygon (K, 2) of (radius, z), counter-clockwise."""
    return CrossSection([np.asarray(profile, float)]).revolve(segments)


def smooth_profile(knots: Sequence[tuple[float, float]], samples: int = 24) -> np.ndarray:
    """(samples, 2) points (radius, z) on a curve without overshoot through `knots`, given with rising z."""
    radius, z = np.array(knots, float).T
    heights = np.linspace(z[0], z[-1], samples)
    return np.stack([PchipInterpolator(z, radius)(heights), heights], axis=1)


def hollow_of_revolution(outside: np.ndarray, wall: float, floor: float, segments: int = SEGMENTS) -> Manifold:
    """A vessel, open at the top.

    Args:
        outside: (K, 2) of (radius, z) from the foot to the lip, rising z.
        wall: thickness, measured along the radius.
        floor: thickness of the bottom.
        segments: around.
    """
    inside = outside[outside[:, 1] > outside[0, 1] + floor][::-1]
    radius = np.maximum(inside[:, 0] - wall, 0.25 * inside[:, 0])
    hollow = [*zip(radius, inside[:, 1], strict=True), (0.0, inside[-1, 1])]
    return revolve([(0.0, outside[0, 1]), *map(tuple, outside), *hollow], segments)


def prism(polygon: np.ndarray | Sequence[tuple[float, float]], height: float, z: float = 0.0) -> Manifold:
    """A polygon (K, 2) in the XY plane, counter-clockwise, pulled up from `z` by `height`."""
    return CrossSection([np.asarray(polygon, float)]).extrude(height).translate((0.0, 0.0, z))


def side_prism(polygon: np.ndarray | Sequence[tuple[float, float]], depth: float, y: float = 0.0) -> Manifold:
    """A polygon (K, 2) of (x, z), counter-clockwise as seen from -Y, of thickness `depth` about the plane at `y`."""
    return CrossSection([np.asarray(polygon, float)]).extrude(depth).rotate((90.0, 0.0, 0.0)).translate(
        (0.0, y + depth / 2, 0.0)
    )  # fmt: skip


def rounded_plate(width: float, depth: float, thickness: float, corner: float, at: Point = _ORIGIN) -> Manifold:
    """A lying plate with rounded corners of radius `corner` that stands on `at`."""
    corner = min(corner, 0.49 * width, 0.49 * depth)
    inner = CrossSection.square((width - 2 * corner, depth - 2 * corner), center=True)
    return inner.offset(corner, circular_segments=SEGMENTS // 2).extrude(thickness).translate(at)


def tube(path: np.ndarray, across: float, along: float | None = None, segments: int = 16) -> Manifold:
    """A solid of elliptic section swept along a path in the XZ plane.

    Args:
        path: (K, 3) points with one y; its bends must be wider than the section.
        across: half-width of the section along Y.
        along: half-width in the plane of the path; `across` where None.
        segments: around.
    """
    path = np.asarray(path, float)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    sideways = np.array([0.0, 1.0, 0.0])
    normal = np.cross(tangent, sideways)
    angle = 2 * np.pi * np.arange(segments) / segments
    ring = (
        np.cos(angle)[None, :, None] * normal[:, None, :] * (across if along is None else along)
        + np.sin(angle)[None, :, None] * sideways * across
    )
    vertices = (path[:, None, :] + ring).reshape(-1, 3)
    corner = np.arange(len(path) - 1)[:, None] * segments + np.arange(segments)
    beside = np.arange(len(path) - 1)[:, None] * segments + (np.arange(segments) + 1) % segments
    sides = np.concatenate(
        [
            np.stack([corner, beside + segments, beside], axis=-1).reshape(-1, 3),
            np.stack([corner, corner + segments, beside + segments], axis=-1).reshape(-1, 3),
        ]
    )
    first, last = len(vertices), len(vertices) + 1
    around, following = np.arange(segments), (np.arange(segments) + 1) % segments
    end = (len(path) - 1) * segments
    caps = np.concatenate(
        [
            np.stack([np.full(segments, first), around, following], axis=-1),
            np.stack([np.full(segments, last), following + end, around + end], axis=-1),
        ]
    )
    vertices = np.concatenate([vertices, path[[0, -1]]])
    return Manifold(Mesh64(vertices, np.concatenate([sides, caps]).astype(np.uint64)))


def arc(centre: tuple[float, float], radius: float, start: float, stop: float, count: int = 20) -> np.ndarray:
    """(count, 2) points on a circle, from the angle `start` to `stop` in radians."""
    angle = np.linspace(start, stop, count)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def union(*parts: Manifold) -> Manifold:
    """All parts in one."""
    return Manifold.batch_boolean(list(parts), OpType.Add)


def around(part: Manifold, count: int, start: float = 0.0) -> list[Manifold]:
    """`count` copies of a part, turned about Z in equal steps, the first by `start` degrees."""
    return [part.rotate((0.0, 0.0, start + 360.0 * k / count)) for k in range(count)]
