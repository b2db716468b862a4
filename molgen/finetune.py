"""`MoleculeTask`: molecules' side of a fine-tuning run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.algorithms.ctrl import ControlTerm
from common.diffusion import Sampler, State
from common.diffusion.control import ControlledDenoiser
from common.errors import InputError
from common.guidance import load_clean_predictor
from common.predictors import Predictor
from common.rewards import DecodedMeasure, Measured, RewardResult, ScoreCache, without_predictors
from common.training.labels import LabelledParts
from common.training.module import BatchSource
from common.training.task import ControlJudge, ControlRequest, Prompt
from common.training.watch import Guard
from common.workers import Launcher
from molgen.chemistry.perception import perceive
from molgen.data.batches import MoleculeBatches
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import COLUMNS
from molgen.metrics.stability import stability_metrics
from molgen.metrics.validity import validity_metrics
from molgen.model import MoleculeModel
from molgen.models import NETWORKS
from molgen.predictors import DEFAULT, load_predictor
from molgen.results import training_data
from molgen.rewards.reward import MoleculeReward
from molgen.rewards.scoring import MoleculeScorer
from molgen.rewards.table import REWARDS, Place, find_column, find_scorer


class MoleculeTask:
    """See `common.training.task.Task`.

    Args:
        model: what training starts from.
        data: data set of the controls' values and of methods that train on data; None for the model's own.
        data_folder: where named data sets are.
        half: of the training part that labels and data come from: a, b or all.
        labels: how many labelled molecules controls may use; 0 for all.
        predictor: of the controls: shipped, by name, or a folder.
        aggregate, floor, workers, time_limit_s, launcher: see `MoleculeReward`.

    Call `close`, which ends the workers.
    """

    guards = (Guard("validity_x_uniqueness", 0.02), Guard("molecule_stability", 0.02))

    def __init__(
        self,
        model: MoleculeModel,
        *,
        data: str | None = None,
        data_folder: str = "data",
        half: str = "all",
        labels: int = 0,
        predictor: str = DEFAULT,
        aggregate: str = "weighted_sum",
        floor: float | None = None,
        workers: int | None = None,
        time_limit_s: float = 60.0,
        launcher: Launcher | None = None,
    ) -> None:
        self.model = model
        self._data_name, self._data_folder = data or model.description.get("data"), data_folder
        self._half, self._predictor = half, predictor
        self._aggregate, self._floor = aggregate, floor
        self._workers, self._time_limit_s, self._launcher = workers, time_limit_s, launcher
        self._parts: dict[str, MoleculeSet] = {}
        self._measures: dict[tuple[str, ...], DecodedMeasure] = {}
        self._labelled = LabelledParts(self._part, self._values, labels)

    @property
    def task(self) -> MoleculeTask:
        """Itself."""
        return self

    @property
    def sampler(self) -> Sampler:
        """The base's recommended one."""
        return self.model.sampler

    @property
    def n_channels(self) -> int:
        """Coordinates and types."""
        return self.model.codec.n_channels

    def prompt(self, seed: int, start: int, count: int) -> Prompt:
        """Atom counts as in the training data."""
        return Prompt(self.model.size_law.draw(seed, start, count))

    def data(self, batch_size: int, seed: int, labels: Sequence[str] = (), part: str = "train") -> BatchSource:
        """The data of the base, or `--data`."""
        molecules = self._labelled.of(labels, part) if labels else self._part(part)
        condition = {name: molecules.properties[name] for name in labels}

        def batches(start: int, rank: int, world_size: int) -> Iterable[State]:
            return MoleculeBatches(
                molecules, self.model.codec, batch_size, seed=seed, rank=rank, world_size=world_size, start=start,
                condition=condition,
            )  # fmt: skip

        return batches

    def quality(self, states: Sequence[State]) -> Mapping[str, float]:
        """Validity, validity x uniqueness and stability, with standard errors of shares."""
        samples = MoleculeSet.concatenate([self.model.codec.decode(state) for state in states])
        metrics = [*stability_metrics(samples), *validity_metrics(perceive(samples, self._workers))]
        wanted = {"molecule_stability", "validity", "validity_x_uniqueness"}
        found: dict[str, float] = {}
        for metric in metrics:
            if metric.name in wanted:
                found[metric.name] = metric.value
                found[f"{metric.name}_error"] = math.sqrt(metric.value * (1 - metric.value) / max(metric.n, 1))
        return found

    def reward(self, texts: Sequence[str], cache: Path | None) -> MoleculeReward:
        """See `MoleculeReward`."""
        return MoleculeReward(
            self.model.codec, list(texts), aggregate=self._aggregate, floor=self._floor, workers=self._workers,
            time_limit_s=self._time_limit_s, cache_path=cache, launcher=self._launcher,
        )  # fmt: skip

    def default_judge(self, texts: Sequence[str]) -> list[str]:
        """`gap=4.5±0.2` for `predicted_gap=4.5±0.2`: the physics behind each predictor that training sees."""
        return without_predictors(texts, find_scorer)

    def terms(self, requests: Sequence[ControlRequest], most: int) -> list[ControlTerm]:
        """Learned predictors for `gap`; scorers for `gap±0.2`, and for what no predictor that ships knows. Values from
        the data."""
        return [self._term(request, most) for request in requests]

    def _term(self, request: ControlRequest, most: int) -> ControlTerm:
        name = find_column(request.name)
        if not request.measured and _has_scorer(name) and not self._is_learned(name):
            request = request.by_scorer(find_scorer(name))

        def learned() -> tuple[Predictor, float]:
            own = load_clean_predictor(Path(self._predictor), self.model.description, NETWORKS, self.model.device, name)
            return own or (load_predictor(self._predictor, self.model.codec, self.model.device).for_property(name), 1.0)

        return request.term(name, lambda: self._labelled.values(name, most), lambda: self._measure([name]), learned)

    def _is_learned(self, name: str) -> bool:
        """Whether the predictor that ships knows this column; one that was asked for is taken at its word."""
        return self._predictor != DEFAULT or load_predictor(DEFAULT, self.model.codec, self.model.device).knows(name)

    def outcomes(self, name: str) -> tuple[str, torch.Tensor]:
        """The column of a property or scorer, and its values (M,) of the training molecules that may be learnt from."""
        column = find_column(name)
        return column, self._labelled.values(column)

    def control_judge(self, terms: Sequence[ControlTerm]) -> Callable[[State], RewardResult] | None:
        """The scorers of the controls' names; None where the data alone know a property."""
        names = [term.control.name for term in terms]
        if not all(_has_scorer(name) for name in names):
            return None
        return ControlJudge([self._measure(names)], terms)

    def _measure(self, names: Sequence[str]) -> DecodedMeasure:
        """The scorers of these names; the same workers for every call."""
        if tuple(names) not in self._measures:
            scorers = [find_scorer(name, None) for name in names]
            on_states = [scorer for scorer in scorers if scorer.place is Place.STATE]
            if on_states:
                raise InputError(f"{on_states[0].name} cannot be a control: it has no workers")
            scorer = MoleculeScorer(scorers, self._workers, self._time_limit_s, ScoreCache(), self._launcher)
            self._measures[tuple(names)] = DecodedMeasure(self.model.codec.decode, scorer)
        return self._measures[tuple(names)]

    def save(self, denoiser: torch.nn.Module, facts: dict[str, Any], directory: Path) -> None:
        """The base with another denoiser."""
        description = {**self.model.description, **facts}
        if isinstance(denoiser, ControlledDenoiser):
            description["control"] = denoiser.settings()
        replace(self.model, denoiser=denoiser, description=description).save(directory)

    def close(self) -> None:
        """End the workers."""
        for measure in self._measures.values():
            measure.close()

    def _values(self, name: str, molecules: MoleculeSet) -> Measured:
        """What the data do not say, by the scorer of that name."""
        if not _has_scorer(name):
            known = ", ".join(molecules.properties) or "none"
            raise InputError(f"the data have no column '{name}', and no scorer measures it; columns: {known}")
        return self._measure([name])(self.model.codec.encode(molecules))

    def _part(self, part: str) -> MoleculeSet:
        if part not in self._parts:
            if not self._data_name:
                raise InputError("the base names no training data; give --data")
            self._parts[part] = training_data(self._data_name, self._data_folder, part, self._half)
        return self._parts[part]


def _has_scorer(column: str) -> bool:
    return column not in COLUMNS or column in REWARDS
