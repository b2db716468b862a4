"""Spoked wheels with a tyre, upright, their axle along Y."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Count, Parameter, Range
from shapegen.families.primitives import around, box, cylinder, revolve, union

PARAMETERS: dict[str, Parameter] = {
    "radius_m": Range(0.07, 0.14, "axle to tread"),
    "width_share": Range(0.22, 0.5, "width of the tyre, of the radius", ""),
    "tyre_share": Range(0.18, 0.3, "height of the tyre, of the radius", ""),
    "roundness": Range(0.35, 0.9, "0 for a square tread, 1 for a round one", ""),
    "hub_share": Range(0.14, 0.22, "radius of the hub, of the wheel's", ""),
    "bore_share": Range(0.35, 0.6, "radius of the axle's hole, of the hub's", ""),
    "spokes": Count(4, 8, "number of spokes"),
    "spoke_share": Range(0.1, 0.17, "width of a spoke, of the radius", ""),
    "hub_width": Range(0.8, 1.3, "width of the hub, of the tyre's", ""),
    "spoke": Choice(("straight", "tapered"), "outline of a spoke"),
}


def build(
    radius_m: float,
    width_share: float,
    tyre_share: float,
    roundness: float,
    hub_share: float,
    bore_share: float,
    spokes: int,
    spoke_share: float,
    hub_width: float,
    spoke: str,
) -> Manifold:
    """Tyre and rim as one ring of revolution, spokes into the hub, then the bore; made lying, then raised."""
    width = width_share * radius_m
    inner = radius_m * (1 - tyre_share)
    shoulder = roundness * min(0.5 * width, radius_m - inner) * 0.98
    angle = np.linspace(0, np.pi / 2, 7)
    x, z = radius_m - shoulder, width / 2 - shoulder
    upper = np.stack([x + shoulder * np.cos(angle), z + shoulder * np.sin(angle)], axis=1)
    lower = (upper * [1, -1])[::-1]
    groove = 0.06 * radius_m
    ring = [(inner, -width / 2), *map(tuple, lower), *map(tuple, upper), (inner, width / 2),
            (inner - groove, 0.42 * width), (inner - groove, -0.42 * width)]  # fmt: skip
    hub = hub_share * radius_m
    length = inner - 0.5 * groove - 0.5 * hub
    thick = spoke_share * radius_m
    bar = box((length, thick, 0.38 * width), (0.5 * hub + length / 2, 0.0, -0.19 * width))
    if spoke == "tapered":
        # The end at the rim is two thirds as wide as that at the hub.
        bar = bar.warp_batch(
            lambda points: points * np.stack(
                [np.ones(len(points)), 1.3 - 0.45 * points[:, 0] / inner, np.ones(len(points))], axis=1
            )
        )  # fmt: skip
    tall = hub_width * width
    parts = [revolve(ring, 64), cylinder(hub, tall, (0.0, 0.0, -tall / 2)), *around(bar, spokes, 90.0)]
    solid = union(*parts) - cylinder(bore_share * hub, 2 * tall, (0.0, 0.0, -tall), segments=32)
    return solid.rotate((90.0, 0.0, 0.0))
