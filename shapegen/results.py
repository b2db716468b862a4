"""What a generation leaves on disk: point clouds, a table, a picture."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import numpy as np
import trimesh

from common.atomic import atomic_writer
from shapegen.data.records import cloud_labels
from shapegen.data.shapes import METRES, ShapeSet
from shapegen.geometry.drawing import contact_sheet

logger = logging.getLogger(__name__)

RAW_SAMPLES = "samples.npz"


def write_samples(directory: Path, shapes: ShapeSet, device: str = "cpu") -> None:
    """`samples.npz` (as generated), `samples/NUMBER-CLASS.ply` for each, and `samples.csv` with their properties.

    Args:
        directory: of the run.
        shapes: what was generated.
        device: where properties are estimated.
    """
    shapes.save(directory / RAW_SAMPLES)
    folder = directory / "samples"
    folder.mkdir(exist_ok=True)
    properties = cloud_properties(shapes, device)
    rows = []
    for i, points in enumerate(shapes.points):
        name = shapes.class_names[shapes.class_index[i]]
        # A class is called what a data set calls it, and may not lead out of the folder.
        safe = re.sub(r"[^\w.-]+", "_", name)
        file_name = f"{i:05d}-{safe}.ply"
        with atomic_writer(folder / file_name, "wb") as file:
            file.write(trimesh.PointCloud(points).export(file_type="ply"))
        values = (f"{column[i]:.6g}" if np.isfinite(column[i]) else "" for column in properties.values())
        rows.append([i, name, f"samples/{file_name}", len(points), *values])
    with atomic_writer(directory / "samples.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "class", "file", "points", *properties])
        writer.writerows(rows)


def cloud_properties(shapes: ShapeSet, device: str = "cpu") -> dict[str, np.ndarray]:
    """Column -> (M,): the extents of the points and their ratios, then what `shapegen rewards` estimates from points.

    In powers of the metre whatever the set's unit. A set without a unit has its extents as they are, and estimates only
    of what no length enters. NaN where a cloud is no surface of a body.
    """
    # Here, as only this wants torch.
    from shapegen.rewards.scoring import Given, ShapeScorer
    from shapegen.rewards.table import REWARDS, Place

    known = shapes.unit in METRES
    columns = cloud_labels(shapes.points, shapes.unit)
    scorers = [
        scorer for scorer in REWARDS.values()
        if scorer.place is Place.POINTS and not scorer.takes and scorer.name not in columns
        and (known or not scorer.power)
    ]  # fmt: skip
    clouds = [Given(points * METRES.get(shapes.unit, 1.0)) for points in shapes.points]
    with ShapeScorer(scorers, unit=shapes.unit, device=device) as scorer:
        return {**columns, **scorer.score(clouds).values}


def draw_samples(path: Path, shapes: ShapeSet, count: int) -> None:
    """A picture of the first `count` shapes that are finite; each class has its colour."""
    finite = np.flatnonzero(np.isfinite(shapes.points).all(axis=(1, 2)))[:count]
    if not len(finite):
        logger.warning("no picture: no sample is finite")
        return
    shown = shapes.select(finite)
    names = [shown.class_names[index] for index in shown.class_index]
    contact_sheet(shown.points, path, names if len(shown.class_names) > 1 else None, groups=shown.class_index.tolist())
