"""`shapegen finetune`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.cli.app import Verb
from common.cli.finetune import FinetuneOptions, run_finetune
from common.cli.options import option


@dataclass(frozen=True, kw_only=True)
class ShapeFinetuneOptions(FinetuneOptions):
    """Options of `shapegen finetune`."""

    points: int = option(512, "points of a shape in training", at_least=1)
    class_name: str | None = option(None, "class of all shapes (default: classes as in the training data)")
    count_per_class: int = option(50, "shapes of each class that are made of a procedural data set", at_least=1)


def run(options: ShapeFinetuneOptions) -> dict[str, Any]:
    """Steer a trained model of shapes by a reward, or give it control inputs."""
    from common.cli.doctor import pick_device
    from common.workers import choose_workers
    from shapegen.finetune import ShapeTask
    from shapegen.predictors import DEFAULT
    from shapegen.pretrained import load_pretrained

    device = pick_device(options.device)
    workers, launcher = choose_workers(options.workers)
    task = ShapeTask(
        load_pretrained(options.base, device), points=options.points, class_name=options.class_name,
        data=options.data, data_folder=options.data_folder, half=options.half, labels=options.labels,
        count_per_class=options.count_per_class, predictor=options.predictor or DEFAULT,
        aggregate=options.aggregate, floor=options.floor, workers=workers, time_limit_s=options.time_limit,
        launcher=launcher, seed=options.seed,
    )  # fmt: skip
    try:
        return run_finetune(options, "shapegen", task, device)
    finally:
        task.close()


VERB = Verb("finetune", "steer a model by rewards, or add control inputs to it", ShapeFinetuneOptions, run)
