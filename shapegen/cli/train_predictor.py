"""`shapegen train-predictor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.options import option
from common.cli.predictors import PredictorOptions, run_predictor_training
from common.errors import InputError

if TYPE_CHECKING:
    from common.predictors import ModelPredictor
    from common.training.fit import FitConfig, FitResult


@dataclass(frozen=True, kw_only=True)
class TrainPredictorOptions(PredictorOptions):
    """Options of `shapegen train-predictor`."""

    data: str = option("procedural", "data set name, or a folder or file of shapes")
    property: list[str] = option([], "what to predict, may be repeated: class, volume, aspect_ratio, ...")
    classes: list[str] | None = option(None, "only these classes (default: all)")
    count_per_class: int = option(500, "procedural: shapes of each class", at_least=1)
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str = option("z", "the axis that is up in files that do not say it: z, y or -y")
    stored_points: int = option(2048, "points kept of each shape", at_least=1)
    points: int = option(512, "points of each shape that a step sees, a fresh subset of the stored ones", at_least=1)
    architecture: str = option("point_set", "point_set")
    noise: float = option(0.02, "strongest noise on the points, in units of their standard deviation", at_least=0)
    workers: int | None = option(None, "processes that read or make the data (default: one a core)", at_least=1)


def run(options: TrainPredictorOptions) -> dict[str, Any]:
    """Train, calibrate, measure, write."""
    from common.predictors.evaluation import require_enough
    from common.training.labels import labelled_indices
    from shapegen.data.sources import load_data, split_data
    from shapegen.train_predictor import find_columns, labels_of, new_predictor, train_predictor

    # Everything that can be wrong with the request comes before the folder is made.
    optimiser = options.optimiser_config()
    if not options.property:
        raise InputError("nothing to predict; give --property, such as --property volume (may be repeated)")
    if not 1 <= options.points <= options.stored_points:
        raise InputError(f"got --points {options.points}, expected 1 to {options.stored_points} (--stored-points)")
    if options.noise < 0:
        raise InputError(f"got --noise {options.noise}, expected 0 or more")
    report = load_data(
        options.data, data_folder=options.data_folder, points=options.stored_points, classes=options.classes,
        count_per_class=options.count_per_class, unit=options.unit, up=options.up, workers=options.workers,
        seed=options.seed,
    )  # fmt: skip
    columns, with_class = find_columns(report.shapes, options.property)
    places = split_data(report, half=options.half)
    if options.labels:
        labels = {name: values[places["train"]] for name, values in report.shapes.properties.items()}
        places = {**places, "train": places["train"][labelled_indices(labels, columns, options.labels)]}
    parts = {name: report.shapes.select(indices) for name, indices in places.items()}
    require_enough(columns, {name: labels_of(part, columns, with_class) for name, part in parts.items()})
    digest = parts["train"].digest()
    predictor = new_predictor(
        parts["train"],
        columns,
        with_class,
        {"name": options.architecture, **options.settings},
        name=options.name or f"{Path(options.data).stem}-{options.architecture}",
        seed=options.seed,
        facts={"data": options.data, "data_hash": digest, "half": options.half, "noise": options.noise},
    )

    def train_in(directory: Path, config: FitConfig) -> tuple[ModelPredictor, FitResult]:
        return train_predictor(
            predictor, parts, directory, batch_size=options.batch_size, points=options.points, noise=options.noise,
            optimiser=optimiser, fit_config=config, resume=options.resume,
        )  # fmt: skip

    return run_predictor_training(
        options, predictor.description["name"], train_in,
        {"training_data": options.data, "data_hash": digest, "half": options.half}, {},
    )  # fmt: skip


VERB = Verb("train-predictor", "train a predictor of a shape's properties and class, for rewards or as a judge",
            TrainPredictorOptions, run)  # fmt: skip
