"""L-brackets with screw holes: one leg lies on the ground towards -Y, the other stands."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Count, Parameter, Range
from shapegen.families.primitives import arc, cylinder, side_prism

PARAMETERS: dict[str, Parameter] = {
    "base_m": Range(0.08, 0.15, "length of the lying leg"),
    "upright_m": Range(0.08, 0.16, "length of the standing leg"),
    "width_m": Range(0.035, 0.075, "width of both legs"),
    "thickness_m": Range(0.006, 0.012, "of both legs"),
    "fillet_m": Range(0.003, 0.015, "radius in the inner corner"),
    "hole_radius_m": Range(0.006, 0.011, "of the screw holes"),
    "base_holes": Count(1, 2, "holes in the lying leg"),
    "upright_holes": Count(1, 2, "holes in the standing leg"),
    "rib": Choice(("none", "middle", "side"), "a stiffening rib"),
    "rib_share": Range(0.4, 0.7, "length of the rib, of the shorter leg", ""),
}


def build(
    base_m: float,
    upright_m: float,
    width_m: float,
    thickness_m: float,
    fillet_m: float,
    hole_radius_m: float,
    base_holes: int,
    upright_holes: int,
    rib: str,
    rib_share: float,
) -> Manifold:
    """An L drawn in the plane, pulled out sideways, then drilled."""
    t = thickness_m
    corner = arc((t + fillet_m, t + fillet_m), fillet_m, 1.5 * np.pi, np.pi, 8)
    outline = [(0.0, 0.0), (base_m, 0.0), (base_m, t), *map(tuple, corner), (t, upright_m), (0.0, upright_m)]
    solid = side_prism(outline, width_m)
    # Holes stay clear of the corner, the fillet and a rib.
    rib_length = rib_share * (min(base_m, upright_m) - t)
    side = 0.0
    if rib != "none":
        thick = 0.8 * t
        side = 0.5 * (width_m - thick) if rib == "side" else 0.0
        inside = 0.5 * t
        reach = t + rib_length
        solid += side_prism([(inside, inside), (reach, inside), (reach, t), (t, reach), (inside, reach)], thick, side)
    radius = min(hole_radius_m, (0.24 if rib == "none" else 0.15) * width_m)
    # Beside a rib in the middle the holes come in pairs.
    rows = [0.0] if rib == "none" else [-0.27 * width_m, 0.27 * width_m] if rib == "middle" else [-0.1 * width_m]
    drill = cylinder(radius, 4 * t, (0.0, 0.0, -2 * t), segments=24)
    clear = t + fillet_m + 1.6 * radius
    for row in rows:
        for place in np.linspace(base_m - 2.2 * radius, clear, base_holes + 1)[:base_holes]:
            solid -= drill.translate((place, row, 0.0))
        for place in np.linspace(upright_m - 2.2 * radius, clear, upright_holes + 1)[:upright_holes]:
            solid -= drill.rotate((0.0, 90.0, 0.0)).translate((0.0, row, place))
    # The lying leg points to -Y, so that left and right mirror each other.
    return solid.rotate((0.0, 0.0, -90.0))
