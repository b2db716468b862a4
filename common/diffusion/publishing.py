"""Trained models into a package: weights in half precision, measured quality, and a card."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.atomic import atomic_writer
from common.cli.run_directory import RunDirectory
from common.diffusion.model_file import read_model, save_model

# description, rows of metrics by name, run.json of the judged samples -> Markdown.
Card = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], str]


def publish(run: Path, judged: Path, target: Path, domain: str, shown: Sequence[str], card: Card) -> None:
    """Write `target` from the model of `run` and the metrics of `judged`, samples of it.

    Args:
        run: a training run.
        judged: a run of `generate` with that model, evaluated; what it measured is the quality that is shown.
        target: the folder to write; its name becomes the model's.
        domain: `molgen` or `shapegen`.
        shown: names of the metrics for the card.
        card: writes it.

    Raises:
        InputError: either folder is not what it should be.
    """
    description, weights = read_model(run, domain)
    record, metrics = RunDirectory(judged).read_json("run.json"), RunDirectory(judged).read_json("metrics.json")
    rows = {row["name"]: row for row in metrics["metrics"] if row["name"] in shown and row["value"] is not None}
    description |= {
        "name": target.name,
        "licence": "MIT",
        "quality": {name: text(row, "value") for name, row in rows.items()},
    }
    if target.exists():
        shutil.rmtree(target)
    save_model(target, {name: value.to(torch.float16) for name, value in weights.items()}, description)
    with atomic_writer(target / "README.md") as file:
        file.write(card(description, rows, record))


# Parts of names of distances and divergences, which are no shares even where they are below 1.
_NO_SHARES = ("cd", "emd", "jsd")


def text(row: dict[str, Any], key: str) -> str:
    """A number of a metric's row, shares in percent."""
    value = row[key]
    if value is None:
        return "-"
    if row["name"].endswith("_percent"):
        return f"{value:.1f} %"
    share = 0 <= row["value"] <= 1 and not any(unit in row["name"] for unit in _NO_SHARES)
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"


def table(rows: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| {name} | {text(row, 'value')} | {text(row, 'low')} to {text(row, 'high')} | {row['n']} | {row['rule']} |"
        for name, row in rows.items()
    ]
    return "\n".join(["| metric | value | 95 % interval | n | rule |", "|---|---|---|---|---|", *lines])


def facts(description: dict[str, Any], samples: str, data_licence: str) -> str:
    """What every card says first, as a Markdown table."""
    training, sampler = description["training"], description["sampler"]
    spent = f"{training['steps']} steps, {training['samples_seen']} {samples}, {training['seconds'] / 60:.0f} minutes"
    spaced = f", exponent {sampler['exponent']:g}" if sampler.get("exponent", 1) != 1 else ""
    taught = _taught(description["teacher"]) if "teacher" in description else ""
    return f"""| | |
|---|---|
| task | {description["task"]} |
| network | `{description["network"]["name"]}`, {training["parameters"] / 1e6:.2f} million parameters, in float16 |
| data | `{description["data"]}`, training part (hash {description["data_hash"]}) |
| training | {spent} |{taught}
| sampler | {sampler["solver"]}, {sampler["steps"]} network evaluations{spaced} |
| licence | weights: MIT; data: {data_licence} |"""


def _taught(teacher: dict[str, Any]) -> str:
    """The row of the model whose answers were learnt."""
    said = [f"`{teacher['model']}`"]
    if "weaker" in teacher:
        said.append(f"autoguided away from `{teacher['weaker']}`")
    settings = {name: value for name, value in teacher.items() if name not in ("model", "weaker")}
    said += [name if value is True else f"{name} {value:g}" for name, value in settings.items()]
    return f"\n| teacher | {', '.join(said)} |"


def measured(record: dict[str, Any]) -> str:
    """The command behind the numbers."""
    return f"`{record['command']}` (seed {record['seed']}, {record['device']}, {record['started'][:10]})"


def main(folder: Path, domain: str, shown: Sequence[str], card: Card, usage: str | None) -> None:
    """The command `python -m DOMAIN.pretrained.publish RUN JUDGED NAME`."""
    parser = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("judged", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    publish(options.run, options.judged, folder / options.name, domain, shown, card)
