"""Figures of a report, as plotly reads them: plain `data` and `layout`. All of a row's marks have its colour."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.benchmark.table import Row, Table
from common.benchmark.verdict import Column

Figure = Mapping[str, Any]

# Okabe and Ito's colours, which colour-blind readers can tell apart, then darker ones for tables of many rows.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#7F3C8D", "#3969AC", "#11A579",
    "#A5AA99", "#E73F74", "#80BA5A", "#4B4B8F", "#F97B72", "#008695",
)  # fmt: skip
_REFERENCE = "#8A8A8A"
_INK, _GRID = "#22262B", "#E6E8EB"
# What training curves show, and the names under which logs hold it.
_CURVES = ("reward", "judge", "valid", "loss")
_MAX_CURVE_POINTS = 400


def colours(table: Table) -> dict[str, str]:
    """Name of a row -> its colour."""
    methods = [row.name for row in table.rows if row.kind != "reference"]
    found = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(methods)}
    return {row.name: found.get(row.name, _REFERENCE) for row in table.rows}


def achieved(table: Table, quantity: str, judge: str) -> Figure | None:
    """What the valid samples have, beside what was asked for; None where no row has any."""
    of_row = {row.name: [a for a in row.achieved if (a.quantity, a.judge) == (quantity, judge)] for row in table.rows}
    everything = [one for found in of_row.values() for one in found]
    if not everything:
        return None
    wanted = dict.fromkeys((one.wanted, one.target) for one in everything)
    shades, data = colours(table), []
    for name, found in of_row.items():
        x, y = [], []
        for one in found:
            known = [v for v, valid in zip(one.values, one.valid, strict=True) if valid and math.isfinite(v)]
            x += [one.wanted] * len(known)
            y += known
        if y:
            data.append({
                "type": "box", "name": name, "x": x, "y": [float(f"{value:.5g}") for value in y],
                "marker": {"color": shades[name], "size": 3, "opacity": 0.45}, "line": {"width": 1.4},
                "fillcolor": "rgba(0,0,0,0)", "boxpoints": "all", "jitter": 0.5, "pointpos": 0, "hoverinfo": "y+name",
            })  # fmt: skip
    shapes = []
    for k, (_, target) in enumerate(wanted):
        if math.isfinite(target):
            shapes.append({"type": "line", "x0": k - 0.5, "x1": k + 0.5, "y0": target, "y1": target, "layer": "below",
                           "line": {"color": _INK, "width": 1.5, "dash": "dash"}})  # fmt: skip
    unit = everything[0].unit
    layout = _layout("", f"{quantity.removesuffix('_' + unit.lower())} [{unit}]" if unit else quantity)
    layout |= {"boxmode": "group", "boxgap": 0.3, "boxgroupgap": 0.25, "shapes": shapes, "height": 460}
    layout["xaxis"] |= {"categoryorder": "array", "categoryarray": [text for text, _ in wanted], "title": {"text": ""}}
    return {"data": data, "layout": layout}


def trade_off(table: Table, across: Column | None, up: Column) -> Figure | None:
    """Rows as points with 95 % intervals: `up` against `across`, or against the network evaluations a sample."""
    shades, data = colours(table), []
    for row in table.rows:
        vertical = row.metrics.get(up.name)
        if vertical is None or not math.isfinite(vertical.value):
            continue
        if across is None:
            x, x_error = row.evaluations_per_sample, None
        else:
            horizontal = row.metrics.get(across.name)
            x = math.nan if horizontal is None else horizontal.value
            x_error = None if horizontal is None else _error_bar(across, x, horizontal.low, horizontal.high)
        if not math.isfinite(x):
            continue
        data.append({
            "type": "scatter", "mode": "markers+text", "name": row.name, "x": [_scaled(across, x)],
            "y": [_scaled(up, vertical.value)], "text": [row.name], "textposition": "top right",
            "textfont": {"color": shades[row.name], "size": 12}, "cliponaxis": False, "error_x": x_error or {},
            "error_y": _error_bar(up, vertical.value, vertical.low, vertical.high),
            "marker": {"color": shades[row.name], "size": 10, "symbol": _symbol(row)}, "showlegend": False,
        })  # fmt: skip
    if len(data) < 2:
        return None
    layout = _layout(across.title if across else "network evaluations a sample, training and sampling", up.title)
    if across is None:
        # In full: left to itself, a logarithmic axis writes 50 and 200 as 5 and 2.
        ticks = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
        layout["xaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
    layout["annotations"] = [_better(across, up)]
    # Room for the names of the rows that stand farthest to the right.
    layout["margin"] |= {"r": 110}
    return {"data": data, "layout": layout}


def curves(rows: Sequence[Row], shades: Mapping[str, str]) -> dict[str, Figure]:
    """What is logged in training -> its curves, one for each model."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _CURVES}
    for row in rows:
        runs = {step.output_dir for trial in row.trials for step in trial.steps if step.stage == "training"}
        for k, run in enumerate(sorted(runs)):
            for name, (x, y) in logged(Path(run)).items():
                found[name].append({
                    "type": "scatter", "mode": "lines+markers" if len(x) < 30 else "lines", "name": row.name, "x": x,
                    "y": y, "legendgroup": row.name, "showlegend": k == 0, "hovertext": run,
                    "line": {"color": shades[row.name], "width": 1.6}, "marker": {"size": 4},
                })  # fmt: skip
    return {name: {"data": data, "layout": _layout("step", name)} for name, data in found.items() if data}


def logged(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Of a training run: what was logged -> steps and values; a measurement of samples wins over a batch's own."""
    table: dict[str, dict[float, float]] = {}
    # A resumed run has a table for each part.
    for path in sorted(run.glob("logs/csv/version_*/metrics.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                for key, text in line.items():
                    if text and line.get("step") and key != "step":
                        table.setdefault(key, {})[float(line["step"])] = float(text)
    result = {}
    for name in _CURVES:
        keys = [key for prefix in ("sample/", "train/", "") if (key := prefix + name) in table]
        if keys:
            points = sorted(table[keys[0]].items())
            points = points[:: max(1, len(points) // _MAX_CURVE_POINTS)]
            result[name] = ([x for x, _ in points], [y for _, y in points])
    return result


def _layout(across: str, up: str) -> dict[str, Any]:
    axis = {"gridcolor": _GRID, "zeroline": False, "linecolor": "#9AA1A9", "ticks": "outside", "tickcolor": "#9AA1A9",
            "showline": True}  # fmt: skip
    return {
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": _INK},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "#FFFFFF", "height": 400,
        "margin": {"l": 70, "r": 30, "t": 20, "b": 60}, "hovermode": "closest",
        "legend": {"orientation": "h", "y": -0.22, "x": 0},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#B9BEC4", "activecolor": _INK},
        "xaxis": {**axis, "title": {"text": across}, "automargin": True},
        "yaxis": {**axis, "title": {"text": up}, "automargin": True},
    }  # fmt: skip


def _better(across: Column | None, up: Column) -> dict[str, Any]:
    """In the corner where the best rows are, which way is better."""
    right = across is not None and across.better > 0
    above = up.better > 0
    arrows = {
        (True, True): "better ↗",
        (True, False): "better ↘",
        (False, True): "↖ better",
        (False, False): "↙ better",
    }
    # Above the plot, where no point is, but on the right, where the buttons are.
    y, yanchor = (0.01, "bottom") if not above else (0.99, "top") if right else (1.0, "bottom")
    return {
        "xref": "paper", "yref": "paper", "x": 0.995 if right else 0.005, "y": y,
        "xanchor": "right" if right else "left", "yanchor": yanchor, "showarrow": False,
        "text": arrows[right, above], "font": {"color": "#8A9099", "size": 12},
    }  # fmt: skip


def _error_bar(column: Column | None, value: float, low: float, high: float) -> dict[str, Any]:
    if not (math.isfinite(low) and math.isfinite(high)):
        return {}
    return {
        "type": "data", "symmetric": False, "array": [_scaled(column, high - value)],
        "arrayminus": [_scaled(column, value - low)], "thickness": 1, "width": 3,
    }  # fmt: skip


def _scaled(column: Column | None, value: float) -> float:
    return float(f"{100 * value if column is not None and column.share else value:.6g}")


def _symbol(row: Row) -> str:
    return {"reference": "x-thin-open", "foreign": "diamond", "fine-tuning": "circle", "conditional": "square",
            "sampling": "triangle-up"}.get(row.kind, "circle-open")  # fmt: skip
