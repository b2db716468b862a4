"""`ShapeReward`: what a user typed, as a `common.rewards.Reward` of shapes' states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from common.diffusion import State
from common.errors import InputError
from common.rewards import (
    Condition,
    DecodedMeasure,
    Measure,
    Measured,
    Objective,
    ScoreCache,
    TypedReward,
    conditions_of,
)
from common.workers import Launcher
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import METRES
from shapegen.rewards.cloud import MIN_POINTS, Cloud
from shapegen.rewards.scoring import Given, ShapeScorer, estimate
from shapegen.rewards.table import Place, Scorer, check_unit, find_scorer


@dataclass(frozen=True)
class CloudMeasure:
    """Estimates from the points of states: a `Measure` with gradients, on the state's device.

    Attributes:
        codec: of the states.
        scorers: of `Place.POINTS`; they share neighbours and the fitted solid.
    """

    codec: ShapeCodec
    scorers: tuple[Scorer, ...]
    differentiable: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """See `Measure`."""
        return tuple(scorer.name for scorer in self.scorers)

    def __call__(self, state: State) -> Measured:
        """See `Measure`."""
        if state.x.shape[1] < MIN_POINTS:
            nothing = torch.full((len(state),), torch.nan, dtype=torch.float32, device=state.x.device)
            return Measured(dict.fromkeys(self.names, nothing))
        with torch.autocast(state.x.device.type, enabled=False):
            return Measured(estimate(self.scorers, Cloud.of_state(state, self.codec)))


class ShapeReward(TypedReward):
    """A reward of shapes' states, from conditions as typed.

    Args:
        codec: of the states.
        spec: conditions as typed, or parsed with `find_scorer`.
        aggregate: weighted_sum, product or lexicographic.
        floor: what failures get and nothing falls below; None leaves them NaN.
        workers, time_limit_s, launcher: as in `ShapeScorer`.
        cache_path: file that keeps scores (in the run's directory); None keeps them in memory.

    See `TypedReward`: use it as a context manager, or call `close`, which ends the workers.

    Raises:
        InputError: metres wanted of a model without a unit; else see `common.rewards.parse`, `find_scorer`, `Objective`
            and `ComposedReward`.
    """

    def __init__(
        self,
        codec: ShapeCodec,
        spec: str | Sequence[str | Condition],
        *,
        aggregate: str = "weighted_sum",
        floor: float | None = None,
        workers: int | None = None,
        time_limit_s: float = 60.0,
        cache_path: str | Path | None = None,
        launcher: Launcher | None = None,
    ):
        conditions = read_conditions(spec, launcher)
        scorers = scorers_of(conditions)
        _check_codec(scorers, codec)
        on_points = tuple(scorer for scorer in scorers if scorer.place is Place.POINTS)
        others = [scorer for scorer in scorers if scorer.place is not Place.POINTS]
        engine = ShapeScorer(others, workers, time_limit_s, ScoreCache(path=cache_path), launcher, unit=codec.unit)
        measures: list[Measure] = [CloudMeasure(codec, on_points)] if on_points else []
        if others:
            measures.append(DecodedMeasure(partial(_given, codec), engine))
        super().__init__(Objective(conditions, aggregate, floor), measures, _example(codec), engine)


def read_conditions(spec: str | Sequence[str | Condition], launcher: Launcher | None = None) -> tuple[Condition, ...]:
    """Conditions on scorers, from texts or as they are; what a predictor never saw is warned of."""
    return conditions_of(spec, partial(find_scorer, launcher=launcher))


def scorers_of(conditions: Sequence[Condition]) -> list[Scorer]:
    """The scorers that the conditions speak of, each once, in that order."""
    return list({c.quantity.name: c.quantity for c in conditions if isinstance(c.quantity, Scorer)}.values())


def measure_of(
    name: str,
    codec: ShapeCodec,
    workers: int | None = None,
    time_limit_s: float = 60.0,
    launcher: Launcher | None = None,
) -> CloudMeasure | DecodedMeasure:
    """The measure of one scorer by its name; that of workers has a `close`."""
    (condition,) = read_conditions(name)
    scorers = scorers_of([condition])
    _check_codec(scorers, codec)
    if scorers[0].place is Place.POINTS:
        return CloudMeasure(codec, tuple(scorers))
    scorer = ShapeScorer(scorers, workers, time_limit_s, launcher=launcher, unit=codec.unit)
    return DecodedMeasure(partial(_given, codec), scorer)


def _given(codec: ShapeCodec, state: State) -> list[Given]:
    """The clouds of states, in metres where their unit is known."""
    points = codec.points_of(state.x[..., :3]).astype(float) * METRES.get(codec.unit, 1.0)
    return [Given(cloud[real]) for cloud, real in zip(points, state.mask.cpu().numpy(), strict=True)]


def _check_codec(scorers: list[Scorer], codec: ShapeCodec) -> None:
    remedy = "aim at a ratio such as aspect_ratio, or train on data with a unit"
    if codec.mode == "per_shape":
        remedy = "size was normalised away (per_shape): " + remedy
    check_unit(scorers, codec.unit, "the model's shapes have", remedy)
    for scorer in scorers:
        if scorer.trained_on is not None and codec.mode == "per_shape":
            raise InputError(f"{scorer.name} learned from shapes that have a size, but the model's have none; {remedy}")


def _example(codec: ShapeCodec, count: int = 4, size: int = 64) -> State:
    """Random blobs, on which declared gradients are checked."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, size, codec.n_channels, generator=generator)
    return State(x, torch.ones(count, size, dtype=torch.bool))
