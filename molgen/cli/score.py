"""`molgen score`: raw scores, and the reward made of them, for any molecules."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.options import argument, option
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.rewards import Condition, RewardResult
    from molgen.chemistry.perception import Perceived
    from molgen.data.files import ReadReport
    from molgen.rewards.scoring import ScoreTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(CommonOptions):
    """Options of `molgen score`."""

    samples: str = argument("molecule file (SDF, XYZ, npz, ...) or a run directory")
    reward: list[str] = option(
        [], "what to score, may be repeated: gap, 'gap=4.5±0.2', 'maximise qed', my_score.py:score"
    )
    aggregate: str = option("weighted_sum", "how several aims become one: weighted_sum, product or lexicographic")
    floor: float | None = option(None, "reward of failures, and the lowest there is (default: failures have none)")
    output: str = option("", "CSV file for the table, one row a molecule")
    show: int = option(20, "rows printed")
    workers: int | str | None = option(None, "processes (default: one a core), or ray for a Ray cluster")
    time_limit: float = option(60.0, "seconds for one molecule and one kind of calculation")
    cache: str = option("", "file that keeps scores, so that no geometry is scored twice")


def run(options: ScoreOptions) -> dict[str, Any]:
    """Read, score, print, write."""
    from common.rewards import Objective, ScoreCache
    from common.workers import available_cores, choose_workers
    from molgen.chemistry.perception import perceive
    from molgen.rewards.reward import read_conditions, scorers_of
    from molgen.rewards.scoring import MoleculeScorer

    if not options.reward:
        raise InputError("nothing to score; give --reward, such as --reward gap (`molgen rewards` lists all)")
    workers, launcher = choose_workers(options.workers)
    conditions = read_conditions(options.reward, launcher)
    aims = any(condition.goal is not None for condition in conditions)
    # Before the work, because it may refuse.
    objective = Objective(conditions, options.aggregate, options.floor) if aims else None
    report = _read(Path(options.samples), workers)
    molecules = report.molecules
    if workers is None and launcher is None:
        workers = max(1, min(available_cores(), len(molecules)))
    for condition in conditions:
        logger.info("%s", condition)
    perceived = perceive(molecules, workers)
    cache = ScoreCache(path=options.cache or None)
    with MoleculeScorer(scorers_of(conditions), workers, options.time_limit, cache, launcher) as scorer:
        table = scorer.score(molecules, perceived)
    reward = _combine(objective, table) if objective is not None else None
    rows = _rows(report, perceived, table, reward)
    if options.output:
        _write(Path(options.output), rows)
    result = {
        "n_molecules": len(molecules),
        "skipped": len(report.skipped),
        "reward": str(objective) if objective is not None else None,
        "valid": None if reward is None else int(reward.valid.sum()),
        "columns": _summaries(conditions, table),
        "failures": dict(table.failures if reward is None else reward.failures),
        "molecules": rows,
    }
    if not options.json:
        _print(result, options)
    if len(molecules) and not any(column["n"] for column in result["columns"].values()):
        raise IncompleteError(f"none of {len(molecules)} molecules could be scored: {next(iter(result['failures']))}")
    return result


def _read(path: Path, workers: int | None) -> ReadReport:
    from molgen.data.files import ReadReport, read_molecules
    from molgen.data.molecules import MoleculeSet
    from molgen.results import RAW_SAMPLES

    if path.is_dir():
        if not (path / RAW_SAMPLES).exists():
            raise InputError(f"{path} holds no samples; expected a run of `molgen generate`, or a molecule file")
        return ReadReport(MoleculeSet.load(path / RAW_SAMPLES))
    return read_molecules(path, workers=workers)


def _combine(objective: Any, table: ScoreTable) -> RewardResult:
    import torch

    from common.rewards import Measured

    values = {name: torch.from_numpy(column) for name, column in table.values.items()}
    return objective.combine([Measured(values, table.failures)], dtype=torch.float64)


def _rows(
    report: ReadReport, perceived: Sequence[Perceived], table: ScoreTable, reward: RewardResult | None
) -> list[dict[str, Any]]:
    rows = []
    for i, one in enumerate(perceived):
        row: dict[str, Any] = {"index": i, "smiles": one.smiles}
        if report.identifiers and any(report.identifiers):
            row["name"] = report.identifiers[i]
        row |= {name: float(column[i]) for name, column in table.values.items()}
        if reward is not None:
            row |= {"reward": float(reward.values[i]), "reward_valid": bool(reward.valid[i])}
        row["failures"] = "; ".join(f"{name}: {reasons[i]}" for name, reasons in table.reasons.items() if reasons[i])
        rows.append(row)
    return rows


def _summaries(conditions: Sequence[Condition], table: ScoreTable) -> dict[str, dict[str, Any]]:
    """Column -> unit, number scored, mean, standard deviation, lowest and highest."""
    units = {condition.quantity.name: condition.quantity.unit for condition in conditions}
    summaries = {}
    for name, column in table.values.items():
        known = column[column == column]
        some = len(known) > 0
        summaries[name] = {
            "unit": units[name],
            "n": len(known),
            "mean": float(known.mean()) if some else None,
            "std": float(known.std()) if some else None,
            "min": float(known.min()) if some else None,
            "max": float(known.max()) if some else None,
        }
    return summaries


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from common.atomic import atomic_writer

    with atomic_writer(path) as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["index"], lineterminator="\n")
        writer.writeheader()
        # A missing value is an empty cell.
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)


def _print(result: dict[str, Any], options: ScoreOptions) -> None:
    rows = result["molecules"]
    keys = [key for key in (rows[0] if rows else {}) if key not in ("reward_valid", "failures")]
    if rows and any(row["failures"] for row in rows[: options.show]):
        keys.append("failures")
    units = {name: column["unit"] for name, column in result["columns"].items()}
    print_table(
        f"{result['n_molecules']} molecules",
        [f"{key} [{units[key]}]" if units.get(key) else key for key in keys],
        [[_cell(row[key]) for key in keys] for row in rows[: options.show]],
    )
    if len(rows) > options.show:
        print(f"... and {len(rows) - options.show} more (--show N, --output FILE.csv)")
    summary = [
        (name, column["unit"] or "-", column["n"], *(_cell(column[key]) for key in ("mean", "std", "min", "max")))
        for name, column in result["columns"].items()
    ]
    print_table("scores", ("score", "unit", "n", "mean", "std", "min", "max"), summary)
    if result["reward"]:
        print(f"reward: {result['reward']}; {result['valid']} of {result['n_molecules']} valid")
    for reason, count in result["failures"].items():
        print(f"failed: {count} x {reason}")
    if options.output:
        print(options.output)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


VERB = Verb("score", "score molecules from a file or a run by any reward", ScoreOptions, run)
