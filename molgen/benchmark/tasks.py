"""`TASKS` and `DOMAIN`: what benchmarks of molecules ask, and how their tables look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.benchmark.aims import error_columns, short_name
from common.benchmark.config import Benchmark
from common.benchmark.domain import Domain, Task, View
from common.benchmark.methods import METHODS
from common.benchmark.verdict import Column
from molgen.benchmark import edm_properties
from molgen.benchmark.judge import VALID, MoleculeJudge, check_target

PUBLISHED = Path(__file__).parent / "published"

_QUALITY = (
    Column("validity_x_uniqueness", "valid x unique [%]", 1, True),
    Column("molecule_stability", "molecules stable [%]", 1, True),
    Column("atom_stability", "atoms stable [%]", 1, True),
    Column("novelty", "novel [%]", 0, True),
    Column("connectedness", "connected [%]", 1, True),
    Column("atoms", "atoms", 0),
)


def _check_target(target: str) -> None:
    check_target(target)


def _property_columns(benchmark: Benchmark) -> list[Column]:
    """Hits first, then the errors of each quantity that is asked for, then what must not suffer."""
    errors: dict[str, Column] = {}
    for target in benchmark.targets:
        for condition in check_target(target):
            columns = error_columns(condition)
            name = condition.quantity.name
            if any(quantity in (name, short_name(condition)) for quantity in benchmark.second_judges):
                columns.append(Column(f"mae[{name}, second judge]", f"{columns[0].title}, second judge", -1))
            errors |= {column.name: column for column in columns}
    return [
        Column("hit_rate", "hits [%]", 1, True),
        Column("distinct_hit_rate", "distinct hits [%]", 1, True),
        *errors.values(),
        *_QUALITY,
    ]


def _unconditional_columns(benchmark: Benchmark) -> list[Column]:
    return [
        Column("validity", "valid [%]", 1, True),
        *_QUALITY,
        Column("edm_validity", "valid, EDM's rule [%]", 1, True),
        Column("edm_validity_x_uniqueness", "valid x unique, EDM's rule [%]", 1, True),
        Column("bond_length_w1_angstrom", "bond lengths W1 [A]", -1),
        Column("atom_count_tv", "sizes TV", -1),
    ]


def _edm_columns(benchmark: Benchmark) -> list[Column]:
    return [*edm_properties.columns(benchmark), *(_QUALITY if benchmark.targets else ())]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "property",
            "Molecules with a wanted property. A hit is valid (bonds perceived by RDKit, sanitised, one piece) and "
            "within the tolerance of every target by GFN2-xTB on the geometry as generated. All samples count; what "
            "xTB cannot compute hits nothing.",
            _property_columns, needs_target=True, quality="validity_x_uniqueness", check_target=_check_target,
        ),
        Task(
            "unconditional",
            "Molecules as in the data. All samples count.",
            _unconditional_columns, needs_target=False, quality="validity_x_uniqueness",
        ),
        Task(
            edm_properties.TASK,
            "EDM's six-property protocol (arXiv 2203.17003, section 5.2): the judge is trained on one half of the "
            "training part, the generator's control on the other, from whose joint law of size and property targets "
            "are drawn; the error is the mean over all samples, valid or not.",
            _edm_columns, needs_target=None, quality="validity_x_uniqueness", references=edm_properties.references,
            check_target=edm_properties.check_target, takes_judges=True, methods=edm_properties.METHODS,
            options=edm_properties.options_of,
        ),
    )
}  # fmt: skip


def views(kept: Path, count: int) -> list[View]:
    """The first `count` valid molecules of a judged set as balls and sticks, with what the judge measured."""
    from molgen.chemistry.perception import perceive
    from molgen.chemistry.view3d import figure
    from molgen.data.molecules import MoleculeSet

    molecules = MoleculeSet.load(kept)
    first = np.flatnonzero(molecules.properties[VALID] > 0)[:count]
    shown = molecules.select(first)
    found = []
    for index, one in zip(first, perceive(shown, workers=1), strict=True):
        if one.mol is None:
            continue
        measured = [
            f"{name} {values[index]:.4g}"
            for name, values in molecules.properties.items()
            if name != VALID and np.isfinite(values[index])
        ]
        caption = " · ".join([one.smiles or "", *measured])
        found.append(View(caption, json.loads(figure(one.mol).to_json() or "{}")))
    return found


DOMAIN = Domain(
    program="molgen", methods=METHODS, tasks=TASKS, judge=MoleculeJudge, published=PUBLISHED, views=views,
    kept="judged.npz", what="molecules",
)  # fmt: skip
