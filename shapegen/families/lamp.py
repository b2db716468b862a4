"""Lamps: a shade on a stand, or a desk lamp with an arm that reaches to +X."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Parameter, Range
from shapegen.families.primitives import around, cylinder, revolve, rod, smooth_profile, union

PARAMETERS: dict[str, Parameter] = {
    "height_m": Range(0.2, 0.34, "table to the top of the shade (of the arm's joint)"),
    "base_radius_m": Range(0.04, 0.065, "radius of the base"),
    "base_height_m": Range(0.01, 0.022, "height of the base"),
    "stem_radius_m": Range(0.0045, 0.008, "radius of stem and arm"),
    "shade_radius_m": Range(0.055, 0.085, "lower radius of the shade"),
    "shade_top": Range(0.4, 0.9, "upper radius of the shade, of the lower", ""),
    "shade_height_share": Range(0.3, 0.45, "height of the shade, of the lamp's", ""),
    "shade_wall_m": Range(0.0025, 0.004, "thickness of the shade"),
    "arm_deg": Range(20.0, 50.0, "how far the desk lamp's lower arm leans back", "deg"),
    "style": Choice(("shade", "shade", "desk"), "kind of lamp"),
    "body": Choice(("stem", "turned"), "a plain stem, or a turned body"),
}


def build(style: str, **parameters: float | str) -> Manifold:
    """The lamp of the given style; either ignores what only the other has."""
    return (_desk_lamp if style == "desk" else _shade_lamp)(**parameters)  # type: ignore[arg-type]


def _base(radius: float, height: float) -> Manifold:
    return revolve([(0.0, 0.0), (radius, 0.0), (radius, 0.5 * height), (0.85 * radius, height), (0.0, height)])


def _shade_lamp(
    height_m: float,
    base_radius_m: float,
    base_height_m: float,
    stem_radius_m: float,
    shade_radius_m: float,
    shade_top: float,
    shade_height_share: float,
    shade_wall_m: float,
    body: str,
    **_: float,
) -> Manifold:
    tall = shade_height_share * height_m
    foot = height_m - tall
    top = shade_top * shade_radius_m
    slope = (shade_radius_m - top) / tall
    shell = cylinder(shade_radius_m, tall, (0.0, 0.0, foot), top=top)
    # The hollow has the same slope and goes past both ends.
    past = 0.002
    shell -= cylinder(
        shade_radius_m - shade_wall_m + slope * past, tall + 2 * past, (0.0, 0.0, foot - past),
        top=top - shade_wall_m - slope * past,
    )  # fmt: skip
    carrier = foot + 0.75 * tall
    reach = shade_radius_m - slope * 0.75 * tall - 0.5 * shade_wall_m
    spider = around(rod((0.0, 0.0, carrier), (reach, 0.0, carrier), 0.45 * stem_radius_m, segments=10), 3, 90.0)
    parts = [_base(base_radius_m, base_height_m), cylinder(stem_radius_m, carrier + 0.004), shell, *spider]
    if body == "turned":
        knots = [(0.5 * base_radius_m, 0.5 * base_height_m), (0.75 * base_radius_m, 0.35 * foot),
                 (0.3 * base_radius_m, 0.75 * foot), (1.2 * stem_radius_m, 0.92 * foot)]  # fmt: skip
        curve = smooth_profile(knots, 24)
        parts.append(revolve([*map(tuple, curve), (0.0, curve[-1, 1]), (0.0, curve[0, 1])]))
    return union(*parts)


def _desk_lamp(
    height_m: float,
    base_radius_m: float,
    base_height_m: float,
    stem_radius_m: float,
    shade_radius_m: float,
    shade_top: float,
    shade_wall_m: float,
    arm_deg: float,
    **_: float | str,
) -> Manifold:
    lean = np.radians(arm_deg)
    reach = 0.5 * height_m * np.tan(lean)
    elbow = np.array([-min(reach, 0.1), 0.0, 0.95 * height_m])
    head = np.array([0.55 * height_m, 0.0, 0.78 * height_m])
    start = (0.0, 0.0, 0.5 * base_height_m)
    parts = [
        _base(1.15 * base_radius_m, base_height_m),
        rod(start, tuple(elbow), stem_radius_m),
        rod(tuple(elbow), tuple(head), stem_radius_m),
        Manifold.sphere(1.9 * stem_radius_m, 20).translate(tuple(elbow)),
    ]
    radius, tall = 0.8 * shade_radius_m, 0.95 * shade_radius_m
    neck = 0.45 * shade_top * radius
    wall = 1.3 * shade_wall_m
    hood = revolve([(0.0, -tall), (radius, -tall), (neck, 0.0), (0.0, 0.0)])
    hood += cylinder(neck, 0.35 * tall, (0.0, 0.0, -0.02 * tall))
    hollow = [
        (0.0, -tall - wall),
        (radius, -tall - wall),
        (radius - wall, -tall),
        (neck - 0.5 * wall, -wall),
        (0.0, -wall),
    ]
    hood -= revolve(hollow)
    parts.append(hood.rotate((0.0, -25.0, 0.0)).translate(tuple(head)))
    return union(*parts)
