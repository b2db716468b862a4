"""`shapegen view`: clouds and meshes on one offline page, to be turned with the mouse."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.cli.app import Verb
from common.cli.options import argument, option
from common.cli.view import Card, ViewOptions, finish_view
from common.errors import InputError
from common.workers import Failure

if TYPE_CHECKING:
    import trimesh

    from shapegen.data.items import ShapeItem

logger = logging.getLogger(__name__)

# Points that stand for a mesh in its small picture.
_PICTURE_POINTS = 3000


@dataclass(frozen=True, kw_only=True)
class ShapeViewOptions(ViewOptions):
    """Options of `shapegen view`."""

    shapes: list[str] = argument("run directories, or files of point clouds or meshes", several=True)
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str = option("z", "the axis that is up in files that do not say it: z, y or -y")
    workers: int | None = option(None, "processes that read files (default: one a core)", at_least=1)


def run(options: ShapeViewOptions) -> dict[str, Any]:
    """Read, draw, write the page."""
    from shapegen.data.items import find_items

    items = find_items(options.shapes, options.unit)
    cards = list(_cards(items[: options.count], options))
    if not any(card.traces for card in cards):
        raise InputError(f"nothing to show: {cards[0].note if cards else 'there are no shapes'}")
    return finish_view(options, [Path(given) for given in options.shapes], "Shapes", cards, len(items), turntable=True)


def _cards(items: Sequence[ShapeItem], options: ShapeViewOptions) -> Iterator[Card]:
    from shapegen.data.items import describe_item_failure, read_items

    groups: dict[str, int] = {}
    for item, found in zip(items, read_items(items, options.up, options.workers), strict=True):
        try:
            if isinstance(found, Failure):
                raise InputError(describe_item_failure(found))
            yield _card(item, *found, groups.setdefault(item.class_name, len(groups)))
        except InputError as error:
            logger.warning("%s: %s", item.source, error)
            yield Card(item.name, (), {"file": item.source}, None, str(error))


def _card(item: ShapeItem, shape: np.ndarray | trimesh.Trimesh, unit: str, group: int) -> Card:
    import trimesh

    from shapegen.geometry.drawing import thumbnail
    from shapegen.geometry.meshes import inspect
    from shapegen.geometry.view3d import MAX_POINTS, cloud_trace, mesh_trace

    title = item.class_name or item.name
    if isinstance(shape, trimesh.Trimesh):
        trace = mesh_trace(shape, group)
        report = inspect(shape)
        facts = {"kind": "mesh", "watertight": report.watertight, "holes": report.holes, "parts": report.components}
        facts |= {"faces": len(shape.faces), **_sizes(np.asarray(shape.vertices), unit)}
        if report.volume is not None:
            facts[f"volume{_suffix(unit, 3)}"] = report.volume
        points, normals = _surface_points(shape)
        return Card(title, [trace], facts | {"file": item.source}, thumbnail(points, group, normals))
    trace = cloud_trace(shape, group)
    facts = {"kind": "points", "points": len(shape), **_sizes(shape, unit), "file": item.source}
    note = f"{MAX_POINTS:,} of {len(shape):,} points are shown" if len(shape) > MAX_POINTS else ""
    return Card(title, [trace], facts, thumbnail(shape[:: -(-len(shape) // MAX_POINTS)], group), note)


def _surface_points(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    from shapegen.families.surface import sample_with_normals

    return sample_with_normals(mesh, _PICTURE_POINTS, np.random.default_rng(0))


def _sizes(points: np.ndarray, unit: str) -> dict[str, float]:
    sides = zip(("width", "depth", "height"), np.ptp(points, axis=0).tolist(), strict=True)
    return {f"{name}{_suffix(unit)}": side for name, side in sides}


def _suffix(unit: str, power: int = 1) -> str:
    from shapegen.data.shapes import UNITLESS

    return "" if unit == UNITLESS else f" ({unit}{'³' if power == 3 else ''})"


VERB = Verb("view", "show shapes on a page that is turned with the mouse", ShapeViewOptions, run)
