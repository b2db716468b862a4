"""Spur gears, upright, their axis along Y."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Count, Parameter, Range
from shapegen.families.primitives import around, box, cylinder, prism

PARAMETERS: dict[str, Parameter] = {
    "radius_m": Range(0.055, 0.11, "to the tips of the teeth"),
    "thickness_m": Range(0.016, 0.036, "of the toothed rim"),
    "teeth": Count(8, 13, "number of teeth"),
    "tooth_depth": Range(0.18, 0.26, "tip to root, of the radius (of 10 teeth; more teeth are flatter)", ""),
    "bore_share": Range(0.12, 0.22, "radius of the bore, of the outer one", ""),
    "hub_share": Range(1.5, 1.9, "radius of the hub, of the bore's", ""),
    "hub_height": Range(1.1, 1.8, "height of the hub, of the rim's", ""),
    "web": Choice(("full", "recessed", "holes"), "between hub and rim"),
    "web_holes": Count(4, 6, "lightening holes"),
    "key": Choice(("none", "keyway"), "a groove in the bore"),
}


def build(
    radius_m: float,
    thickness_m: float,
    teeth: int,
    tooth_depth: float,
    bore_share: float,
    hub_share: float,
    hub_height: float,
    web: str,
    web_holes: int,
    key: str,
) -> Manifold:
    """Trapezoid teeth drawn in the plane, pulled up; hub, web and bore by booleans; then raised onto its rim."""
    depth = tooth_depth * min(1.0, 10 / teeth) * radius_m
    root = radius_m - depth
    pitch = 2 * np.pi / teeth
    # Root, flank, tip, flank: tips are narrower than gaps.
    steps = pitch * np.array([0.0, 0.34, 0.52, 0.82])
    angle = (np.arange(teeth)[:, None] * pitch + steps).ravel()
    radius = np.tile([root, root, radius_m, radius_m], teeth)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    solid = prism(outline, thickness_m)
    bore = bore_share * radius_m
    hub = hub_share * bore
    rim = 0.86 * root
    if web == "recessed":
        ring = cylinder(rim, thickness_m, (0.0, 0.0, 0.6 * thickness_m)) - cylinder(hub, 3 * thickness_m)
        solid -= ring
    elif web == "holes":
        middle = 0.5 * (hub + rim)
        hole = min(0.36 * (rim - hub), 0.36 * 2 * np.pi * middle / web_holes)
        for part in around(cylinder(hole, 3 * thickness_m, (middle, 0.0, -thickness_m), segments=24), web_holes, 10.0):
            solid -= part
    solid += cylinder(hub, hub_height * thickness_m)
    solid -= cylinder(bore, 4 * thickness_m, (0.0, 0.0, -thickness_m))
    if key == "keyway":
        solid -= box((0.5 * bore, 0.5 * bore, 4 * thickness_m), (0.0, bore, -thickness_m))
    # It stands on the tips of two teeth: the middle of the first gap points down.
    down = -90.0 - np.degrees(0.17 * pitch)
    return solid.rotate((0.0, 0.0, down)).rotate((90.0, 0.0, 0.0)).translate((0.0, thickness_m / 2, 0.0))
