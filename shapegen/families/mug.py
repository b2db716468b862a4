"""Mugs: a hollow cylinder with a handle at +X."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Parameter, Range
from shapegen.families.primitives import cylinder, tube

PARAMETERS: dict[str, Parameter] = {
    "height_m": Range(0.085, 0.13, "table to rim"),
    "radius_m": Range(0.036, 0.052, "outer radius at the rim"),
    "taper": Range(0.75, 1.0, "radius at the foot, of the rim's", ""),
    "wall_m": Range(0.0035, 0.006, "thickness of the wall"),
    "handle_height_share": Range(0.5, 0.72, "height of the handle, of the mug's", ""),
    "handle_reach_m": Range(0.026, 0.04, "how far the handle stands off"),
    "handle_radius_m": Range(0.005, 0.0075, "half the thickness of the handle"),
    "handle": Choice(("round", "square", "ear"), "outline of the handle"),
}
# Exponent of the superellipse; the ear leans towards the rim.
_OUTLINE = {"round": 2.0, "square": 4.0, "ear": 2.4}


def build(
    height_m: float,
    radius_m: float,
    taper: float,
    wall_m: float,
    handle_height_share: float,
    handle_reach_m: float,
    handle_radius_m: float,
    handle: str,
) -> Manifold:
    """The handle is joined to the full body before that is hollowed, so that it ends in the wall."""
    foot = taper * radius_m
    body = cylinder(foot, height_m, top=radius_m)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 28)
    power = 2.0 / _OUTLINE[handle]
    half = handle_height_share * height_m / 2
    x = handle_reach_m * np.abs(np.cos(angle)) ** power
    z = half * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    if handle == "ear":
        x = x * (1.0 + 0.35 * z / half)
    wall = np.interp(height_m / 2 + z, [0, height_m], [foot, radius_m])
    path = np.stack([wall - 0.4 * wall_m + x, np.zeros_like(x), height_m / 2 + z], axis=1)
    # Both ends start inside the body.
    inward = np.array([-0.5 * radius_m, 0.0, 0.0])
    path = np.concatenate([path[:1] + inward, path, path[-1:] + inward])
    body += tube(path, across=1.3 * handle_radius_m, along=handle_radius_m)
    cavity_foot = foot - wall_m + (radius_m - foot) * wall_m / height_m
    return body - cylinder(cavity_foot, height_m, (0.0, 0.0, 1.5 * wall_m), top=radius_m - wall_m)
