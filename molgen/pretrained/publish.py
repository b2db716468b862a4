"""Put a trained model into the package: weights in half precision, measured quality, and a card.

    python -m molgen.pretrained.publish runs/gdb7-transformer runs/gdb7-judged gdb7-xtb

The second folder is a run of `molgen generate` with that model: what it measured is the quality that is shown.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from common.atomic import atomic_writer
from common.cli.run_directory import RunDirectory
from common.diffusion.model_file import read_model, save_model
from molgen.chemistry.elements import symbol

SHOWN = ("atom_stability", "molecule_stability", "validity", "validity_x_uniqueness", "novelty", "connectedness")


def publish(run: Path, judged: Path, target: Path) -> None:
    """Write `target` from the model of `run` and the metrics of `judged`.

    Raises:
        InputError: either folder is not what it should be.
    """
    description, weights = read_model(run, "molgen")
    record, metrics = RunDirectory(judged).read_json("run.json"), RunDirectory(judged).read_json("metrics.json")
    rows = {row["name"]: row for row in metrics["metrics"] if row["name"] in SHOWN and row["value"] is not None}
    description |= {
        "licence": "MIT",
        "quality": {name: f"{100 * row['value']:.1f} %" for name, row in rows.items()},
    }
    if target.exists():
        shutil.rmtree(target)
    save_model(target, {name: value.to(torch.float16) for name, value in weights.items()}, description)
    with atomic_writer(target / "README.md") as file:
        file.write(model_card(description, rows, record))


def model_card(description: dict[str, Any], rows: dict[str, Any], record: dict[str, Any]) -> str:
    """The card as Markdown."""
    training, sampler = description["training"], description["sampler"]
    table = "\n".join(_row(name, row) for name, row in rows.items())
    elements = ", ".join(symbol(z) for z in description["codec"]["elements"])
    sizes = description["size_law"]["sizes"]
    return f"""# {description["name"]}

An unconditional generator of 3D molecules: elements {elements}, {min(sizes)} to {max(sizes)} atoms with hydrogens.

| | |
|---|---|
| task | {description["task"]} |
| network | `{description["network"]["name"]}`, {training["parameters"] / 1e6:.2f} million parameters, in float16 |
| data | `{description["data"]}`, training part (hash {description["data_hash"]}) |
| training | {training["steps"]} steps, {training["samples_seen"]} molecules, {training["seconds"] / 60:.0f} minutes |
| sampler | {sampler["solver"]}, {sampler["steps"]} network evaluations |
| licence | MIT, weights and data |

## Measured

`{record["command"]}` (seed {record["seed"]}, {record["device"]}, {record["started"][:10]})

| metric | value | 95 % interval | n | rule |
|---|---|---|---|---|
{table}

Every sample counts; invalid ones are failures.

## Limits

- It knows small molecules only, and neither charges nor radicals were in its data.
- Mirror images are the same to it, as to every E(3)-equivariant model.
- Geometries follow GFN2-xTB; relax them before any use that needs better ones.
- A generated molecule may be unstable, toxic or impossible to make. Nothing here says otherwise.
"""


def _row(name: str, row: dict[str, Any]) -> str:
    value, low, high = (f"{100 * row[key]:.1f}" for key in ("value", "low", "high"))
    return f"| {name} | {value} % | {low} to {high} | {row['n']} | {row['rule']} |"


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("judged", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    publish(options.run, options.judged, Path(__file__).parent / options.name)


if __name__ == "__main__":
    main()
