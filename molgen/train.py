"""`train`: a molecule model from a data set and a configuration, in a run directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.diffusion import Denoiser, State
from common.diffusion.model_file import load_weights
from common.errors import InputError
from common.named import build
from common.training.fit import FitConfig, FitResult, learnable_count
from common.training.optimiser import OptimiserConfig
from common.training.pretrain import BatchConfig, Teacher, pretrain
from molgen.chemistry.bonds import edm_bonds, edm_stability
from molgen.chemistry.elements import symbol
from molgen.data.batches import MoleculeBatches
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.metrics.validity import edm_smiles
from molgen.model import MoleculeModel, SizeLaw
from molgen.models.transformer import EquivariantTransformer
from molgen.pretrained import load_pretrained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelConfig:
    """What is trained; each part is a name and its settings, as in `model.json`."""

    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "transformer"})
    parameterisation: Mapping[str, Any] = field(default_factory=lambda: {"name": "categorical_types"})
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    codec: Mapping[str, Any] = field(default_factory=lambda: {"coordinate_scale": 0.75, "type_scale": 1.0})
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"steps": 50, "solver": "sde-dpm2"})

    def describe(self, name: str, molecules: MoleculeSet) -> dict[str, Any]:
        """The `model.json` of a model of `molecules`."""
        elements = [int(z) for z in np.unique(molecules.numbers)]
        codec = build(MoleculeCodec, {"elements": elements, **self.codec}, "codec")
        law = SizeLaw.of(molecules)
        parameterisation = dict(self.parameterisation)
        if parameterisation.get("name") == "categorical_types":
            parameterisation.setdefault("type_scale", codec.type_scale)
        return {
            "domain": "molgen",
            "name": name,
            "network": {**self.network, "n_features": codec.n_features},
            "parameterisation": parameterisation,
            "schedule": dict(self.schedule),
            "space": {"name": "centered", "n_coordinates": 3},
            "codec": asdict(codec),
            "size_law": {"sizes": list(law.sizes), "weights": list(law.weights)},
            "sampler": dict(self.sampler),
        }


def new_model(
    molecules: MoleculeSet,
    config: ModelConfig,
    *,
    name: str,
    seed: int,
    facts: Mapping[str, Any],
    init_from: str | None = None,
) -> MoleculeModel:
    """An untrained model for the elements and atom counts of `molecules`.

    Args:
        molecules: the training part of the data.
        config: what is trained.
        name: of the model.
        seed: of the initial weights.
        facts: what else `model.json` shall say (data, task, ...).
        init_from: start from the weights of this model (name or folder); its elements and `type_scale` may be other
            ones, and a transformer may get more layers.

    Raises:
        InputError: an unusable configuration, or weights that do not fit.
    """
    torch.manual_seed(seed)
    model = MoleculeModel.create({**config.describe(name, molecules), **facts})
    if init_from is not None:
        load_weights(model.denoiser, _fitted(load_pretrained(init_from), model, init_from), init_from)
    logger.info(
        "%s: %d molecules, %.2f million parameters", name, len(molecules), learnable_count(model.denoiser) / 1e6
    )
    return model


def _fitted(base: MoleculeModel, model: MoleculeModel, source: str) -> dict[str, Tensor]:
    """Weights of `base` that read and answer states of the model's codec as they do their own.

    An element that `base` has not seen keeps the model's initial weights; one that the model lacks is left out. Layers
    of a transformer that `base` has not got change nothing at first.
    """
    given, wanted = base.codec, model.codec
    if given.coordinate_scale != wanted.coordinate_scale:
        raise InputError(
            f"got coordinate_scale {wanted.coordinate_scale:g} of the codec, but {source} has learnt with "
            f"{given.coordinate_scale:g}; take that one, or drop --init-from"
        )
    weights = dict(base.denoiser.state_dict())
    shallow, network = getattr(base.denoiser, "network", None), model.denoiser.network
    if isinstance(shallow, EquivariantTransformer) and isinstance(network, EquivariantTransformer):
        layers = max(len(shallow.layers), len(network.layers))
        weights = {f"network.{name}": value for name, value in shallow.deepened(layers).items()}
    if (given.elements, given.type_scale) == (wanted.elements, wanted.type_scale):
        return weights
    site = getattr(network, "features_in", None)
    if site is None or given.number_scale or wanted.number_scale:
        raise InputError(
            f"{source} has {_types(given)} where the model has {_types(wanted)}: weights of only a transformer without "
            "number_scale can go on with others; take those, or drop --init-from"
        )
    read, answered = f"network.{site}.weight", [f"network.{network.readout_site}.{part}" for part in ("weight", "bias")]
    fitted = {name: value.clone() for name, value in model.denoiser.state_dict().items() if name in (read, *answered)}
    if read not in weights or len(weights[read]) != len(fitted[read]):
        # Weights of another network: loading them says what does not fit.
        return weights
    known = [i for i, element in enumerate(wanted.elements) if element in given.elements]
    places = [given.elements.index(wanted.elements[i]) for i in known]
    fitted[read][:, known] = weights[read][:, places] * (given.type_scale / wanted.type_scale)
    for name in answered:
        fitted[name][known] = weights[name][places]
    return {**weights, **fitted}


def _types(codec: MoleculeCodec) -> str:
    """`H C N, type_scale 1`."""
    return f"{' '.join(symbol(z) for z in codec.elements)}, type_scale {codec.type_scale:g}"


def train(
    model: MoleculeModel,
    molecules: MoleculeSet,
    directory: Path,
    *,
    batch_config: BatchConfig,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
    measure_samples: int = 0,
    teacher: Teacher | None = None,
    weights: np.ndarray | None = None,
) -> FitResult:
    """`pretrain` on `molecules`, the training part of a data set; `measure_samples` molecules a measurement.

    `weights` (M,) says how often each is drawn, see `MoleculeBatches`.
    """

    def batches(start: int, rank: int, world_size: int) -> Iterable[State]:
        return MoleculeBatches(
            molecules, model.codec, batch_config.batch_size,
            seed=fit_config.seed, rank=rank, world_size=world_size, start=start, weights=weights,
        )  # fmt: skip

    return pretrain(
        model,
        batches,
        directory,
        batch_config=batch_config,
        optimiser=optimiser,
        fit_config=fit_config,
        resume=resume,
        measure=_quality(model, measure_samples, fit_config.precision) if measure_samples > 0 else None,
        teacher=teacher,
    )


def _quality(model: MoleculeModel, count: int, precision: str) -> Callable[[Denoiser], dict[str, float]]:
    """Stability and validity x uniqueness (EDM's rule) of samples from the averaged denoiser; same seeds each time."""

    def measure(denoiser: Denoiser) -> dict[str, float]:
        snapshot = MoleculeModel(denoiser, model.codec, model.size_law, model.sampler, model.description)
        samples = snapshot.sample(count, seed=0, precision=precision)
        bonds = edm_bonds(samples)
        stability = edm_stability(samples, bonds)
        valid = [smiles for smiles in edm_smiles(samples, bonds=bonds)[0] if smiles]
        return {
            "atom_stability": float(stability.atoms.mean()),
            "molecule_stability": float(stability.molecules.mean()),
            "valid_and_unique": len(set(valid)) / count,
        }

    return measure
