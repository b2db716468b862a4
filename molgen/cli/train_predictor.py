"""`molgen train-predictor`."""

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

# What people call some of `molgen.data.properties.PROPERTIES`.
_ALSO_CALLED = {"dipole": "mu", "polarisability": "alpha", "polarizability": "alpha"}


@dataclass(frozen=True, kw_only=True)
class TrainPredictorOptions(PredictorOptions):
    """Options of `molgen train-predictor`."""

    data: str = option("gdb7-xtb", "data set name, or a file with SMILES or 3D and a column or tag for each property")
    property: list[str] = option([], "what to predict, may be repeated: gap, dipole (mu), alpha, a column of your own")
    max_atoms: int | None = option(None, "leave larger molecules out (number of atoms)", at_least=1)
    architecture: str = option("egnn", "egnn (invariant) or e3nn (equivariant: dipole as vector, alpha as tensor)")
    noise: dict = option(
        {"coordinates": 0.02, "types": 0.1},
        "strongest noise on training molecules: coordinates (Angstrom), types (shares of an atom type)",
    )


def run(options: TrainPredictorOptions) -> dict[str, Any]:
    """Train, calibrate, measure, write."""
    from common.named import build
    from common.predictors.evaluation import require_enough
    from common.training.labels import labelled_indices
    from molgen.data.sources import load_data, split_data
    from molgen.train_predictor import NoiseConfig, comparable, labels_of, new_predictor, train_predictor

    # Everything that can be wrong with the request comes before the folder is made.
    optimiser = options.optimiser_config()
    noise = build(NoiseConfig, options.noise, "noise")
    if not options.property:
        raise InputError("nothing to predict; give --property, such as --property gap (may be repeated)")
    wanted = list(dict.fromkeys(_ALSO_CALLED.get(name.lower(), name) for name in options.property))
    # Split before anything is left out, so that whoever splits the same data has the same parts.
    everything = load_data(options.data, data_folder=options.data_folder, properties=wanted).molecules
    places = split_data(options.data, everything, half=options.half)
    parts = comparable({name: everything.select(indices) for name, indices in places.items()}, options.max_atoms)
    if options.labels:
        found = labelled_indices(parts["train"].properties, list(parts["train"].properties), options.labels)
        parts["train"] = parts["train"].select(found)
    require_enough(list(everything.properties), {name: labels_of(part) for name, part in parts.items()})
    digest = parts["train"].digest()
    predictor = new_predictor(
        parts["train"],
        {"name": options.architecture, **options.settings},
        name=options.name or f"{Path(options.data).stem}-{options.architecture}",
        seed=options.seed,
        facts={"data": options.data, "data_hash": digest, "half": options.half, "noise": dict(options.noise)},
    )

    def train_in(directory: Path, config: FitConfig) -> tuple[ModelPredictor, FitResult]:
        return train_predictor(
            predictor, parts, directory, batch_size=options.batch_size, noise=noise, optimiser=optimiser,
            fit_config=config, resume=options.resume,
        )  # fmt: skip

    return run_predictor_training(
        options, predictor.description["name"], train_in,
        {"training_data": options.data, "data_hash": digest, "half": options.half},
        published_errors(options.data),
    )  # fmt: skip


def published_errors(data: str) -> dict[str, float]:
    """Column -> mean absolute error, in its unit, of the judge that the literature uses on a data set; empty where
    there is none."""
    if data != "qm9":
        return {}
    from common.benchmark.published import read_published
    from molgen.benchmark.tasks import PUBLISHED
    from molgen.data.properties import PROPERTIES

    table = read_published(PUBLISHED, "qm9-conditional")
    judge = next(row for row in table.rows if row.method == "L-bound")
    scale = {key: 1e-3 if "[meV]" in title else 1.0 for key, title in table.columns.items()}
    return {PROPERTIES[key].column: scale[key] * float(value) for key, value in judge.values.items()}


VERB = Verb("train-predictor", "train a predictor of molecular properties, for rewards or as a judge",
            TrainPredictorOptions, run)  # fmt: skip
