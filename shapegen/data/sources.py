"""Data sets by name: where each comes from, what it holds, how it is read and split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.named import nearest
from shapegen.data import splits
from shapegen.data.files import FORMATS, read_shapes
from shapegen.data.ldraw import load_ldraw
from shapegen.data.procedural import procedural
from shapegen.data.records import ReadReport

DATA_FOLDER = Path("data")
POINTS = 4096
COUNT_PER_CLASS = 500


@dataclass(frozen=True)
class Source:
    """One named data set.

    Attributes:
        name: what the user types.
        description: one sentence.
        size: number of shapes, as text.
        unit: of its lengths.
        licence: of the data.
        origin: where to get it.
        files: what has to lie where, below the data folder; empty where nothing has to.
        load: folder, options of `load_data` by name -> report.
    """

    name: str
    description: str
    size: str
    unit: str
    licence: str
    origin: str
    files: str
    load: Callable[..., ReadReport]


def _load_procedural(
    _: Path,
    *,
    points: int,
    classes: Sequence[str] | None,
    count_per_class: int,
    labels: bool,
    workers: int | None,
    seed: int,
) -> ReadReport:
    shapes = procedural(count_per_class, seed, points, workers, classes, labels=labels)
    return ReadReport(shapes, groups=shapes.ids if shapes.ids is not None else np.empty(0, np.str_))


def _load_shapenet(folder: Path, **options: Any) -> ReadReport:
    return _load_folder(folder, up="y", **options)


def _load_modelnet(folder: Path, **options: Any) -> ReadReport:
    return _load_folder(folder, up="z", **options)


def _load_folder(folder: Path, *, up: str, count_per_class: int, labels: bool, **options: Any) -> ReadReport:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; see data/README.md for what has to lie there")
    return read_shapes(folder, up=up, **options)


def _load_ldraw(folder: Path, *, count_per_class: int, labels: bool, **options: Any) -> ReadReport:
    return load_ldraw(folder, **options)


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="procedural",
            description="solids of 13 parametric families (chair, mug, bolt, house, ...) with exact labels",
            size="as many as are asked for",
            unit="m",
            licence="MIT, with this project",
            origin="made on the fly",
            files="",
            load=_load_procedural,
        ),
        Source(
            name="shapenet",
            description="ShapeNetCore.v2 as point clouds of 15,000 points, PointFlow's split",
            size="51,127 in 55 classes",
            unit="unitless, Y up in the files",
            licence="ShapeNet's terms: research and education, after registration",
            origin="github.com/stevenygd/PointFlow names the archive ShapeNetCore.v2.PC15k; shapenet.org for the terms",
            files="shapenet/SYNSET/{train,val,test}/*.npy",
            load=_load_shapenet,
        ),
        Source(
            name="modelnet",
            description="ModelNet40 or ModelNet10, meshes",
            size="12,311 in 40 classes",
            unit="unitless",
            licence="for academic use; the models belong to their authors",
            origin="modelnet.cs.princeton.edu",
            files="modelnet/CLASS/{train,test}/*.off",
            load=_load_modelnet,
        ),
        Source(
            name="ldraw",
            description="parts of the LDraw library, a class a category",
            size="over 20,000 parts",
            unit="mm",
            licence="CC BY 4.0 or CC BY 2.0, part by part; credit the LDraw.org parts authors",
            origin="ldraw.org, complete.zip",
            files="ldraw/parts and ldraw/p, or ldraw/parts.csv with one npz of sampled points",
            load=_load_ldraw,
        ),
    )
}


def find_source(name: str) -> Source:
    """The named data set; an `InputError` names the nearest otherwise."""
    if name in SOURCES:
        return SOURCES[name]
    raise InputError(
        f"no data set is called '{name}'{nearest(name.lower(), SOURCES)}; "
        f"known: {', '.join(SOURCES)}, or a folder or file of shapes ({', '.join(FORMATS)})"
    )


def load_data(
    data: str | Path,
    *,
    data_folder: str | Path = DATA_FOLDER,
    points: int = POINTS,
    classes: Sequence[str] | None = None,
    count_per_class: int = COUNT_PER_CLASS,
    unit: str | None = None,
    up: str = "z",
    workers: int | None = None,
    seed: int = 0,
    labels: bool = True,
) -> ReadReport:
    """A data set by name (`ldraw`, looked for in `data_folder/ldraw`), or any folder or file of shapes by its path.

    Args:
        data: name or path. A name wins over a folder that is called the same; write `./ldraw` for the folder.
        data_folder: holds one folder for each named set.
        points: points to store of each shape.
        classes: names of the classes to keep; None keeps all.
        count_per_class: shapes of each class, of `procedural` only.
        unit: of the files at a path that do not say theirs: `m`, `cm`, `mm`, or None for unknown.
        up: the axis that is up in the files at a path that do not say it: `z`, `y` or `-y`.
        workers: processes; None takes all cores.
        seed: of the shapes (procedural) and of the points.
        labels: measure the shapes, of `procedural` only.

    Raises:
        InputError: no such name, folder or file, or its content cannot be used.
    """
    name = str(data)
    options: dict[str, Any] = {"points": points, "classes": classes, "workers": workers, "seed": seed}
    if name in SOURCES:
        return SOURCES[name].load(Path(data_folder) / name, count_per_class=count_per_class, labels=labels, **options)
    # What looks like a path is one; a bare word is a mistyped name.
    if not Path(name).suffix and "/" not in name and not Path(name).exists():
        find_source(name)
    return read_shapes(data, unit=unit, up=up, **options)


def options_of_training(description: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Options of `load_data` by which a model's own data were read when it learnt; the defaults for any other data.

    Args:
        description: of the model.
        data: name or path.
    """
    known = description.get("data_options", {}) if data == description.get("data") else {}
    defaults = {"points": POINTS, "count_per_class": COUNT_PER_CLASS, "unit": None, "up": "z", "classes": None}
    return {**defaults, "seed": 0, **known}


def split_data(report: ReadReport, seed: int = 0, half: str = "all") -> dict[str, np.ndarray]:
    """Part (`train`, `val`, `test`) -> sorted indices: the published split where there is one, else 80/10/10 by seed.

    Args:
        report: from `load_data`.
        seed: the same seed gives the same split; copies and near copies stay together.
        half: `a` or `b` leaves that half of the training part.
    """
    classes, groups = report.shapes.class_index, report.groups
    if report.parts is not None:
        parts = splits.published(report.parts, classes, groups, seed)
    else:
        parts = splits.split(classes, groups, seed)
    if half == "all":
        return parts
    train = parts["train"]
    return {**parts, "train": train[splits.halves(classes[train], groups[train])[half]]}
