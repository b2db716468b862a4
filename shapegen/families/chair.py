"""Chairs at doll's-house scale 1:6, facing -Y."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Count, Parameter, Range
from shapegen.families.primitives import box, rod, rounded_plate, union

PARAMETERS: dict[str, Parameter] = {
    "width_m": Range(0.065, 0.095, "width of the seat"),
    "depth_m": Range(0.065, 0.085, "depth of the seat"),
    "seat_height_m": Range(0.065, 0.085, "floor to the top of the seat"),
    "back_height_m": Range(0.06, 0.11, "seat to the top of the back"),
    "thickness_m": Range(0.006, 0.011, "of seat and back"),
    "leg_m": Range(0.006, 0.010, "width of a leg"),
    "splay_m": Range(0.0, 0.012, "how far the feet stand outside the seat's corners"),
    "recline_m": Range(0.0, 0.022, "how far the back leans behind the seat"),
    "back": Choice(("panel", "slats", "ladder"), "what fills the back"),
    "arms": Choice(("none", "none", "arms"), "arm rests"),
    "bars": Count(2, 4, "slats or rungs of the back"),
}


def build(
    width_m: float,
    depth_m: float,
    seat_height_m: float,
    back_height_m: float,
    thickness_m: float,
    leg_m: float,
    splay_m: float,
    recline_m: float,
    back: str,
    arms: str,
    bars: int,
) -> Manifold:
    """Seat, four legs, two posts, and the back between them."""
    seat_foot = seat_height_m - thickness_m
    parts = [rounded_plate(width_m, depth_m, thickness_m, 0.012, (0.0, 0.0, seat_foot))]
    x, y = (width_m - leg_m) / 2, (depth_m - leg_m) / 2
    # Legs end above the posts' lower ends: two faces in one plane would only touch.
    inside = seat_foot + 0.65 * thickness_m
    for side in (-1, 1):
        for end in (-1, 1):
            foot = (side * (x + splay_m), end * (y + splay_m), 0.0)
            parts.append(rod(foot, (side * x, end * y, inside), 0.5 * leg_m, 0.7 * leg_m))
    # No two sides lie in one plane, where rounding would decide whether they meet.
    # The back stands on the seat and is sheared backwards as one piece.
    upright = []
    sunk = 0.65 * thickness_m
    if back == "panel":
        upright.append(box((0.97 * width_m, thickness_m, back_height_m + sunk), (0.0, 0.0, -sunk)))
    else:
        post = box((0.94 * leg_m, leg_m, back_height_m + sunk), (x, 0.0, -sunk))
        upright += [post, post.mirror((1.0, 0.0, 0.0))]
        rail = 0.16 * back_height_m
        upright.append(box((0.985 * width_m, 0.7 * leg_m, rail), (0.0, 0.0, back_height_m - rail)))
        if back == "slats":
            for k in range(bars):
                place = -x + 2 * x * (k + 1) / (bars + 1)
                slat = (0.8 * leg_m, 0.6 * leg_m, back_height_m + sunk - 0.5 * rail)
                upright.append(box(slat, (place, 0.0, -sunk)))
        else:
            for k in range(bars - 1):
                height = (k + 0.8) / (bars + 0.2) * back_height_m
                upright.append(box((width_m - leg_m, 0.6 * leg_m, 0.6 * rail), (0.0, 0.0, height)))
    shear = recline_m / back_height_m
    lean = np.array([[1, 0, 0, 0], [0, 1, shear, y], [0, 0, 1, seat_height_m]], dtype=np.float64)
    leaning = union(*upright).transform(lean)
    parts.append(leaning)
    if arms == "arms":
        height = 0.4 * back_height_m
        for side in (-1, 1):
            front = (side * x, -0.55 * y, 0.0)
            parts.append(rod((*front[:2], inside), (*front[:2], seat_height_m + height), 0.46 * leg_m))
            long = y * 1.55 + shear * height + leg_m
            centre = -0.55 * y - 0.6 * leg_m + long / 2
            parts.append(
                box((1.2 * leg_m, long, 0.8 * leg_m), (side * x, centre, seat_height_m + height - 0.5 * leg_m))
            )
    return union(*parts)
