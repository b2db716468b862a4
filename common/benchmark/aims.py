"""How well measured values meet what was asked for; the same for molecules and shapes."""

from __future__ import annotations

import numpy as np
import torch

from common.benchmark.verdict import Achieved, mean, median_with_failures
from common.metrics import Metric
from common.rewards import Condition, Goal, Range, Target


def hits(condition: Condition, values: np.ndarray) -> np.ndarray:
    """(M,) bool whether each value meets the goal; NaN does not."""
    known = np.isfinite(values)
    met = np.zeros(len(values), bool)
    if condition.goal is not None:
        met[known] = condition.goal.met(torch.from_numpy(values[known])).numpy()
    return met


def errors(condition: Condition, name: str, values: np.ndarray, valid: np.ndarray) -> list[Metric]:
    """`mae[NAME]` and `median_error[NAME]`: mean and median distance from what was asked for.

    Args:
        condition: a target or a range.
        name: in brackets.
        values: (M,) NaN where there is none.
        valid: (M,) bool.
    """
    error = distance(condition.goal, values)
    return [
        mean(f"mae[{name}]", error, f"mean distance from {condition}, all samples with a value, valid or not"),
        median_with_failures(
            f"median_error[{name}]",
            np.where(valid, error, np.nan),
            f"median distance from {condition}, all samples; invalid ones are infinitely far off",
        ),
    ]


def distance(goal: Goal | None, values: np.ndarray) -> np.ndarray:
    """(M,) how far values are from a target, or from the nearer edge of a range; 0 inside it, NaN without a value."""
    low, high = _edges(goal)
    outside = np.maximum(low - values, 0) + np.maximum(values - high, 0)
    return np.where(np.isfinite(values), outside, np.nan)


def achieved(condition: Condition, values: np.ndarray, valid: np.ndarray, judge: str) -> Achieved:
    """What was asked for beside what (M,) samples have."""
    wanted = next((edge for edge in _edges(condition.goal) if np.isfinite(edge)), np.nan)
    quantity = condition.quantity
    return Achieved(
        quantity.name, quantity.unit or "", str(condition), wanted, tuple(values.tolist()), tuple(valid.tolist()), judge
    )


def _edges(goal: Goal | None) -> tuple[float, float]:
    """Between which values a goal is met exactly."""
    if isinstance(goal, Target):
        return goal.value, goal.value
    if isinstance(goal, Range):
        return -np.inf if goal.low is None else goal.low, np.inf if goal.high is None else goal.high
    return -np.inf, np.inf
