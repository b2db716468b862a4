"""Pipe elbows with flanges: one end on the ground, the other bent towards +X."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Count, Parameter, Range
from shapegen.families.primitives import around, cylinder, tube

PARAMETERS: dict[str, Parameter] = {
    "radius_m": Range(0.022, 0.036, "outer radius of the pipe"),
    "wall_m": Range(0.004, 0.007, "thickness of the wall"),
    "bend_share": Range(1.5, 2.4, "radius of the bend, of the pipe's", ""),
    "bend_deg": Range(60.0, 100.0, "angle of the bend", "deg"),
    "lower_m": Range(0.05, 0.1, "length of the straight part from the ground"),
    "upper_m": Range(0.04, 0.1, "length of the straight part after the bend"),
    "flange_share": Range(1.65, 2.0, "radius of the flanges, of the pipe's", ""),
    "flange_m": Range(0.009, 0.014, "thickness of the flanges"),
    "flange_holes": Count(4, 6, "screw holes in each flange"),
}


def build(
    radius_m: float,
    wall_m: float,
    bend_share: float,
    bend_deg: float,
    lower_m: float,
    upper_m: float,
    flange_share: float,
    flange_m: float,
    flange_holes: int,
) -> Manifold:
    """A solid bent rod with flanges, then the bore along the same path."""
    bend = bend_share * radius_m
    angle = np.radians(bend_deg)
    theta = np.linspace(0.0, angle, 14)
    curve = np.stack([bend * (1 - np.cos(theta)), np.zeros_like(theta), lower_m + bend * np.sin(theta)], axis=1)
    forward = np.array([np.sin(angle), 0.0, np.cos(angle)])
    # Points just inside the straight parts keep the tangents at the bend true.
    end = curve[-1] + upper_m * forward
    path = np.concatenate([[[0.0, 0.0, 0.0]], curve, [end]])
    flange = cylinder(flange_share * radius_m, flange_m)
    middle = 0.5 * (1 + flange_share) * radius_m
    drill = cylinder(0.3 * (flange_share - 1) * radius_m, 3 * flange_m, (middle, 0.0, -flange_m), segments=16)
    for hole in around(drill, flange_holes, 180.0 / flange_holes):
        flange -= hole
    solid = tube(path, radius_m, segments=32) + flange
    solid += flange.mirror((0.0, 0.0, 1.0)).rotate((0.0, bend_deg, 0.0)).translate(tuple(end))
    bore = np.concatenate([[[0.0, 0.0, -0.01]], curve, [end + 0.01 * forward]])
    return solid - tube(bore, radius_m - wall_m, segments=32)
