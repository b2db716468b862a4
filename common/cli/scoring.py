"""What the verbs `rewards` and `score` of both commands share: options, tables on screen, tables in files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.atomic import check_place
from common.cli.app import CommonOptions, print_table
from common.cli.options import option
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from common.rewards import Condition, Objective, RewardResult
    from common.rewards.scoring import ScoreTable
    from common.workers import Launcher


# Scores that fit on a screen beside each other.
_SIDE_BY_SIDE = 7
# Columns that are for files, or have a place of their own on the screen.
_FILE_ONLY = ("source", "reward", "reward_valid", "failures")
# Characters of what a failure said that are shown.
_DETAIL = 200


class ListedScorer(Protocol):
    """What `rewards` shows of a scorer; the attributes are those of `common.rewards.Quantity` and of the tables."""

    name: str
    takes: str
    aliases: tuple[str, ...]
    unit: str | None
    tolerance: float | None
    bounds: tuple[float, float] | None
    description: str

    @property
    def needs(self) -> str:
        """What a user has to provide."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether its values carry gradients."""
        ...

    @property
    def device(self) -> str:
        """Where it runs."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(CommonOptions):
    """Options of `score` in both domains."""

    reward: list[str] = option([], "what to score, may be repeated: NAME, 'NAME=4.5±0.2', 'maximise NAME', "
                                   "my_score.py:score (the verb rewards lists the names)")  # fmt: skip
    aggregate: str = option("weighted_sum", "how several aims become one: weighted_sum, product or lexicographic")
    floor: float | None = option(None, "reward of failures, and the lowest there is (default: failures have none)")
    output: str = option("", "CSV file for the table, one row a sample")
    show: int = option(20, "rows printed", at_least=0)
    workers: int | str | None = option(None, "processes (default: one a core), or ray for a Ray cluster", at_least=1)
    time_limit: float = option(60.0, "seconds for one sample and one kind of calculation", above=0)
    cache: str = option("", "file that keeps scores, so that no geometry is scored twice")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        if self.output:
            check_place(self.output)


def list_rewards(
    options: CommonOptions,
    scorers: Iterable[Any],
    group: str,
    aims: str,
    costs: Mapping[str, float] | None = None,
    remark: str = "",
) -> dict[str, Any]:
    """What the verb `rewards` prints and gives.

    Args:
        options: of the verb.
        scorers: the domain's (`ListedScorer`).
        group: of entry points, under which installed packages offer functions.
        aims: how to say what is wanted, for people.
        costs: name -> seconds a sample, where they were measured.
        remark: on the costs.
    """
    from common.user_function import installed_functions

    rows = list_scorers(scorers, costs or {})
    # Loading an installed package's function is running its code, so they are only named.
    installed = {name: point.value for name, point in installed_functions(group).items()}
    if not options.json:
        print_scorers(rows, costs is not None)
        if remark:
            print(remark)
        for name, value in installed.items():
            print(f"installed: {name} ({value})")
        print(aims)
    return {"rewards": rows, "installed": installed}


def list_scorers(scorers: Iterable[Any], costs: Mapping[str, float]) -> list[dict[str, Any]]:
    """One JSON object for each scorer (`ListedScorer`), with its cost in seconds a sample if that was measured."""
    rows: list[ListedScorer] = list(scorers)
    return [
        {
            "name": scorer.name,
            "takes": scorer.takes,
            "aliases": list(scorer.aliases),
            "unit": scorer.unit,
            "needs": scorer.needs,
            "differentiable": scorer.differentiable,
            "device": scorer.device,
            "tolerance": scorer.tolerance,
            "bounds": scorer.bounds,
            "description": scorer.description,
            "seconds_per_sample": costs.get(scorer.name),
        }
        for scorer in rows
    ]


def print_scorers(scorers: Sequence[Mapping[str, Any]], measured: bool) -> None:
    """The table of `list_scorers` for people."""
    rows = []
    for s in scorers:
        row = [
            s["name"] + (f"({s['takes']})" if s["takes"] else ""),
            min(s["aliases"], key=len, default=""),
            s["unit"] or "-",
            s["needs"],
            "yes" if s["differentiable"] else "no",
            s["device"],
            s["description"],
        ]
        if measured:
            seconds = s["seconds_per_sample"]
            row.insert(6, "-" if seconds is None else f"{1e3 * seconds:.3g}")
        rows.append(row)
    columns = ["name", "short", "unit", "needs", "differentiable", "device", "what"]
    if measured:
        columns.insert(6, "ms a sample")
    print_table("scorers", columns, rows)
    if not measured:
        print("what each costs on this machine, per sample: --measure")


def read_aims(
    options: ScoringOptions, program: str, read: Callable[[Sequence[str], Launcher | None], tuple[Condition, ...]]
) -> tuple[tuple[Condition, ...], Objective | None, int | None, Launcher | None]:
    """What was typed, before any work: conditions, the objective where there are aims, workers and their launcher.

    Args:
        options: of the verb.
        program: the command, for messages.
        read: texts and launcher -> conditions of the domain.

    Raises:
        InputError: nothing to score, or something that cannot be read.
    """
    from common.rewards import Objective, find_aggregate
    from common.workers import choose_workers

    if not options.reward:
        raise InputError(f"nothing to score; give --reward NAME (`{program} rewards` lists all)")
    find_aggregate(options.aggregate)
    workers, launcher = choose_workers(options.workers)
    conditions = read(options.reward, launcher)
    aims = any(condition.goal is not None for condition in conditions)
    return conditions, Objective(conditions, options.aggregate, options.floor) if aims else None, workers, launcher


def combine(objective: Objective | None, table: ScoreTable) -> RewardResult | None:
    """The rewards of a table of raw scores; None where nothing is aimed at."""
    import torch

    from common.rewards import Measured

    if objective is None:
        return None
    values = {name: torch.from_numpy(column) for name, column in table.values.items()}
    return objective.combine([Measured(values, table.failures)], dtype=torch.float64)


def score_rows(heads: Sequence[dict[str, Any]], table: ScoreTable, reward: RewardResult | None) -> list[dict[str, Any]]:
    """One row a sample: `heads`, which say what it is, its scores, its reward, and why something failed."""
    rows = []
    for i, head in enumerate(heads):
        row = {"index": i, **head} | {name: float(column[i]) for name, column in table.values.items()}
        if reward is not None:
            row |= {"reward": float(reward.values[i]), "reward_valid": bool(reward.valid[i])}
        row["failures"] = "; ".join(f"{name}: {reasons[i]}" for name, reasons in table.reasons.items() if reasons[i])
        rows.append(row)
    return rows


def summarise(
    noun: str,
    rows: list[dict[str, Any]],
    conditions: Sequence[Condition],
    table: ScoreTable,
    objective: Objective | None,
    reward: RewardResult | None,
    skipped: int = 0,
) -> dict[str, Any]:
    """What `--json` prints. `noun` is the plural of what a sample is."""
    return {
        f"n_{noun}": len(rows),
        "skipped": skipped,
        "reward": None if objective is None else str(objective),
        "valid": None if reward is None else int(reward.valid.sum()),
        "columns": _summaries(conditions, table),
        "failures": dict(table.failures if reward is None else reward.failures),
        "details": dict(table.details),
        noun: rows,
    }


def report(result: dict[str, Any], noun: str, options: ScoringOptions, remarks: Sequence[str] = ()) -> None:
    """Write the table if asked, print it, and raise `IncompleteError` where nothing could be scored."""
    rows = result[noun]
    if options.output:
        _write(Path(options.output), rows)
    if not options.json:
        _print(result, noun, options, remarks)
    if rows and not any(column["n"] for column in result["columns"].values()):
        why = next(iter(result["failures"]))
        raise IncompleteError(f"none of {len(rows)} {noun} could be scored: {why}{_detail(result, why)}", result)


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


def _print(result: dict[str, Any], noun: str, options: ScoringOptions, remarks: Sequence[str]) -> None:
    rows = result[noun]
    units = {name: column["unit"] for name, column in result["columns"].items()}
    for keys in _tables(rows, units, options.show):
        print_table(
            f"{len(rows)} {noun}",
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
    for remark in remarks:
        print(remark)
    if result["reward"]:
        print(f"reward: {result['reward']}; {result['valid']} of {len(rows)} valid")
    for reason, count in result["failures"].items():
        print(f"failed: {count} x {reason}{_detail(result, reason)}")
    if options.output:
        print(options.output)


def _detail(result: Mapping[str, Any], reason: str) -> str:
    """What the first sample that failed for a reason said, in brackets."""
    return f" ({result['details'][reason][:_DETAIL]})" if reason in result["details"] else ""


def _tables(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Any], show: int) -> list[list[str]]:
    """The columns of each table: what a sample is, a few scores, and why they failed where one table holds all."""
    if not rows:
        return [[]]
    heads = [key for key in rows[0] if key not in scores and key not in _FILE_ONLY]
    values = [key for key in rows[0] if key in scores or key == "reward"]
    parts = [values[start : start + _SIDE_BY_SIDE] for start in range(0, len(values), _SIDE_BY_SIDE)]
    # With many scores the reasons would fill the screen; they are counted below the tables.
    failures = ["failures"] if len(parts) == 1 and any(row["failures"] for row in rows[:show]) else []
    return [[*heads, *part, *failures] for part in parts]


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
