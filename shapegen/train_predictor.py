"""`train_predictor`: a predictor of a shape's properties and class from labelled shapes, in a run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.diffusion import State
from common.errors import InputError
from common.named import nearest
from common.predictors import CLASS, ModelPredictor
from common.predictors.evaluation import Labels, fit_outputs
from common.predictors.predictor import predictor_domain
from common.training import predictor as common_training
from common.training.fit import FitConfig, FitResult, learnable_count
from common.training.optimiser import OptimiserConfig
from common.training.predictor import CLASS_INDEX, VALUES, LabelledParts, Supervised
from shapegen.data.batches import ShapeBatches
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import ShapeSet
from shapegen.families.labels import LABELS
from shapegen.predictors import NETWORKS, Translation

logger = logging.getLogger(__name__)

_CHUNK = 64


def find_columns(shapes: ShapeSet, wanted: Sequence[str]) -> tuple[list[str], bool]:
    """The columns that are meant by names such as `volume`, and whether the class is wanted too.

    Raises:
        InputError: the data lack one of them, or have one class only.
    """
    columns: list[str] = []
    for name in dict.fromkeys(wanted):
        if name.lower() == CLASS:
            if len(shapes.class_names) < 2:
                raise InputError("got --property class, but the data have one class only")
            continue
        label = LABELS.get(name.lower())
        candidates = [name, *([label.column("m"), label.column("unitless")] if label else [])]
        found = next((candidate for candidate in candidates if candidate in shapes.properties), None)
        if found is None:
            known = [*shapes.properties, CLASS]
            raise InputError(f"the data have no property '{name}'{nearest(name, known)}; found: {', '.join(known)}")
        columns.append(found)
    return columns, any(name.lower() == CLASS for name in wanted)


def new_predictor(
    shapes: ShapeSet,
    columns: Sequence[str],
    with_class: bool,
    network: Mapping[str, Any],
    *,
    name: str,
    seed: int,
    facts: Mapping[str, Any],
) -> ModelPredictor:
    """An untrained predictor.

    Args:
        shapes: the training part.
        columns: properties to predict.
        with_class: predict the class, too.
        network: name and settings.
        name: of the predictor.
        seed: of the initial weights.
        facts: what else `model.json` shall say (data, half, ...).

    Raises:
        InputError: an unusable configuration, or a property with too few values.
    """
    codec = ShapeCodec.fit(shapes, "centred")
    values = labels_of(shapes, columns, with_class).values
    outputs = fit_outputs(
        columns, [_unit(column) for column in columns], values, np.zeros_like(values), [True] * len(columns)
    )
    classes = list(shapes.class_names) if with_class else []
    torch.manual_seed(seed)
    predictor = ModelPredictor.create(
        {
            "domain": predictor_domain("shapegen"),
            "name": name,
            "task": "property prediction",
            "network": {**network, "kinds": ["scalar"] * len(columns), "n_classes": len(classes)},
            "codec": asdict(codec),
            "outputs": [asdict(output) for output in outputs],
            "classes": classes,
            "temperature": 1.0,
            **facts,
        },
        NETWORKS,
    )
    predictor.translate = Translation(codec, codec)
    logger.info(
        "%s: %d shapes, predicting %s, %.2f million parameters",
        name, len(shapes), ", ".join(predictor.names), learnable_count(predictor.network) / 1e6,
    )  # fmt: skip
    return predictor


def train_predictor(
    predictor: ModelPredictor,
    parts: Mapping[str, ShapeSet],
    directory: Path,
    *,
    batch_size: int,
    points: int,
    noise: float,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
) -> tuple[ModelPredictor, FitResult]:
    """`common.training.predictor.train_predictor` on labelled shapes, parts `train`, `val` and `test`.

    Args:
        points: of each shape that the network sees, a fresh subset every time.
        noise: the strongest, a standard deviation in units of the state's spread.
        predictor, parts, directory, batch_size, optimiser, fit_config, resume: see there.
    """
    codec = ShapeCodec(**predictor.description["codec"])
    columns = [output.name for output in predictor.outputs]
    labels = {name: labels_of(part, columns, bool(predictor.classes)) for name, part in parts.items()}
    centre, scale = (np.array([getattr(o, name) for o in predictor.outputs]) for name in ("centre", "scale"))
    condition = {VALUES: ((labels["train"].values - centre) / scale).astype(np.float32)}
    if predictor.classes:
        condition[CLASS_INDEX] = parts["train"].class_index

    def batches(start: int, rank: int, world_size: int) -> Iterable[State]:
        return ShapeBatches(
            parts["train"], codec, batch_size, points, seed=fit_config.seed, rank=rank, world_size=world_size,
            start=start, condition=condition,
        )  # fmt: skip

    return common_training.train_predictor(
        predictor,
        batches,
        LabelledParts(
            lambda: _states(parts["val"], codec, points), lambda: _states(parts["test"], codec, points), labels
        ),
        directory,
        algorithm=Supervised((noise,) * 3),
        optimiser=optimiser,
        fit_config=fit_config,
        resume=resume,
    )


def labels_of(shapes: ShapeSet, columns: Sequence[str], with_class: bool) -> Labels:
    """The labels of the shapes, in their order."""
    values = [np.asarray(shapes.properties[column], np.float64) for column in columns]
    return Labels(
        np.stack(values, axis=1) if values else np.empty((len(shapes), 0)),
        shapes.class_index if with_class else None,
    )


def _states(shapes: ShapeSet, codec: ShapeCodec, points: int) -> Iterator[State]:
    """The first `points` stored points of each shape: they lie in random order."""
    for start in range(0, len(shapes), _CHUNK):
        state = codec.encode(shapes.select(np.arange(start, min(start + _CHUNK, len(shapes)))))
        yield State(state.x[:, :points], state.mask[:, :points])


def _unit(column: str) -> str | None:
    """The unit of a label's column; None for a column of the user's own, which states none."""
    for label in LABELS.values():
        if column == label.column("m") and label.power:
            return "m" if label.power == 1 else f"m^{label.power}"
        if column == label.column("unitless"):
            return "degrees" if label.suffix == "_deg" else label.suffix.removeprefix("_")
    return None
