"""Put a trained predictor into a package: weights in half precision, and a card that says what was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.atomic import atomic_writer
from common.cli.run_directory import RunDirectory
from common.predictors.predictor import CLASS, ModelPredictor


def publish(run: Path, predictor: ModelPredictor, target: Path, purpose: str, limits: str) -> None:
    """Write `target` from a run of `train-predictor`.

    Args:
        run: its folder.
        predictor: what it made.
        target: the folder to write; its files are replaced one by one. Its name becomes the predictor's.
        purpose: one sentence: what of.
        limits: lines of Markdown: what it cannot do.

    Raises:
        InputError: the folder is no run.
    """
    record = RunDirectory(run).read_json("run.json")
    predictor.description = {**predictor.description, "name": target.name, "licence": "MIT"}
    # Parameters bear half precision; what was computed beside them (buffers) does not always.
    halved = {name for name, _ in predictor.network.named_parameters()}
    predictor.save(target, lambda name, value: value.to(torch.float16) if name in halved else value)
    with atomic_writer(target / "README.md") as file:
        file.write(card(predictor, record, purpose, limits))


def card(predictor: ModelPredictor, record: Mapping[str, Any], purpose: str, limits: str) -> str:
    """The card as Markdown."""
    description = predictor.description
    training, measured = description["training"], description["quality"]
    ranges = {o.name: f"{o.low:.4g} to {o.high:.4g} {o.unit or ''}".rstrip() for o in predictor.outputs}
    rows = "\n".join(
        f"| {name} | {row['mae']:.3g} | {row['constant_mae']:.3g} | {row['std']:.3g} "
        f"| {100 * row['coverage_68']:.0f} % | {100 * row['coverage_95']:.0f} % | {row['n']} | {ranges[name]} |"
        for name, row in measured.items()
        if name != CLASS
    )
    table = (
        "| property | mean absolute error | always the median | mean claimed std | within 1 std | within 1.96 std | n "
        f"| training range |\n|---|---|---|---|---|---|---|---|\n{rows}\n"
    )
    if CLASS in measured:
        row = measured[CLASS]
        table += (
            f"\nClass: {100 * row['accuracy']:.1f} % right ({100 * row['constant_accuracy']:.1f} % by always saying "
            f"the most frequent), calibration error {100 * row['calibration_error']:.1f} %, n {row['n']}.\n"
        )
    return f"""# {description["name"]}

{purpose}

| | |
|---|---|
| network | `{description["network"]["name"]}`, {training["parameters"] / 1e6:.2f} million parameters, in float16 |
| data | `{description["data"]}`, training part, half: {description["half"]} (hash {description["data_hash"]}) |
| training | {training["steps"]} steps, {training["samples_seen"]} samples, {training["seconds"] / 60:.0f} minutes |
| licence | MIT, weights and data |

## Measured on the test part

`{_command(record, description)}` (seed {record["seed"]}, {record["device"]}, {record["started"][:10]})

{table}
Standard deviations were scaled once, on the validation part.

## Limits

{limits.strip()}
"""


def _command(record: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    """What was typed, whoever's folders it named."""
    words = shlex.split(record["command"])
    program = description["domain"].partition("-")[0]
    places = [k for k, word in enumerate(words) if word in ("--output-dir", "--name")]
    kept = [word for k, word in enumerate(words) if k > 0 and not {k, k - 1} & set(places)]
    return shlex.join([program, *kept])
