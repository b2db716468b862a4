"""`train`: a shape model from a data set and a configuration, in a run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.algorithms.latent_pretraining import has_latent
from common.diffusion import State
from common.diffusion.model_file import load_weights
from common.errors import InputError
from common.training.fit import FitConfig, FitResult, learnable_count
from common.training.optimiser import OptimiserConfig
from common.training.pretrain import BatchConfig, Teacher, pretrain
from shapegen.data.batches import ShapeBatches
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import ShapeSet
from shapegen.model import ShapeModel, one_hot
from shapegen.models.surface_posterior import SurfacePosterior
from shapegen.pretrained import load_pretrained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelConfig:
    """What is trained; each part is a name and its settings, as in `model.json`."""

    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "set_transformer"})
    parameterisation: Mapping[str, Any] = field(default_factory=lambda: {"name": "v"})
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"steps": 50, "solver": "sde-dpm2"})
    normalisation: str = "global"
    classes: bool = True

    def describe(self, name: str, shapes: ShapeSet, teacher: ShapeModel | None = None) -> dict[str, Any]:
        """The `model.json` of a model of `shapes`, whose states are a teacher's where classes and unit are the same."""
        codec = ShapeCodec.fit(shapes, self.normalisation)
        if teacher is not None and (teacher.codec.class_names, teacher.codec.unit) == (codec.class_names, codec.unit):
            codec = teacher.codec
        conditional = self.classes and len(shapes.class_names) > 1
        law = np.bincount(shapes.class_index, minlength=len(shapes.class_names)).tolist() if conditional else []
        return {
            "domain": "shapegen",
            "name": name,
            "network": {**self.network, "n_context": len(law)},
            "parameterisation": dict(self.parameterisation),
            "schedule": dict(self.schedule),
            "space": {"name": "euclidean"},
            "codec": asdict(codec),
            "class_law": law,
            "sampler": dict(self.sampler),
        }


@dataclass(frozen=True)
class ShapeBatchConfig(BatchConfig):
    """What one step sees.

    Attributes:
        points: points of each shape, a fresh random subset of the stored ones.
        rotate: see `ShapeBatches`.
        class_dropout: share of the shapes whose class is hidden, so that the model also knows "any class".
        surface_targets: learn means over the stored points of a shape, see `SurfacePosterior`, unless there is a
            teacher, or the network is told a latent of each shape, which knows the points that were drawn.
    """

    points: int = 512
    rotate: str = "none"
    class_dropout: float = 0.1
    surface_targets: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.class_dropout <= 1:
            raise InputError(f"got class_dropout {self.class_dropout}, expected a share from 0 to 1")


def new_model(
    shapes: ShapeSet,
    config: ModelConfig,
    *,
    name: str,
    seed: int,
    facts: Mapping[str, Any],
    init_from: str | None = None,
    teacher: str | None = None,
) -> ShapeModel:
    """An untrained model for the classes, the unit and the scale of `shapes`.

    Args:
        shapes: the training part of the data.
        config: what is trained.
        name: of the model.
        seed: of the initial weights.
        facts: what else `model.json` shall say (data, task, ...).
        init_from: start from the weights of this model (name or folder), whatever its classes.
        teacher: have the states of this model (name or folder), if it has the same classes and unit.

    Raises:
        InputError: an unusable configuration, or weights that do not fit.
    """
    torch.manual_seed(seed)
    taught = None if teacher is None else load_pretrained(teacher)
    model = ShapeModel.create({**config.describe(name, shapes, taught), **facts})
    if init_from is not None:
        load_weights(model.denoiser, _weights_for(model, load_pretrained(init_from)), init_from)
    logger.info("%s: %d shapes, %.2f million parameters", name, len(shapes), learnable_count(model.denoiser) / 1e6)
    return model


def _weights_for(model: ShapeModel, base: ShapeModel) -> dict[str, torch.Tensor]:
    """The weights of `base`, with a column for each class of `model`: its own by name, zero for a new class.

    What a network knows of its classes are its weights `embed_context`, zero at first.
    """
    weights = base.denoiser.state_dict()
    found = {name: value for name, value in weights.items() if "embed_context" not in name}
    places = [(i, base.class_names.index(c)) for i, c in enumerate(model.class_names) if c in base.class_names]
    for name, own in model.denoiser.state_dict().items():
        if "embed_context" in name:
            found[name] = torch.zeros_like(own)
            for ours, theirs in places:
                found[name][:, ours] = weights[name][:, theirs]
    if len(places) < len(model.class_names):
        logger.info("the base knows %d of the %d classes", len(places), len(model.class_names))
    return found


def train(
    model: ShapeModel,
    shapes: ShapeSet,
    directory: Path,
    *,
    batch_config: ShapeBatchConfig,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
    teacher: Teacher | None = None,
) -> FitResult:
    """`pretrain` on `shapes`, the training part of a data set."""
    surface = batch_config.surface_targets and teacher is None and not has_latent(model.denoiser.network)
    if surface:
        teacher = Teacher(SurfacePosterior(model.denoiser.process), error=model.denoiser.parameterisation)
    n_classes = len(model.class_law)
    labels = {"context": one_hot(shapes.class_index, n_classes).numpy()} if n_classes else {}

    def batches(start: int, rank: int, world_size: int) -> Iterable[State]:
        source = ShapeBatches(
            shapes, model.codec, batch_config.batch_size, batch_config.points, seed=fit_config.seed,
            rotate=batch_config.rotate, rank=rank, world_size=world_size, start=start, condition=labels,
            surface=surface,
        )  # fmt: skip
        if not n_classes or batch_config.class_dropout == 0:
            return source
        return hide_context(source, batch_config.class_dropout, (fit_config.seed, rank), start)

    return pretrain(
        model, batches, directory, batch_config=batch_config, optimiser=optimiser, fit_config=fit_config, resume=resume,
        teacher=teacher,
    )  # fmt: skip


def hide_context(batches: Iterable[State], share: float, seed: tuple[int, int], start: int) -> Iterator[State]:
    """`batches` with a random `share` of the rows of the condition `context` set to zeros; a function of the step."""
    for step, state in zip(count(start), batches, strict=False):
        context = state.condition["context"]
        shown = np.random.default_rng([*seed, 2, step]).random(len(context)) >= share
        yield state.replace(condition={**state.condition, "context": context * torch.from_numpy(shown)[:, None]})
