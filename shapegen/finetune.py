"""`ShapeTask`: shapes' side of a fine-tuning run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.algorithms.ctrl import ControlTerm
from common.diffusion import Sampler, State
from common.diffusion.control import ControlledDenoiser
from common.errors import InputError
from common.guidance import load_clean_predictor
from common.predictors import Predictor
from common.rewards import DecodedMeasure, Measured, RewardResult, without_predictors
from common.training.labels import LabelledParts
from common.training.module import BatchSource
from common.training.task import ControlJudge, ControlRequest, Prompt
from common.training.watch import Guard
from common.workers import Launcher
from shapegen.data.batches import ShapeBatches
from shapegen.data.shapes import ShapeSet
from shapegen.data.sources import load_data, options_of_training, split_data
from shapegen.metrics.torch_distances import chamfer_matrix
from shapegen.model import ShapeModel, one_hot
from shapegen.models import NETWORKS
from shapegen.predictors import DEFAULT, load_predictor
from shapegen.rewards.reward import CloudMeasure, ShapeReward, measure_of
from shapegen.rewards.table import find_scorer

# Shapes and points that likeness and diversity are measured with.
_REFERENCES, _POINTS = 200, 256


class ShapeTask:
    """See `common.training.task.Task`.

    Args:
        model: what training starts from.
        points: points of a shape in training.
        class_name: the class of all shapes; None draws it as in the training data.
        data: data set of the controls' values and of methods that train on data; None for the model's own.
        data_folder: where named data sets are.
        half: of the training part that labels and data come from: a, b or all.
        labels: how many labelled shapes controls may use; 0 for all.
        count_per_class: shapes of each class that are made of a procedural set.
        predictor: of the controls: shipped, by name, or a folder.
        aggregate, floor, workers, time_limit_s, launcher: see `ShapeReward`.
        seed: of the data.

    Call `close`, which ends the workers.
    """

    guards = (Guard("likeness"), Guard("diversity"))

    def __init__(
        self,
        model: ShapeModel,
        *,
        points: int = 512,
        class_name: str | None = None,
        data: str | None = None,
        data_folder: str = "data",
        half: str = "all",
        labels: int = 0,
        count_per_class: int = 50,
        predictor: str = DEFAULT,
        aggregate: str = "weighted_sum",
        floor: float | None = None,
        workers: int | None = None,
        time_limit_s: float = 60.0,
        launcher: Launcher | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self._points, self._class_name = points, class_name
        self._data_name, self._data_folder = data or model.description.get("data"), data_folder
        self._count_per_class, self._predictor = count_per_class, predictor
        self._aggregate, self._floor = aggregate, floor
        self._workers, self._time_limit_s, self._seed = workers, time_limit_s, seed
        self._launcher = launcher
        self._half = half
        self._data: Mapping[str, ShapeSet] | None = None
        self._measures: dict[str, CloudMeasure | DecodedMeasure] = {}
        self._labelled = LabelledParts(self._part, self._values, labels)
        # An unknown class is found here, before any work.
        model.classes(class_name, 0, 0, 1)

    @property
    def task(self) -> ShapeTask:
        """Itself."""
        return self

    @property
    def sampler(self) -> Sampler:
        """The base's recommended one."""
        return self.model.sampler

    @property
    def n_channels(self) -> int:
        """Coordinates."""
        return self.model.codec.n_channels

    def prompt(self, seed: int, start: int, count: int) -> Prompt:
        """The class asked for, or classes as in the training data."""
        index = self.model.classes(self._class_name, seed, start, count)
        return Prompt(np.full(count, self._points), self.model.condition(index, seed, start))

    def data(self, batch_size: int, seed: int, labels: Sequence[str] = (), part: str = "train") -> BatchSource:
        """The data of the base, or `--data`."""
        shapes = self._labelled.of(labels, part) if labels else self._part(part)
        n_classes = len(self.model.class_law)
        condition = {name: shapes.properties[name].astype(np.float32) for name in labels}
        if n_classes:
            condition["context"] = one_hot(shapes.class_index, n_classes).numpy()

        def batches(start: int, rank: int, world_size: int) -> Iterable[State]:
            return ShapeBatches(
                shapes, self.model.codec, batch_size, self._points, seed=seed, rank=rank, world_size=world_size,
                start=start, condition=condition,
            )  # fmt: skip

        return batches

    def quality(self, states: Sequence[State]) -> Mapping[str, float]:
        """`likeness`: minus the mean Chamfer distance to the nearest training shape; `diversity`: mean Chamfer distance
        to the nearest other sample. Both with standard errors, in squared standard deviations of the data."""
        samples = torch.cat([state.x for state in states])[:, :_POINTS].cpu().numpy()
        rng = np.random.default_rng(self._seed)
        shapes = self._part("train")
        if self._class_name is not None:
            shapes = shapes.select(np.flatnonzero(shapes.class_index == shapes.class_names.index(self._class_name)))
        chosen = shapes.select(rng.permutation(len(shapes))[:_REFERENCES])
        encoded = self.model.codec.encode(chosen).x
        references = encoded[:, torch.from_numpy(rng.permutation(encoded.shape[1])[:_POINTS])].numpy()
        device = str(self.model.device)
        nearest = chamfer_matrix(samples, references, device).min(axis=1)
        among = chamfer_matrix(samples, None, device)
        np.fill_diagonal(among, np.inf)
        apart = among.min(axis=1)
        count = math.sqrt(len(samples))
        return {
            "likeness": -float(nearest.mean()),
            "likeness_error": float(nearest.std() / count),
            "diversity": float(apart.mean()),
            "diversity_error": float(apart.std() / count),
        }

    def reward(self, texts: Sequence[str], cache: Path | None) -> ShapeReward:
        """See `ShapeReward`."""
        return ShapeReward(
            self.model.codec, list(texts), aggregate=self._aggregate, floor=self._floor, workers=self._workers,
            time_limit_s=self._time_limit_s, cache_path=cache, launcher=self._launcher,
        )  # fmt: skip

    def default_judge(self, texts: Sequence[str]) -> list[str]:
        """`volume=2e-3±2e-4` for `predicted_volume=2e-3±2e-4`: the estimate from points. Meshes take seconds each; name
        what shall be measured on them."""
        return without_predictors(texts, find_scorer)

    def terms(self, requests: Sequence[ControlRequest], most: int) -> list[ControlTerm]:
        """Learned predictors for `height_m`; scorers for `height_m±0.01`, and for what no predictor that ships knows.
        Values from the data."""
        return [self._term(request, most) for request in requests]

    def _term(self, request: ControlRequest, most: int) -> ControlTerm:
        scorer = find_scorer(request.name, None)
        name = scorer.name
        if not request.measured and not self._is_learned(name):
            request = request.by_scorer(scorer)

        def learned() -> tuple[Predictor, float]:
            own = load_clean_predictor(Path(self._predictor), self.model.description, NETWORKS, self.model.device, name)
            return own or (load_predictor(self._predictor, self.model.codec, self.model.device).for_property(name), 1.0)

        return request.term(name, lambda: self._labelled.values(name, most), lambda: self._measure(name), learned)

    def _is_learned(self, name: str) -> bool:
        """Whether the predictor that ships knows this column; one that was asked for is taken at its word."""
        return self._predictor != DEFAULT or load_predictor(DEFAULT, self.model.codec, self.model.device).knows(name)

    def outcomes(self, name: str) -> tuple[str, torch.Tensor]:
        """The scorer's column, and its values (M,) of the training shapes that may be learnt from."""
        column = find_scorer(name, None).name
        return column, self._labelled.values(column)

    def control_judge(self, terms: Sequence[ControlTerm]) -> Callable[[State], RewardResult] | None:
        """The scorers of the controls' names."""
        measures = [self._measure(term.control.name) for term in terms]
        return ControlJudge(measures, terms)

    def _measure(self, name: str) -> CloudMeasure | DecodedMeasure:
        """The scorer of this name; the same workers for every call."""
        if name not in self._measures:
            self._measures[name] = measure_of(name, self.model.codec, self._workers, self._time_limit_s, self._launcher)
        return self._measures[name]

    def save(self, denoiser: torch.nn.Module, facts: dict[str, Any], directory: Path) -> None:
        """The base with another denoiser."""
        description = {**self.model.description, **facts}
        if isinstance(denoiser, ControlledDenoiser):
            description["control"] = denoiser.settings()
        replace(self.model, denoiser=denoiser, description=description).save(directory)

    def close(self) -> None:
        """End the workers."""
        for measure in self._measures.values():
            if isinstance(measure, DecodedMeasure):
                measure.close()

    def _values(self, name: str, shapes: ShapeSet) -> Measured:
        """What the data do not say, by the scorer of that name: of as many points as samples will have."""
        state = self.model.codec.encode(shapes)
        chosen = torch.from_numpy(np.random.default_rng(self._seed).permutation(state.x.shape[1])[: self._points])
        with torch.no_grad():
            return self._measure(name)(State(state.x[:, chosen], state.mask[:, chosen]))

    def _part(self, part: str) -> ShapeSet:
        if self._data is None:
            if not self._data_name:
                raise InputError("the base names no training data; give --data")
            known = options_of_training(self.model.description, self._data_name)
            ours = {
                "points": max(self._points, _POINTS), "count_per_class": self._count_per_class, "seed": self._seed,
                "classes": self.model.class_names or known["classes"],
            }  # fmt: skip
            report = load_data(
                self._data_name, data_folder=self._data_folder, workers=self._workers, **{**known, **ours}
            )
            places = split_data(report, half=self._half)
            self._data = {name: report.shapes.select(indices) for name, indices in places.items()}
        return self._data[part]
