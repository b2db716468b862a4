"""`shapegen train-classifier`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.cli.app import Verb
from common.cli.classifier import ClassifierOptions, run_classifier_training
from common.cli.options import option


@dataclass(frozen=True, kw_only=True)
class ShapeClassifierOptions(ClassifierOptions):
    """Options of `shapegen train-classifier`."""

    points: int = option(512, "points of a shape in training", at_least=1)
    count_per_class: int = option(500, "shapes of each class that are made of a procedural data set", at_least=1)


def run(options: ShapeClassifierOptions) -> dict[str, Any]:
    """Train a predictor of a model's noisy shapes."""
    from common.cli.doctor import pick_device
    from shapegen.finetune import ShapeTask
    from shapegen.pretrained import load_pretrained

    device = pick_device(options.device)
    task = ShapeTask(
        load_pretrained(options.base, device), points=options.points, data=options.data,
        data_folder=options.data_folder, labels=options.labels, count_per_class=options.count_per_class,
        seed=options.seed,
    )  # fmt: skip
    return run_classifier_training(options, "shapegen", task, device)


VERB = Verb("train-classifier", "train a predictor of noisy shapes, for --guidance classifier",
            ShapeClassifierOptions, run)  # fmt: skip
