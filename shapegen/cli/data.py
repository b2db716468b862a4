"""`shapegen data`: list and inspect data sets, and store one as a file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.options import argument, option
from common.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataOptions(CommonOptions):
    """Options of `shapegen data`."""

    action: Literal["list", "inspect", "build"] = argument("what to do")
    data: str = option("", "data set name, or a folder or file of shapes")
    data_folder: str = option("data", "folder that holds the named data sets")
    classes: list[str] | None = option(None, "only these classes (default: all)")
    count_per_class: int = option(500, "procedural: shapes of each class", at_least=1)
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str = option("z", "the axis that is up in files that do not say it: z, y or -y")
    points: int = option(4096, "points sampled of each mesh; stored points are kept as they are", at_least=1)
    output: str = option("", "build: the npz file to write, which every verb reads as data (default: runs/NAME.npz)")
    workers: int | None = option(None, "processes (default: one a core)", at_least=1)
    seed: int = option(0, "seed of procedural shapes and of points", at_least=0)


def run(options: DataOptions) -> Any:
    """Do what `action` says."""
    return {"list": _list, "inspect": _inspect, "build": _build}[options.action](options)


def _list(options: DataOptions) -> list[dict[str, str]]:
    from shapegen.data.sources import SOURCES

    rows = [
        {
            "name": s.name, "description": s.description, "size": s.size, "unit": s.unit,
            "licence": s.licence, "origin": s.origin, "files": s.files,
        }
        for s in SOURCES.values()
    ]  # fmt: skip
    if not options.json:
        columns = ("name", "size", "unit", "licence", "files to put into the data folder")
        table = [(r["name"], r["size"], r["unit"], r["licence"], r["files"] or "(made on the fly)") for r in rows]
        print_table("data sets", columns, table)
    return rows


def _load(options: DataOptions) -> Any:
    from shapegen.data.sources import load_data

    if not options.data:
        raise InputError(f"nothing to {options.action}; name a data set, a folder or a file: --data FOLDER")
    return load_data(
        options.data, data_folder=options.data_folder, points=options.points, classes=options.classes,
        count_per_class=options.count_per_class, unit=options.unit, up=options.up, workers=options.workers,
        seed=options.seed,
    )  # fmt: skip


def _inspect(options: DataOptions) -> dict[str, Any]:
    from shapegen.data.inspect import summarise

    summary = summarise(_load(options).shapes)
    if not options.json:
        print("\n".join(summary.lines()))
    return summary.to_dict()


def _build(options: DataOptions) -> dict[str, Any]:
    path = Path(options.output or f"runs/{Path(options.data).stem}.npz")
    if path.suffix != ".npz":
        raise InputError(f"got --output {path}, expected a file that ends in .npz")
    shapes = _load(options).shapes
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes.save(path)
    if not options.json:
        print(f"{len(shapes)} shapes of {len(shapes.class_names)} classes: {path}")
    return {"output": str(path), "shapes": len(shapes), "classes": list(shapes.class_names)}


VERB = Verb("data", "list, inspect and store data sets", DataOptions, run)
