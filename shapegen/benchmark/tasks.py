"""`TASKS` and `DOMAIN`: what benchmarks of shapes ask, and how their tables look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.benchmark.aims import error_columns
from common.benchmark.config import Benchmark
from common.benchmark.domain import Domain, Task, View
from common.benchmark.methods import METHODS as COMMON_METHODS
from common.benchmark.methods import Method, conditioned
from common.benchmark.verdict import Column
from common.rewards import Category
from shapegen.benchmark.judge import MESHED, ShapeJudge, check_target

# Shape models are told the class in training already, so that conditioning on it needs no other model.
METHODS: dict[str, Method] = {
    **COMMON_METHODS,
    "conditional": Method("conditional", "the base's own class input", conditioned(), "conditional", learns="labels"),
    "cfg": Method("cfg", "the same, guided by the difference to the unconditional",
                  conditioned(guidance="cfg", guidance_scale=2.0), "conditional", learns="labels"),
}  # fmt: skip

PUBLISHED = Path(__file__).parent / "published"

_QUALITY = (
    Column("one_piece", "closed, one piece [%]", 1, True),
    Column("meshed", "closed mesh [%]", 1, True),
    Column("1nna_cd_percent", "1-NNA CD [%], ideal 50"),
    Column("cov_cd_percent", "COV CD [%]", 1),
    Column("mmd_cd", "MMD CD", -1),
    Column("1nna_emd_percent", "1-NNA EMD [%], ideal 50"),
    Column("uniqueness_percent", "unique [%]", 1),
    Column("novelty_percent", "novel [%]"),
)


def _check_target(target: str) -> None:
    check_target(target)


def _property_columns(benchmark: Benchmark) -> list[Column]:
    """Hits first, then the errors of each quantity that is asked for, then what must not suffer."""
    found: dict[str, Column] = {}
    for target in benchmark.targets:
        for condition in check_target(target):
            if isinstance(condition.goal, Category):
                continue
            found |= {column.name: column for column in error_columns(condition)}
    return [Column("hit_rate", "hits [%]", 1, True), *found.values(), *_QUALITY]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "property",
            "Shapes of a wanted class or with a wanted property. The class is that of the nearest held-out shapes by "
            "Chamfer distance; properties are the exact labels of the mesh that is reconstructed from a sample's "
            "points. A hit has a closed mesh and meets every target. All samples count.",
            _property_columns, needs_target=True, quality="one_piece", check_target=_check_target,
            rewarded_by="the same quantities, estimated from points",
        ),
        Task(
            "unconditional",
            "Shapes as in the data: a closed mesh, and distances to held-out shapes (1-NNA, COV, MMD).",
            lambda benchmark: list(_QUALITY), needs_target=False, quality="one_piece",
        ),
    )
}  # fmt: skip


def views(kept: Path, count: int) -> list[View]:
    """The first `count` samples with a closed mesh as point clouds, with what the judge measured."""
    from shapegen.data.shapes import ShapeSet
    from shapegen.geometry.view3d import cloud_figure

    shapes = ShapeSet.load(kept, memory_map=True)
    found = []
    for index in np.flatnonzero(shapes.properties[MESHED] > 0)[:count]:
        measured = [
            f"{name} {values[index]:.3g}"
            for name, values in shapes.properties.items()
            if name in _SHOWN and np.isfinite(values[index])
        ]
        name = shapes.class_names[shapes.class_index[index]]
        figure = cloud_figure(shapes.points[index], int(shapes.class_index[index]))
        found.append(View(" · ".join([name, *measured]), json.loads(figure.to_json() or "{}")))
    return found


# Of all labels, those that a caption has room for.
_SHOWN = ("aspect_ratio", "height_m", "volume_m3", "height", "volume")

DOMAIN = Domain(
    program="shapegen", methods=METHODS, tasks=TASKS, judge=ShapeJudge, published=PUBLISHED, views=views,
    kept="judged.npz", what="shapes",
)  # fmt: skip
