"""Toy aeroplanes, the nose towards -Y."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from shapegen.families.parameters import Choice, Parameter, Range
from shapegen.families.primitives import cylinder, prism, revolve, smooth_profile, union

PARAMETERS: dict[str, Parameter] = {
    "length_m": Range(0.2, 0.3, "nose to tail"),
    "radius_share": Range(0.055, 0.085, "radius of the fuselage, of the length", ""),
    "span_share": Range(0.8, 1.15, "wing tip to wing tip, of the length", ""),
    "chord_share": Range(0.17, 0.26, "depth of the wing at its root, of the length", ""),
    "taper": Range(0.4, 0.9, "depth of the wing at its tip, of the root's", ""),
    "sweep_share": Range(0.0, 0.18, "how far the tips lie behind the root, of the length", ""),
    "wing_place": Range(0.36, 0.46, "where the wing begins, of the length", ""),
    "wing_m": Range(0.005, 0.008, "thickness of wing and tail"),
    "wing": Choice(("low", "middle", "high"), "height of the wing on the fuselage"),
    "tail_share": Range(0.32, 0.45, "span of the tail plane, of the wing's", ""),
    "fin_share": Range(0.14, 0.2, "height of the fin, of the length", ""),
    "engines": Choice(("none", "two", "four"), "engines under the wing"),
}
_WING_HEIGHT = {"low": -0.55, "middle": 0.0, "high": 0.6}
_ENGINE_PLACES = {"none": (), "two": (0.3,), "four": (0.25, 0.5)}


def build(
    length_m: float,
    radius_share: float,
    span_share: float,
    chord_share: float,
    taper: float,
    sweep_share: float,
    wing_place: float,
    wing_m: float,
    wing: str,
    tail_share: float,
    fin_share: float,
    engines: str,
) -> Manifold:
    """A spindle of revolution along Y with plates for wing, tail plane and fin."""
    radius = radius_share * length_m
    knots = [(0.12, 0.0), (0.75, 0.07), (1.0, 0.2), (1.0, 0.55), (0.55, 0.85), (0.25, 1.0)]
    curve = smooth_profile([(radius * r, length_m * y) for r, y in knots])
    spindle = revolve([*map(tuple, curve), (0.0, length_m), (0.0, 0.0)], 32)
    # The profile's Z runs from nose to tail; it becomes Y.
    fuselage = spindle.rotate((-90.0, 0.0, 0.0))
    span, chord = span_share * length_m, chord_share * length_m
    height = _WING_HEIGHT[wing] * radius
    start = wing_place * length_m
    parts = [fuselage, prism(_planform(span, chord, taper, sweep_share * length_m, start), wing_m, height - wing_m / 2)]
    tail_chord = 0.55 * chord
    tail_start = length_m - 1.15 * tail_chord
    tail = _planform(tail_share * span, tail_chord, 0.7, 0.3 * tail_chord, tail_start)
    parts.append(prism(tail, wing_m, -wing_m / 2))
    fin = fin_share * length_m
    outline = [
        (tail_start - 0.2 * tail_chord, 0.0),
        (length_m, 0.0),
        (length_m, fin),
        (length_m - 0.6 * tail_chord, fin),
    ]
    upright = prism(outline, wing_m, -wing_m / 2).rotate((90.0, 0.0, 90.0))
    parts.append(upright)
    size = 0.42 * radius
    for place in _ENGINE_PLACES[engines]:
        x = place * span
        front = start + 2 * place * sweep_share * length_m - 0.25 * chord
        # Its upper side reaches into the wing.
        engine = cylinder(size, 0.7 * chord, top=0.75 * size, segments=20).rotate((-90.0, 0.0, 0.0))
        parts += [engine.translate((s * x, front, height - wing_m / 2 - 0.6 * size)) for s in (-1, 1)]
    return union(*parts).translate((0.0, -0.5 * length_m, 0.0))


def _planform(span: float, root: float, taper: float, sweep: float, start: float) -> np.ndarray:
    """Outline of a wing in the XY plane, counter-clockwise; the leading edge at the root lies at y = start."""
    half, tip = span / 2, root * taper
    back = start + sweep
    return np.array(
        [(0, start), (half, back), (half, back + tip), (0, start + root), (-half, back + tip), (-half, back)]
    )
