"""Bookshelves at doll's-house scale 1:6, open to -Y."""

from __future__ import annotations

from manifold3d import Manifold

from shapegen.families.parameters import Choice, Count, Parameter, Range
from shapegen.families.primitives import box, union

PARAMETERS: dict[str, Parameter] = {
    "width_m": Range(0.10, 0.18, "outer width"),
    "height_m": Range(0.18, 0.32, "outer height"),
    "depth_m": Range(0.04, 0.065, "outer depth"),
    "board_m": Range(0.005, 0.008, "thickness of a board"),
    "plinth_m": Range(0.006, 0.02, "height of the lowest board's lower side"),
    "bays": Count(3, 5, "openings above one another"),
    "back": Choice(("open", "closed"), "a panel behind the boards"),
    "divider": Choice(("none", "none", "one"), "an upright board through part of the shelf"),
    "divider_place": Range(0.3, 0.7, "where the divider stands, of the width", ""),
}


def build(
    width_m: float,
    height_m: float,
    depth_m: float,
    board_m: float,
    plinth_m: float,
    bays: int,
    back: str,
    divider: str,
    divider_place: float,
) -> Manifold:
    """Two sides, boards between them, and what the options add."""
    x = (width_m - board_m) / 2
    parts = [box((board_m, depth_m, height_m), (side * x, 0.0, 0.0)) for side in (-1, 1)]
    # Boards lie between the middles of the sides, a little behind the front edge.
    pitch = (height_m - plinth_m - board_m) / bays
    for k in range(bays + 1):
        inset = 0.0 if k in (0, bays) else 0.002
        parts.append(box((2 * x, depth_m - inset, board_m), (0.0, inset / 2, plinth_m + k * pitch)))
    if back == "closed":
        thick = 0.5 * board_m
        parts.append(box((2 * x, thick, height_m - plinth_m - 0.002), (0.0, (depth_m - thick) / 2 - 0.001, plinth_m)))
    if divider == "one":
        place = -x + 2 * x * divider_place
        tall = pitch * max(1, bays - 2)
        parts.append(box((board_m, depth_m - 0.003, tall + 0.5 * board_m), (place, 0.0005, plinth_m + 0.5 * board_m)))
    return union(*parts)
