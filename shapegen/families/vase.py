"""Vases: hollow solids of revolution, open at the top."""

from __future__ import annotations

from manifold3d import Manifold

from shapegen.families.parameters import Parameter, Range
from shapegen.families.primitives import hollow_of_revolution, smooth_profile

PARAMETERS: dict[str, Parameter] = {
    "height_m": Range(0.14, 0.30, "foot to lip"),
    "belly_radius_m": Range(0.04, 0.085, "widest radius"),
    "belly_share": Range(0.25, 0.6, "height of the widest place, of the whole", ""),
    "foot_share": Range(0.45, 0.75, "radius of the foot, of the belly's", ""),
    "neck_share": Range(0.22, 0.55, "radius of the neck, of the belly's", ""),
    "neck_height_share": Range(0.78, 0.88, "height of the neck, of the whole", ""),
    "lip_flare": Range(1.1, 1.7, "radius of the lip, of the neck's", ""),
    "wall_m": Range(0.003, 0.006, "thickness of the wall"),
}


def build(
    height_m: float,
    belly_radius_m: float,
    belly_share: float,
    foot_share: float,
    neck_share: float,
    neck_height_share: float,
    lip_flare: float,
    wall_m: float,
) -> Manifold:
    """Foot, belly, neck and lip joined by a smooth curve."""
    neck = neck_share * belly_radius_m
    outside = smooth_profile(
        [
            (foot_share * belly_radius_m, 0.0),
            (belly_radius_m, belly_share * height_m),
            (neck, neck_height_share * height_m),
            (lip_flare * neck, height_m),
        ]
    )
    return hollow_of_revolution(outside, wall_m, floor=2 * wall_m)
