"""Tables at doll's-house scale 1:6."""

from __future__ import annotations

from manifold3d import Manifold

from shapegen.families.parameters import Choice, Parameter, Range
from shapegen.families.primitives import around, box, cylinder, rod, rounded_plate, union

PARAMETERS: dict[str, Parameter] = {
    "length_m": Range(0.14, 0.28, "length of the top (its diameter where round)"),
    "width_share": Range(0.5, 0.85, "width of the top, of its length", ""),
    "height_m": Range(0.09, 0.135, "floor to top"),
    "top_m": Range(0.006, 0.012, "thickness of the top"),
    "leg_m": Range(0.009, 0.017, "width of a leg"),
    "leg_taper": Range(0.5, 1.0, "width of a leg at the floor, of that at the top", ""),
    "apron_m": Range(0.008, 0.02, "height of the frame under the top"),
    "top": Choice(("rectangle", "rectangle", "round"), "outline of the top"),
    "stand": Choice(("legs", "legs", "pedestal"), "what carries the top"),
}


def build(
    length_m: float,
    width_share: float,
    height_m: float,
    top_m: float,
    leg_m: float,
    leg_taper: float,
    apron_m: float,
    top: str,
    stand: str,
) -> Manifold:
    """Top on four legs with a frame, or on a column with a cross foot."""
    width = length_m * width_share
    under = height_m - top_m
    if top == "round":
        # A round table is not as long as a rectangular one.
        length_m = width = 0.75 * length_m
        parts = [cylinder(length_m / 2, top_m, (0.0, 0.0, under))]
        x = y = 0.31 * length_m
    else:
        parts = [rounded_plate(length_m, width, top_m, 0.008, (0.0, 0.0, under))]
        x, y = length_m / 2 - 1.1 * leg_m, width / 2 - 1.1 * leg_m
    into_top = under + 0.5 * top_m
    if stand == "legs":
        for side in (-1, 1):
            for end in (-1, 1):
                foot, head = (side * x, end * y, 0.0), (side * x, end * y, into_top)
                parts.append(rod(foot, head, 0.5 * leg_taper * leg_m, 0.5 * leg_m))
            parts.append(box((2 * x, 0.5 * leg_m, apron_m + 0.5 * top_m), (0.0, side * y, under - apron_m)))
            parts.append(box((0.5 * leg_m, 2 * y, apron_m + 0.5 * top_m), (side * x, 0.0, under - apron_m)))
    else:
        column = 0.9 * leg_m
        parts.append(cylinder(column, into_top, top=0.8 * column))
        reach = 0.72 * min(x, y) + 1.2 * leg_m
        foot = rod((0.0, 0.0, 0.045), (reach, 0.0, 0.5 * leg_m), 0.45 * leg_m, 0.4 * leg_m)
        foot += cylinder(0.5 * leg_m, 0.7 * leg_m, (reach, 0.0, 0.0), segments=16)
        parts += around(foot, 4, start=45.0)
        parts.append(
            cylinder(0.35 * min(length_m, width), 0.5 * apron_m + 0.3 * top_m, (0.0, 0.0, under - 0.5 * apron_m))
        )
    return union(*parts)
