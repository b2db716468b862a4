"""Bolts that stand on their head, with rings for a thread."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Parameter, Range
from shapegen.families.primitives import SEGMENTS, cylinder, revolve, union

PARAMETERS: dict[str, Parameter] = {
    "diameter_m": Range(0.022, 0.036, "outer diameter of the shank"),
    "length_m": Range(0.09, 0.18, "of the shank, without the head"),
    "head_share": Range(1.6, 2.0, "width of the head across the flats, of the diameter", ""),
    "head_height_share": Range(0.6, 0.8, "height of the head, of the diameter", ""),
    "thread_share": Range(0.4, 0.95, "threaded part of the shank", ""),
    "pitch_share": Range(0.14, 0.22, "pitch of the thread, of the diameter", ""),
    "head": Choice(("hexagon", "hexagon", "square", "round"), "outline of the head"),
    "flange": Choice(("none", "flange"), "a collar under the head"),
}
_SIDES = {"hexagon": 6, "square": 4, "round": SEGMENTS}


def build(
    diameter_m: float,
    length_m: float,
    head_share: float,
    head_height_share: float,
    thread_share: float,
    pitch_share: float,
    head: str,
    flange: str,
) -> Manifold:
    """Head, plain shank, and a saw-tooth of revolution in place of the helix."""
    radius = diameter_m / 2
    head_height = head_height_share * diameter_m
    sides = _SIDES[head]
    across = head_share * radius / np.cos(np.pi / sides)
    solid = cylinder(across, head_height, segments=sides)
    if head == "round":
        solid -= cylinder(0.6 * radius, 0.6 * head_height, (0.0, 0.0, -0.1 * head_height), segments=6)
    else:
        # The corners of the outer face are turned off, as on a real head.
        slope = 0.35 * (across - 0.97 * head_share * radius)
        solid ^= revolve(
            [(0.0, -0.001), (0.97 * head_share * radius, -0.001), (across + 1e-4, slope + 0.001),
             (across + 1e-4, head_height + 0.001), (0.0, head_height + 0.001)]
        )  # fmt: skip
    pitch = pitch_share * diameter_m
    turns = max(2, round(thread_share * length_m / pitch))
    top = head_height + length_m
    start = max(top - turns * pitch, head_height + pitch)
    ridge = np.arange(start, top - 0.5 * pitch, pitch)
    minor = radius * 0.84
    teeth = [point for z in ridge for point in ((radius, z), (radius, z + 0.2 * pitch), (minor, z + 0.6 * pitch))]
    shank = [(0.0, 0.5 * head_height), (radius, 0.5 * head_height), *teeth, (minor, top), (0.0, top + 0.1 * minor)]
    solid += revolve(shank, 36)
    if flange == "flange":
        collar = 1.12 * across if head == "round" else 1.25 * head_share * radius
        solid = union(solid, cylinder(collar, 0.18 * head_height, (0.0, 0.0, 0.9 * head_height), top=0.96 * collar))
    return solid
