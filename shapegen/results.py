"""What a generation leaves on disk: point clouds, a table, a picture."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import trimesh

from common.atomic import atomic_writer
from shapegen.data.shapes import UNITLESS, ShapeSet
from shapegen.geometry.drawing import contact_sheet

RAW_SAMPLES = "samples.npz"


def write_samples(directory: Path, shapes: ShapeSet) -> None:
    """`samples.npz` (as generated), `samples/NUMBER-CLASS.ply` for each, and `samples.csv` with their extents."""
    shapes.save(directory / RAW_SAMPLES)
    folder = directory / "samples"
    folder.mkdir(exist_ok=True)
    suffix = "" if shapes.unit == UNITLESS else f"_{shapes.unit}"
    rows = []
    for i, (points, extents) in enumerate(zip(shapes.points, shapes.extents, strict=True)):
        name = shapes.class_names[shapes.class_index[i]]
        # A class is called what a data set calls it, and may not lead out of the folder.
        safe = re.sub(r"[^\w.-]+", "_", name)
        file_name = f"{i:05d}-{safe}.ply"
        with atomic_writer(folder / file_name, "wb") as file:
            file.write(trimesh.PointCloud(points).export(file_type="ply"))
        width, depth, height = (f"{extent:.6g}" for extent in extents)
        rows.append([i, name, f"samples/{file_name}", len(points), width, depth, height])
    with atomic_writer(directory / "samples.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "class", "file", "points", *(f"{d}{suffix}" for d in ("width", "depth", "height"))])
        writer.writerows(rows)


def draw_samples(path: Path, shapes: ShapeSet, count: int) -> None:
    """A picture of the first `count` shapes; each class has its colour."""
    shown = shapes.select(range(min(count, len(shapes))))
    names = [shown.class_names[index] for index in shown.class_index]
    contact_sheet(shown.points, path, names if len(shown.class_names) > 1 else None, groups=shown.class_index.tolist())
