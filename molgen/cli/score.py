"""`molgen score`: raw scores, and the reward made of them, for any molecules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.options import argument
from common.cli.scoring import ScoringOptions, combine, read_aims, report, score_rows, summarise

if TYPE_CHECKING:
    from molgen.chemistry.perception import Perceived
    from molgen.data.files import ReadReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScoringOptions):
    """Options of `molgen score`."""

    samples: str = argument("molecule file (SDF, XYZ, npz, ...) or a run directory")


def run(options: ScoreOptions) -> dict[str, Any]:
    """Read, score, print, write."""
    from common.rewards import ScoreCache
    from common.workers import available_cores
    from molgen.chemistry.perception import perceive
    from molgen.results import read_samples
    from molgen.rewards.reward import read_conditions, scorers_of
    from molgen.rewards.scoring import MoleculeScorer

    conditions, objective, workers, launcher = read_aims(options, "molgen", read_conditions)
    source = read_samples(options.samples, workers)
    molecules = source.molecules
    if workers is None and launcher is None:
        workers = max(1, min(available_cores(), len(molecules)))
    for condition in conditions:
        logger.info("%s", condition)
    perceived = perceive(molecules, workers)
    cache = ScoreCache(path=options.cache or None)
    with MoleculeScorer(scorers_of(conditions), workers, options.time_limit, cache, launcher) as scorer:
        table = scorer.score(molecules, perceived)
    reward = combine(objective, table)
    rows = score_rows(_heads(source, perceived), table, reward)
    result = summarise("molecules", rows, conditions, table, objective, reward, len(source.skipped))
    report(result, "molecules", options)
    return result


def _heads(source: ReadReport, perceived: Sequence[Perceived]) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {"smiles": [one.smiles for one in perceived]}
    if len(source.indices):
        columns["record"] = source.indices.tolist()
    if any(source.identifiers):
        columns["name"] = source.identifiers
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


VERB = Verb("score", "score molecules from a file or a run by any reward", ScoreOptions, run)
