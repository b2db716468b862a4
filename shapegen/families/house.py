"""Houses as architects' models at 1:50, the door towards -Y; doors and windows are recesses."""

from __future__ import annotations

from manifold3d import Manifold

from shapegen.families.parameters import Choice, Count, Parameter, Range
from shapegen.families.primitives import box, side_prism, union

PARAMETERS: dict[str, Parameter] = {
    "width_m": Range(0.14, 0.24, "along X"),
    "depth_m": Range(0.12, 0.17, "along Y"),
    "storey_m": Range(0.05, 0.062, "height of a storey"),
    "storeys": Count(1, 2, "storeys under the roof"),
    "roof_share": Range(0.35, 0.65, "height of the roof, of the depth", ""),
    "overhang_m": Range(0.006, 0.016, "how far the roof stands out"),
    "roof": Choice(("gable", "gable", "hip"), "kind of roof"),
    "chimney": Choice(("none", "left", "right"), "where the chimney stands"),
    "windows": Count(2, 4, "windows side by side on each storey"),
    "door_place": Range(-0.25, 0.25, "of the door, from the middle, of the width", ""),
    "annexe": Choice(("none", "none", "left", "right"), "a lower wing"),
}
_RECESS = 0.006


def build(
    width_m: float,
    depth_m: float,
    storey_m: float,
    storeys: int,
    roof_share: float,
    overhang_m: float,
    roof: str,
    chimney: str,
    windows: int,
    door_place: float,
    annexe: str,
) -> Manifold:
    """Body, roof, chimney and annexe; then door and windows are cut."""
    wall = storey_m * storeys
    ridge = roof_share * depth_m
    parts = [box((width_m, depth_m, wall + 0.5 * ridge * 0.2)), _roof(width_m, depth_m, wall, ridge, overhang_m, roof)]
    if chimney != "none":
        side = -1 if chimney == "left" else 1
        parts.append(box((0.018, 0.018, 0.75 * ridge), (side * 0.25 * width_m, 0.2 * depth_m, wall + 0.5 * ridge)))
    if annexe != "none":
        side = -1 if annexe == "left" else 1
        wide, deep, tall = 0.4 * width_m, 0.7 * depth_m, 0.8 * storey_m
        centre = side * (0.5 * width_m + 0.5 * wide - 0.01)
        low = box((wide + 0.01, deep, tall + 0.004), (centre, 0.0, 0.0))
        low += _roof(wide, deep, tall, 0.45 * ridge, 0.7 * overhang_m, "gable").translate((centre, 0.0, 0.0))
        parts.append(low)
    solid = union(*parts)
    tall, wide = 0.5 * storey_m, 0.11 * width_m
    door_x = door_place * width_m
    door = (0.13 * width_m, 2 * _RECESS, 0.72 * storey_m)
    cuts = [box((*door[:2], door[2] + 0.01), (door_x, -0.5 * depth_m, -0.01))]
    for storey in range(storeys):
        for k in range(windows):
            x = ((k + 0.5) / windows - 0.5) * 0.92 * width_m
            height = storey * storey_m + 0.3 * storey_m
            if storey or abs(x - door_x) > 0.6 * (wide + door[0]):
                cuts.append(box((wide, 2 * _RECESS, tall), (x, -0.5 * depth_m, height)))
            cuts.append(box((wide, 2 * _RECESS, tall), (x, 0.5 * depth_m, height)))
    return solid - union(*cuts)


def _roof(width: float, depth: float, foot: float, ridge: float, overhang: float, kind: str) -> Manifold:
    """A roof with its ridge along X; its eaves hang a little lower than the top of the wall."""
    half, drop = depth / 2 + overhang, overhang * ridge / (depth / 2)
    z = foot - drop
    thick = 0.006
    outline = [(-half, z), (half, z), (half, z + thick), (0.0, foot + ridge + thick), (-half, z + thick)]
    gable = side_prism(outline, width + 2 * overhang).rotate((0.0, 0.0, 90.0))
    if kind == "gable":
        return gable
    # The ends of a hip roof slope as its sides do.
    across = width / 2 + overhang
    rise = foot + ridge + thick
    flat = max(across - half, 0.12 * across)
    trapezoid = [(-across, z), (across, z), (across, z + thick), (flat, rise), (-flat, rise), (-across, z + thick)]
    return gable ^ side_prism(trapezoid, depth + 4 * overhang)
