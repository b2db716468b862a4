"""What the verb `train-predictor` of both commands shares: its options, a run of the training, the table at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import print_table
from common.cli.options import option
from common.cli.training import OPTIMISER_HELP, LongRunOptions, check_half, open_run
from common.errors import IncompleteError

if TYPE_CHECKING:
    from common.predictors import ModelPredictor
    from common.training.fit import FitConfig, FitResult


@dataclass(frozen=True, kw_only=True)
class PredictorOptions(LongRunOptions):
    """Options of `train-predictor` in both domains."""

    name: str = option("", "name of the predictor (default: DATA-ARCHITECTURE)")
    half: str = option("all", "train on one half of the training part: a for judges, b for rewards; or all")
    labels: int = option(0, "labelled samples to learn from; 0 for all of the training part", at_least=0)
    settings: dict = option({}, "hyper-parameters of the architecture")
    optimiser: dict = option(
        {"name": "muon", "learning_rate": 2e-3, "warmup_steps": 100, "decay_fraction": 0.6}, OPTIMISER_HELP
    )
    steps: int = option(6000, "optimiser steps of the whole run")
    batch_size: int = option(48, "samples a step")
    ema_decay: float = option(0.995, "memory of the weight average")
    precision: str = option("float32", "float32, bf16 (autocast), or auto: bf16 where the device has it in hardware")
    seed: int = option(0, "seed of initial weights, order and noise")
    measure_every: int = option(1000, "steps between measurements on the validation part; 0 for none")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        check_half(self.half)


def run_predictor_training(
    options: PredictorOptions,
    name: str,
    train: Callable[[Path, FitConfig], tuple[ModelPredictor, FitResult]],
    facts: Mapping[str, Any],
    published: Mapping[str, float],
) -> dict[str, Any]:
    """Make the run directory, train, show how good the predictor is on held-out data.

    Args:
        options: checked.
        name: of the predictor.
        train: (directory, config) -> the trained predictor.
        facts: of the data, for `run.json`.
        published: output -> mean absolute error of the literature's judge on the same data.

    Raises:
        InputError: a run directory that cannot be used.
        IncompleteError: stopped before the last step.
    """
    with open_run(options, "train-predictor", name, facts) as (path, device):
        predictor, result = train(path, options.fit_config(device))
    found = {
        "output_dir": str(path),
        "name": name,
        "training": dict(predictor.description["training"]),
        "quality": predictor.description["quality"],
        "published_mae": dict(published),
    }
    if not options.json:
        print_quality(predictor, published)
        print(f"{name}: {result.samples_seen} samples seen in {result.steps} steps")
        print(f"  model       {path / 'model'}")
    if not result.finished:
        raise IncompleteError(f"stopped at step {result.steps} of {options.steps}; go on with --resume", found)
    return found


def print_quality(predictor: ModelPredictor, published: Mapping[str, float]) -> None:
    """Tables of what was measured on held-out data."""
    measured = predictor.description["quality"]
    units = {output.name: output.unit or "-" for output in predictor.outputs}
    heading = ["property", "unit", "error", "constant", *(["published judge"] if published else []), "claimed std",
               "in 68 %", "in 95 %", "calibration error", "n"]  # fmt: skip
    rows = []
    for name, row in measured.items():
        if "mae" not in row:
            continue
        judge = [f"{published[name]:.4g}" if name in published else "-"] if published else []
        shares = [f"{100 * row[key]:.1f} %" for key in ("coverage_68", "coverage_95", "coverage_error")]
        errors = [f"{row['mae']:.4g}", f"{row['constant_mae']:.4g}", *judge, f"{row['std']:.4g}"]
        rows.append([name, units[name], *errors, *shares, row["n"]])
    if rows:
        print_table("held-out errors (mean absolute) and calibration", heading, rows)
    for name, row in measured.items():
        if "accuracy" in row:
            print(
                f"{name}: {100 * row['accuracy']:.1f} % right ({100 * row['constant_accuracy']:.1f} % by always saying "
                f"the most frequent), calibration error {100 * row['calibration_error']:.1f} %, n {row['n']}"
            )
    if published:
        print("published judge: quoted, not rerun")
