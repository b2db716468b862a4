"""`shapegen train`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.options import option
from common.cli.training import TrainingOptions, run_training

if TYPE_CHECKING:
    from common.training.fit import FitConfig, FitResult
    from common.training.optimiser import OptimiserConfig
    from shapegen.data.shapes import ShapeSet
    from shapegen.train import ShapeBatchConfig

# Where the first process of a run keeps the training set for the others.
_SHARED = "SHAPEGEN_TRAINING_SET"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingOptions):
    """Options of `shapegen train`."""

    data: str = option("procedural", "data set name, or a folder or file of shapes")
    classes: list[str] | None = option(None, "only these classes (default: all)")
    count_per_class: int = option(500, "procedural: shapes of each class", at_least=1)
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str = option("z", "the axis that is up in files that do not say it: z, y or -y")
    stored_points: int = option(4096, "points kept of each shape", at_least=1)
    points: int = option(512, "points of each shape that a step sees, a fresh subset of the stored ones", at_least=1)
    rotate: str = option("none", "none, or up: turn each shape by a random angle about the vertical")
    normalisation: str = option("global", "global, centred (place is lost) or per_shape (size is lost)")
    class_conditional: bool = option(True, "the model is told the class")
    class_dropout: float = option(0.1, "share of the shapes whose class is hidden in training", at_least=0, at_most=1)
    surface_targets: bool = option(
        True, "learn means over the stored points that may have become a noisy point, not the one that did"
    )
    network: dict = option({"name": "set_transformer"}, "network by name, with its hyper-parameters")
    parameterisation: dict = option({"name": "v"}, "eps, v or x0")
    workers: int | None = option(None, "processes that read or make the data (default: one a core)", at_least=1)

    def batch_config(self) -> ShapeBatchConfig:
        """What the options say of one step."""
        from shapegen.train import ShapeBatchConfig

        return ShapeBatchConfig(
            self.batch_size, self.max_weight, self.timesteps, self.focus, self.points, self.rotate, self.class_dropout,
            self.surface_targets,
        )  # fmt: skip


def run(options: TrainOptions) -> dict[str, Any]:
    """Train and write the model."""
    from shapegen.data.sources import load_data, split_data

    # Everything that can be wrong with the request comes before the folder is made.
    optimiser, batch_config = options.optimiser_config(), options.batch_config()
    # They go into the model, so that what it was not trained on can be found again.
    data_options = {
        "points": options.stored_points, "classes": options.classes, "count_per_class": options.count_per_class,
        "unit": options.unit, "up": options.up, "seed": options.seed,
    }  # fmt: skip

    def load() -> ShapeSet:
        report = load_data(
            options.data, data_folder=options.data_folder, workers=options.workers, labels=False, **data_options
        )
        return report.shapes.select(split_data(report)["train"])

    with shared_by_processes(load, options.devices) as shapes:
        return _train(options, shapes, data_options, optimiser, batch_config)


@contextmanager
def shared_by_processes(load: Callable[[], ShapeSet], devices: int) -> Iterator[ShapeSet]:
    """The training set, read or made once: the run's other processes, started later, map the first one's copy."""
    from shapegen.data.shapes import ShapeSet

    made = os.environ.get(_SHARED)
    if made is not None and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        yield ShapeSet.load(made, memory_map=True)
    elif devices == 1:
        yield load()
    else:
        shapes = load()
        with tempfile.TemporaryDirectory(prefix="shapegen-") as folder:
            path = Path(folder) / "training.npz"
            shapes.save(path)
            os.environ[_SHARED] = str(path)
            try:
                yield shapes
            finally:
                del os.environ[_SHARED]


def _train(
    options: TrainOptions,
    shapes: ShapeSet,
    data_options: dict[str, Any],
    optimiser: OptimiserConfig,
    batch_config: ShapeBatchConfig,
) -> dict[str, Any]:
    from shapegen.pretrained import load_pretrained
    from shapegen.train import ModelConfig, new_model, train

    digest = shapes.digest()
    model = new_model(
        shapes,
        ModelConfig(
            options.network, options.parameterisation, options.schedule, options.sampler, options.normalisation,
            options.class_conditional,
        ),
        name=options.name or f"{Path(options.data).stem}-{options.network.get('name', '?')}",
        seed=options.seed,
        facts={
            "data": options.data, "data_options": data_options, "data_hash": digest,
            "task": "class" if options.class_conditional else "none", **options.teacher_facts(),
        },
        init_from=options.init_from,
        teacher=options.teacher,
    )  # fmt: skip
    teacher = options.load_teacher(model, load_pretrained)

    def train_in(directory: Path, config: FitConfig) -> tuple[Mapping[str, Any], FitResult]:
        result = train(
            model, shapes, directory, batch_config=batch_config, optimiser=optimiser, fit_config=config,
            resume=options.resume, teacher=teacher,
        )  # fmt: skip
        return model.description["training"], result

    facts = {"training_data": options.data, "data_hash": digest}
    return run_training(options, "shapegen", "train", model.description["name"], train_in, facts)


VERB = Verb("train", "train a model on shapes", TrainOptions, run)
