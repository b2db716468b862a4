"""Bare scenes in space for plotly: what molecules and shapes are shown in, on a page or in a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType

# Soft and even, so that form is read from shading and no highlight hides a colour. plotly would leave small faces,
# such as those of a fine mesh, without a normal and so in the dark.
LIGHTING = {
    "ambient": 0.5, "diffuse": 0.65, "specular": 0.18, "roughness": 0.55, "fresnel": 0.05,
    "facenormalsepsilon": 1e-18, "vertexnormalsepsilon": 1e-18,
}  # fmt: skip
# From the upper left, behind the viewer of the first view.
LIGHT_POSITION = {"x": -2000, "y": -9000, "z": 8000}


def scene_layout(turntable: bool = False) -> dict[str, Any]:
    """The layout (plotly's, as a dict) of a scene without axes that is turned with the mouse.

    Args:
        turntable: keep Z upright while turning, as for things that stand on a floor; else turn freely.
    """
    hidden = {"visible": False, "showspikes": False}
    return {
        "scene": {
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "data",
            "dragmode": "turntable" if turntable else "orbit",
            # 35 degrees about the vertical from -Y, 22 degrees above the horizon, as in the contact sheets.
            "camera": {"eye": {"x": 0.95, "y": -1.36, "z": 0.67}, "up": {"x": 0, "y": 0, "z": 1}},
        },
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "autosize": True,
        # The viewer's angle stays when what is shown changes.
        "uirevision": "kept",
    }


def proportions(traces: Sequence[BaseTraceType]) -> dict[str, Any]:
    """What makes all traces fit into the first view of a scene, whatever their form: the longest side is 1.

    plotly's own choice makes the mean of the sides 1, and cuts off what is long and thin.
    """
    columns = [np.concatenate([np.asarray(trace[axis], dtype=np.float64) for trace in traces]) for axis in "xyz"]
    sides = np.array([np.ptp(column) for column in columns])
    sides /= max(float(sides.max()), 1e-12)
    # A flat thing still needs some room for its third side.
    ratio = dict(zip("xyz", np.maximum(sides, 1e-3).tolist(), strict=True))
    return {"aspectmode": "manual", "aspectratio": ratio}


def bare_figure(traces: Sequence[BaseTraceType], height: int = 420, turntable: bool = False) -> go.Figure:
    """A figure of the traces in a bare scene, `height` pixels high."""
    layout = scene_layout(turntable)
    if traces:
        layout["scene"] |= proportions(traces)
    return go.Figure(data=list(traces), layout={**layout, "height": height})
