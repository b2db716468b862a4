"""`MoleculeReward`: what a user typed, as a `common.rewards.Reward` of molecules' states."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.diffusion import State, size_mask
from common.errors import InputError
from common.rewards import (
    PREDICTED,
    Condition,
    DecodedMeasure,
    Measure,
    Objective,
    ScoreCache,
    TypedReward,
    conditions_of,
)
from common.workers import Launcher
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.rewards.scoring import MoleculeScorer
from molgen.rewards.table import REWARDS, Scorer, find_scorer

logger = logging.getLogger(__name__)


class MoleculeReward(TypedReward):
    """A reward of molecules' states, from conditions as typed.

    Args:
        codec: of the states.
        spec: conditions as typed, or parsed with `find_scorer`.
        aggregate: weighted_sum, product or lexicographic.
        floor: what failures get and nothing falls below; None leaves them NaN.
        workers, time_limit_s, launcher: as in `MoleculeScorer`.
        cache_path: file that keeps scores (in the run's directory); None keeps them in memory.

    See `TypedReward`: use it as a context manager, or call `close`, which ends the workers.

    Raises:
        InputError: see `common.rewards.parse`, `find_scorer`, `Objective` and `ComposedReward`.
    """

    def __init__(
        self,
        codec: MoleculeCodec,
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
        decoded = [scorer for scorer in scorers if scorer.on_states is None]
        measures: list[Measure] = [s.on_states(codec) for s in scorers if s.on_states is not None]
        engine = MoleculeScorer(decoded, workers, time_limit_s, ScoreCache(path=cache_path), launcher)
        if decoded:
            measures.append(DecodedMeasure(codec.decode, engine))
        super().__init__(Objective(conditions, aggregate, floor), measures, _example(codec), engine)


def read_conditions(spec: str | Sequence[str | Condition], launcher: Launcher | None = None) -> tuple[Condition, ...]:
    """Conditions on scorers, from texts or as they are; what a predictor never saw is warned of."""
    return conditions_of(spec, partial(find_scorer, launcher=launcher))


def passing(molecules: MoleculeSet, filters: Sequence[str], workers: int | None = None) -> np.ndarray:
    """(K,) indices, ascending, of the molecules that meet all of some filters; what cannot be measured meets none.

    Args:
        molecules: the set.
        filters: as typed, such as `forbid stable` or `require gap>4`.
        workers: as in `MoleculeScorer`.

    Raises:
        InputError: a condition that is no filter, or an unknown quantity.
    """
    conditions = read_conditions(filters)
    wanted = next((condition for condition in conditions if not condition.required), None)
    if wanted is not None:
        raise InputError(f"got '{wanted.text}', expected filters alone, such as 'require gap>4' or 'forbid stable'")
    scorers = scorers_of(conditions)
    learned = next((scorer.name for scorer in scorers if scorer.on_states is not None), None)
    if learned is not None:
        raise InputError(f"got a filter by {learned}, expected one by a scorer that takes molecules alone")
    with MoleculeScorer(scorers, workers) as scorer:
        values = scorer.score(molecules).values
    kept = np.ones(len(molecules), dtype=bool)
    for condition in conditions:
        raw = torch.from_numpy(values[condition.quantity.name])
        met = condition.goal.met(raw)  # type: ignore[union-attr]
        kept &= (torch.isfinite(raw) & met).numpy()
    return np.flatnonzero(kept)


def differentiable_texts(texts: Sequence[str]) -> list[str]:
    """Conditions as typed, with the predictor of a quantity (`predicted_gap_ev`) instead of one without a gradient."""
    found = []
    for text in texts:
        for scorer in scorers_of(read_conditions(text)):
            other = PREDICTED + scorer.name
            if not scorer.differentiable and other in REWARDS:
                typed = next(name for name in (scorer.name, *scorer.aliases) if re.search(rf"\b{name}\b", text, re.I))
                text = re.sub(rf"\b{typed}\b", other, text, count=1, flags=re.I)
                logger.info("%s has no gradient; guided by %s instead", scorer.name, other)
        found.append(text)
    return found


def scorers_of(conditions: Sequence[Condition]) -> list[Scorer]:
    """The scorers that the conditions speak of, each once, in that order."""
    return list({c.quantity.name: c.quantity for c in conditions if isinstance(c.quantity, Scorer)}.values())


def _example(codec: MoleculeCodec, count: int = 4, size: int = 6) -> State:
    """Random atoms, on which declared gradients are checked."""
    generator = torch.Generator().manual_seed(0)
    mask = size_mask(torch.full((count,), size))
    x = torch.randn(count, size, codec.n_channels, generator=generator)
    x[..., :3] *= 1.5 * codec.coordinate_scale
    return State(x, mask)
