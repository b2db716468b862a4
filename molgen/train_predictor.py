"""`train_predictor`: a predictor of molecular properties from labelled molecules, in a run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.diffusion import State
from common.errors import InputError
from common.predictors import ModelPredictor
from common.predictors.evaluation import Labels, fit_outputs
from common.predictors.predictor import predictor_domain
from common.training import predictor as common_training
from common.training.fit import FitConfig, FitResult, learnable_count
from common.training.optimiser import OptimiserConfig
from common.training.predictor import VALUES, LabelledParts, Supervised
from molgen.chemistry.bonds import per_molecule
from molgen.data.batches import MoleculeBatches
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import PROPERTIES
from molgen.data.sources import up_to
from molgen.predictors import NETWORKS, Translation

logger = logging.getLogger(__name__)

# How an equivariant network gives a property that is not a plain number.
_KINDS = {"mu_d": "norm", "alpha_bohr3": "trace"}
_CHUNK = 256


@dataclass(frozen=True)
class NoiseConfig:
    """The strongest noise on training molecules; each gets its own strength, from none to all.

    Attributes:
        coordinates: standard deviation, Angstrom.
        types: standard deviation on each type channel, whose hot one is 1.
    """

    coordinates: float = 0.02
    types: float = 0.1

    def __post_init__(self) -> None:
        if self.coordinates < 0 or self.types < 0:
            raise InputError(f"got noise {self.coordinates} and {self.types}, expected 0 or more")


def comparable(parts: Mapping[str, MoleculeSet], max_atoms: int | None = None) -> dict[str, MoleculeSet]:
    """The parts `train`, `val` and `test` without molecules of more than `max_atoms`, and without those held-out ones
    that have an element which the training part lacks: nothing can be said of them."""
    small, found = {name: up_to(part, max_atoms) for name, part in parts.items()}, {}
    for name, part in small.items():
        strange = per_molecule(~np.isin(part.numbers, small["train"].numbers), part.offsets) > 0
        if strange.any():
            logger.warning(
                "%d molecules of the %s part have elements that the training part lacks", strange.sum(), name
            )
        found[name] = part.select(np.flatnonzero(~strange))
    return found


def new_predictor(
    molecules: MoleculeSet, network: Mapping[str, Any], *, name: str, seed: int, facts: Mapping[str, Any]
) -> ModelPredictor:
    """An untrained predictor of all properties of `molecules`, with what their composition explains fitted.

    Args:
        molecules: the training part.
        network: name and settings.
        name: of the predictor.
        seed: of the initial weights.
        facts: what else `model.json` shall say (data, half, ...).

    Raises:
        InputError: an unusable configuration, or a property with too few values.
    """
    codec = MoleculeCodec(tuple(int(z) for z in np.unique(molecules.numbers)), type_scale=1.0)
    columns = list(molecules.properties)
    values = labels_of(molecules).values
    kinds = [_KINDS.get(column, "scalar") for column in columns]
    weights = np.stack(
        [
            _composition(molecules, codec, values[:, k]) * (kind != "norm")
            for k, kind in enumerate(kinds)
        ],
        axis=1,
    )  # fmt: skip
    outputs = fit_outputs(
        columns, [_unit(column) for column in columns], values, _counts(molecules, codec) @ weights,
        [kind != "norm" for kind in kinds],
    )  # fmt: skip
    torch.manual_seed(seed)
    predictor = ModelPredictor.create(
        {
            "domain": predictor_domain("molgen"),
            "name": name,
            "task": "property prediction",
            "network": {**network, "n_types": len(codec.elements), "kinds": kinds},
            "codec": asdict(codec),
            "outputs": [asdict(output) for output in outputs],
            "classes": [],
            "temperature": 1.0,
            **facts,
        },
        NETWORKS,
    )
    scales = np.array([output.scale for output in outputs])
    predictor.network.composition.weight.copy_(torch.from_numpy(weights / scales))  # type: ignore[union-attr, operator]
    predictor.translate = Translation(codec, codec)
    logger.info(
        "%s: %d molecules, %d properties, %.2f million parameters",
        name, len(molecules), len(columns), learnable_count(predictor.network) / 1e6,
    )  # fmt: skip
    return predictor


def train_predictor(
    predictor: ModelPredictor,
    parts: Mapping[str, MoleculeSet],
    directory: Path,
    *,
    batch_size: int,
    noise: NoiseConfig,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
) -> tuple[ModelPredictor, FitResult]:
    """`common.training.predictor.train_predictor` on labelled molecules, parts `train`, `val` and `test`."""
    codec = MoleculeCodec(**predictor.description["codec"])
    centre, scale = (np.array([getattr(o, name) for o in predictor.outputs]) for name in ("centre", "scale"))
    labels = {name: labels_of(part) for name, part in parts.items()}
    # The network itself adds the share of the composition.
    standard = ((labels["train"].values - centre) / scale).astype(np.float32)

    def batches(start: int, rank: int, world_size: int) -> Iterable[State]:
        return MoleculeBatches(
            parts["train"], codec, batch_size, seed=fit_config.seed, rank=rank, world_size=world_size, start=start,
            condition={VALUES: standard},
        )  # fmt: skip

    return common_training.train_predictor(
        predictor,
        batches,
        LabelledParts(lambda: _states(parts["val"], codec), lambda: _states(parts["test"], codec), labels),
        directory,
        algorithm=Supervised((noise.coordinates,) * 3 + (noise.types,) * len(codec.elements)),
        optimiser=optimiser,
        fit_config=fit_config,
        resume=resume,
    )


def labels_of(molecules: MoleculeSet) -> Labels:
    """All properties of the molecules, in their order."""
    columns = [np.asarray(values, np.float64) for values in molecules.properties.values()]
    return Labels(np.stack(columns, axis=1))


def _states(molecules: MoleculeSet, codec: MoleculeCodec) -> Iterator[State]:
    for start in range(0, len(molecules), _CHUNK):
        yield codec.encode(molecules.select(np.arange(start, min(start + _CHUNK, len(molecules)))))


def _counts(molecules: MoleculeSet, codec: MoleculeCodec) -> np.ndarray:
    """(M, T) atoms of each type."""
    counts = np.zeros((len(molecules), len(codec.elements)))
    owner = np.repeat(np.arange(len(molecules)), molecules.num_atoms)
    np.add.at(counts, (owner, codec.type_indices(molecules.numbers)), 1)
    return counts


def _composition(molecules: MoleculeSet, codec: MoleculeCodec, values: np.ndarray) -> np.ndarray:
    """(T,) least-squares share of each type in a property (M,), beside a constant."""
    known = np.isfinite(values)
    design = np.concatenate([_counts(molecules, codec), np.ones((len(molecules), 1))], axis=1)
    return np.linalg.lstsq(design[known], values[known], rcond=None)[0][:-1]


def _unit(column: str) -> str | None:
    return next((prop.unit for prop in PROPERTIES.values() if prop.column == column), None)
