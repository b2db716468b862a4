"""`shapegen export`: shapes as files for printers and scenes, each reported closed or with its holes."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.options import argument, option
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from shapegen.data.items import ShapeItem
    from shapegen.export import Exported, ShapeExporter

logger = logging.getLogger(__name__)

# Seconds between two words about the progress.
_PROGRESS_S = 5.0
# More of the surface than this, far from all points, is worth a word.
_MANY_BRIDGES = 0.005


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CommonOptions):
    """Options of `shapegen export`."""

    shapes: list[str] = argument("run directories, or files of point clouds or meshes", several=True)
    mesh: bool = option(False, "reconstruct a closed surface of each cloud (default: points as they are)")
    format: str = option("", "glb, stl, ply, obj, or several: glb,stl (default: glb with --mesh, else ply)")
    watertight: bool = option(False, "close holes; what stays open is reported and ends with exit code 3")
    scale_mm: float | None = option(None, "longest side of each shape in mm (default: the size as recorded)")
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str = option("z", "the axis that is up in files that do not say it: z, y or -y")
    resolution: int | None = option(None, "grid cells along the longest side, 8-460 (default: by the points' spacing)")
    count: int | None = option(None, "at most so many shapes of each run or file", at_least=1)
    output_dir: str = option("", "folder for the files (default: RUN/meshes or RUN/points; runs/export for files)")
    overwrite: bool = option(False, "replace the files of an earlier export")
    show: int = option(40, "rows printed; those with a defect come first", at_least=0)
    time_limit: float = option(900.0, "seconds for one shape; more where other work keeps the processor busy", above=0)
    workers: int | None = option(None, "processes (default: one a core)", at_least=1)


def run(options: ExportOptions) -> dict[str, Any]:
    """Find, write, report."""
    from common.cli.run_directory import RunDirectory
    from shapegen.data.items import find_items

    exporter = _exporter(options)
    exporter.check()
    items = find_items(options.shapes, options.unit, options.count)
    if not items:
        raise InputError(f"nothing to export: {', '.join(options.shapes)} holds no shapes")
    with RunDirectory.begin(exporter.folder, "export", options) as directory:
        directory.record(options, sources=options.shapes)
        found = _export(items, exporter, options)
        done = [one for one in found if one is not None]
        _write(directory.path, done)
    result = {
        "output_dir": str(directory.path),
        "exported": sum(not one.problem for one in done),
        "watertight": sum(one.report is not None and one.report.watertight for one in done),
        "shapes": [one.as_json() for one in done],
    }
    if not options.json:
        _print(done, options, directory.path)
    _check_complete(found, result, options)
    return result


def _exporter(options: ExportOptions) -> ShapeExporter:
    from shapegen.export import ShapeExporter

    first = Path(options.shapes[0])
    folder = options.output_dir
    if not folder:
        inside = len(options.shapes) == 1 and first.is_dir()
        folder = str(first / ("meshes" if options.mesh else "points")) if inside else "runs/export"
    kinds = [
        kind.strip().lower().lstrip(".") for kind in (options.format or ("glb" if options.mesh else "ply")).split(",")
    ]
    return ShapeExporter(
        folder, tuple(dict.fromkeys(kind for kind in kinds if kind)), options.mesh, options.watertight,
        options.scale_mm, options.up, options.resolution,
    )  # fmt: skip


def _export(items: Sequence[ShapeItem], exporter: ShapeExporter, options: ExportOptions) -> list[Exported | None]:
    """The outcome of each shape, None for those that Ctrl-C left undone."""
    from shapegen.export import export_shapes

    found: list[Exported | None] = [None] * len(items)
    began = last = time.monotonic()
    try:
        for done, (index, one) in enumerate(export_shapes(items, exporter, options.workers, options.time_limit), 1):
            found[index] = one
            if one.problem:
                logger.warning("%s: %s", one.source, one.problem)
            if time.monotonic() - last > _PROGRESS_S or done == len(items):
                last = time.monotonic()
                logger.info("%d/%d shapes, %.2g a second", done, len(items), done / max(last - began, 1e-9))
    except KeyboardInterrupt:
        logger.info("interrupted; what was written is kept")
    return found


def _check_complete(found: Sequence[Exported | None], result: dict[str, Any], options: ExportOptions) -> None:
    """Raise `IncompleteError` where something that was asked for is missing."""
    failed = len(found) - result["exported"]
    if failed:
        reasons = dict.fromkeys(one.problem for one in found if one is not None and one.problem)
        raise IncompleteError(
            f"{failed} of {len(found)} shapes were not exported: {next(iter(reasons), 'interrupted')}", result
        )
    if options.watertight and result["watertight"] < len(found):
        left_open = len(found) - result["watertight"]
        raise IncompleteError(f"{left_open} of {len(found)} meshes are not watertight", result)


def _write(directory: Path, done: Sequence[Exported]) -> None:
    """`export.csv`, one row a shape, and `export.json` with every hole."""
    from common.atomic import atomic_writer, write_json

    write_json(directory / "export.json", [one.as_json() for one in done])
    rows = [_row(one) for one in done]
    with atomic_writer(directory / "export.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["name"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(one: Exported) -> dict[str, Any]:
    """A line of the table; empty cells where a value is missing."""
    width, depth, height = one.extents_mm or (None, None, None)
    report = one.report
    return {
        "name": one.name,
        "source": one.source,
        "files": " ".join(one.files),
        "points": one.points or None,
        "watertight": None if report is None else report.watertight,
        "holes": None if report is None else report.holes,
        "non_manifold_edges": None if report is None else report.non_manifold_edges,
        "parts": None if report is None else report.components,
        "faces": None if report is None else report.faces,
        "width_mm": width,
        "depth_mm": depth,
        "height_mm": height,
        "area_mm2": None if report is None else report.area,
        "volume_mm3": None if report is None else report.volume,
        "occupancy_mm3": one.occupancy_mm3,
        "bridged_share": one.bridged,
        "stray_points": one.stray_points,
        "finest_wall_mm": one.wall_mm,
        "problem": one.problem,
    }


def _print(done: Sequence[Exported], options: ExportOptions, directory: Path) -> None:
    from shapegen.export import FINE_POINTS

    ordered = sorted(done, key=lambda one: not one.problem and (one.report is None or one.report.watertight))
    print_table(
        f"{len(done)} shapes in {directory}",
        ("name", "size in mm", "volume in cm3", "state"),
        [(one.name, _size(one), _volume(one), _state(one)) for one in ordered[: options.show]],
    )
    if len(ordered) > options.show:
        print(f"... and {len(ordered) - options.show} more ({directory / 'export.csv'} has all)")
    meshes = [one for one in done if one.report is not None]
    if meshes:
        closed = sum(one.report.watertight for one in meshes if one.report is not None)
        print(f"{closed} of {len(meshes)} meshes are watertight")
    coarse = [one.wall_mm for one in meshes if one.wall_mm is not None and one.points < FINE_POINTS]
    if coarse:
        print(
            f"{len(coarse)} clouds have fewer than {FINE_POINTS:,} points: walls thinner than {max(coarse):.2g} mm may "
            f"be lost (`shapegen generate --points {FINE_POINTS}` makes finer clouds)"
        )
    parted = sum(one.points > 0 and one.report is not None and one.report.components > 1 for one in meshes)
    if parted:
        print(f"{parted} meshes are in several parts: rods and walls thinner than the points can tell break up")
    bridged = sum((one.bridged or 0) > _MANY_BRIDGES for one in meshes)
    if bridged:
        print(f"{bridged} meshes have surface where no points are (lids over openings): bridged_share in export.csv")
    stray = sum(one.stray_points for one in done)
    if stray:
        print(f"{stray} stray points were left out")


def _size(one: Exported) -> str:
    return "-" if one.extents_mm is None else " x ".join(f"{side:.4g}" for side in one.extents_mm)


def _volume(one: Exported) -> str:
    return "-" if one.report is None or one.report.volume is None else f"{one.report.volume / 1000:.4g}"


def _state(one: Exported) -> str:
    if one.problem:
        return f"NOT EXPORTED: {one.problem}"
    return f"{one.points} points" if one.report is None else str(one.report)


VERB = Verb("export", "write shapes as meshes or points for printers and scenes", ExportOptions, run)
