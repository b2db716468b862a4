"""`shapegen score`: raw scores, and the reward made of them, for any meshes and point clouds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.options import argument, option
from common.cli.scoring import ScoringOptions, combine, read_aims, report, score_rows, summarise
from common.errors import InputError

if TYPE_CHECKING:
    from shapegen.data.items import ShapeItem
    from shapegen.rewards.scoring import Given
    from shapegen.rewards.table import Scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScoringOptions):
    """Options of `shapegen score`."""

    shapes: list[str] = argument("run directories, or files of point clouds or meshes", several=True)
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str = option("z", "the axis that is up in files that do not say it: z, y or -y")
    count: int | None = option(None, "at most so many shapes of each run or file", at_least=1)
    device: str = option("auto", "where clouds are estimated: auto, cpu, cuda or mps")


def run(options: ScoreOptions) -> dict[str, Any]:
    """Read, score, print, write."""
    from common.cli.doctor import pick_device
    from common.rewards import ScoreCache
    from common.workers import available_cores
    from shapegen.data.items import find_items
    from shapegen.data.records import UP_AXES
    from shapegen.data.shapes import UNITLESS
    from shapegen.rewards.reward import read_conditions, scorers_of
    from shapegen.rewards.scoring import ShapeScorer

    if options.up not in UP_AXES:
        raise InputError(f"got --up {options.up}, expected one of {', '.join(UP_AXES)}")
    conditions, objective, workers, launcher = read_aims(options, "shapegen", read_conditions)
    device = pick_device(options.device)
    items = find_items(options.shapes, options.unit, options.count)
    if not items:
        raise InputError(f"nothing to score: {', '.join(options.shapes)} holds no shapes")
    shapes, kept, skipped, unit = _read(
        items, options.up, options.workers if isinstance(options.workers, int) else None
    )
    if workers is None and launcher is None:
        workers = max(1, min(available_cores(), len(shapes)))
    for condition in conditions:
        logger.info("%s", condition)
    scorers = scorers_of(conditions)
    cache = ScoreCache(path=options.cache or None)
    # Files that rewards name are in the unit of the shapes' files.
    with ShapeScorer(
        scorers, workers, options.time_limit, cache, launcher, unit=unit if unit == UNITLESS else options.unit or unit,
        device=device,
    ) as scorer:  # fmt: skip
        table = scorer.score(shapes)
    reward = combine(objective, table)
    heads = [
        {"name": item.name, "source": item.source, "kind": "mesh" if one.mesh is not None else "points"}
        for item, one in zip(kept, shapes, strict=True)
    ]
    rows = score_rows(heads, table, reward)
    result = summarise("shapes", rows, conditions, table, objective, reward, skipped)
    report(result, "shapes", options, _remarks(scorers, shapes))
    return result


def _read(items: Sequence[ShapeItem], up: str, workers: int | None) -> tuple[list[Given], list[ShapeItem], int, str]:
    """The shapes in metres (or without a unit), their items, how many could not be read, and their one unit.

    Raises:
        InputError: none could be read, or some have a unit and some have none.
    """
    import numpy as np
    import trimesh

    from common.workers import Failure
    from shapegen.data.items import describe_item_failure, read_items
    from shapegen.data.shapes import METRES, UNITLESS
    from shapegen.rewards.calculation import Triangles
    from shapegen.rewards.scoring import Given

    shapes, kept, units = [], [], []
    for item, found in zip(items, read_items(items, up, workers), strict=True):
        if isinstance(found, Failure):
            logger.warning("%s: %s", item.source, describe_item_failure(found))
            continue
        shape, unit = found
        factor = METRES.get(unit, 1.0)
        if isinstance(shape, trimesh.Trimesh):
            given = Given(mesh=Triangles(np.asarray(shape.vertices, float) * factor, np.asarray(shape.faces)))
        else:
            given = Given(np.asarray(shape, float) * factor)
        shapes.append(given)
        kept.append(item)
        units.append(unit)
    if not shapes:
        raise InputError(f"none of {len(items)} shapes could be read")
    without = units.count(UNITLESS)
    if 0 < without < len(units):
        raise InputError(
            f"{without} of {len(units)} shapes have no unit, the others have; say it: --unit mm (or m, cm)"
        )
    return shapes, kept, len(items) - len(shapes), units[0]


def _remarks(scorers: Sequence[Scorer], shapes: Sequence[Given]) -> list[str]:
    """What is exact, what is estimated, and from what."""
    from shapegen.rewards.table import Place

    clouds = sum(one.mesh is None for one in shapes)
    meshes = len(shapes) - clouds
    lines = []
    estimated = [s.name for s in scorers if s.place is Place.POINTS]
    if estimated and clouds:
        lines.append(f"estimated from points for {clouds} clouds: {', '.join(estimated)} (errors: docs/results.md)")
    sampled = [s.name for s in scorers if s.place is Place.POINTS and not s.exact]
    if sampled and meshes:
        lines.append(f"from 2,048 points drawn on {meshes} meshes: {', '.join(sampled)}")
    made = [s.name for s in scorers if s.needs == "mesh"]
    if made and clouds:
        lines.append(f"on surfaces reconstructed from {clouds} clouds: {', '.join(made)}")
    exact = [s.name for s in scorers if s.exact]
    if exact and meshes:
        lines.append(f"exact for {meshes} meshes: {', '.join(exact)}")
    return lines


VERB = Verb("score", "score meshes and point clouds from files or runs by any reward", ScoreOptions, run)
