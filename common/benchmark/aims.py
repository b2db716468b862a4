"""How well measured values meet what was asked for; the same for molecules and shapes."""

from __future__ import annotations

import numpy as np
import torch

from common.benchmark.verdict import Achieved, Column, mean, median_with_failures
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

    And `log_error[NAME]`, the mean |ln(v / asked)|, where it was asked for give or take a share.

    Args:
        condition: a target or a range.
        name: in brackets.
        values: (M,) NaN where there is none.
        valid: (M,) bool.
    """
    error = distance(condition.goal, values)
    found = [
        mean(f"mae[{name}]", error, f"mean distance from {condition}, all samples with a value, valid or not"),
        median_with_failures(
            f"median_error[{name}]",
            np.where(valid, error, np.nan),
            f"median distance from {condition}, all samples; invalid ones are infinitely far off",
        ),
    ]
    if _relative(condition.goal):
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (np.log(edge) if edge > 0 else -np.inf for edge in _edges(condition.goal))
            log_error = _outside(np.log(values), low, high)
        rule = f"mean |ln(v / asked)| of {condition}, all samples with a positive value: 0.69 is half or double"
        found.append(mean(f"log_error[{name}]", log_error, rule))
    return found


def error_columns(condition: Condition) -> list[Column]:
    """The columns of what `errors` gives."""
    name, unit = condition.quantity.name, condition.quantity.unit
    short = short_name(condition)
    of = f"{short} [{unit}]" if unit else short
    columns = [
        Column(f"mae[{name}]", f"MAE {of}", -1),
        Column(f"median_error[{name}]", f"median error {of}", -1),
    ]
    if _relative(condition.goal):
        columns.append(Column(f"log_error[{name}]", f"mean |ln ratio| {short}", -1))
    return columns


def short_name(condition: Condition) -> str:
    """The shortest name of its quantity, for people."""
    return min((condition.quantity.name, *condition.quantity.aliases), key=len)


def distance(goal: Goal | None, values: np.ndarray) -> np.ndarray:
    """(M,) how far values are from a target, or from the nearer edge of a range; 0 inside it, NaN without a value."""
    return _outside(values, *_edges(goal))


def achieved(condition: Condition, values: np.ndarray, valid: np.ndarray, judge: str) -> Achieved:
    """What was asked for beside what (M,) samples have."""
    wanted = next((edge for edge in _edges(condition.goal) if np.isfinite(edge)), np.nan)
    quantity = condition.quantity
    return Achieved(
        quantity.name, quantity.unit or "", str(condition), wanted, tuple(values.tolist()), tuple(valid.tolist()), judge
    )


def _outside(values: np.ndarray, low: float, high: float) -> np.ndarray:
    outside = np.maximum(low - values, 0) + np.maximum(values - high, 0)
    return np.where(np.isfinite(values), outside, np.nan)


def _relative(goal: Goal | None) -> bool:
    return isinstance(goal, Target | Range) and goal.relative


def _edges(goal: Goal | None) -> tuple[float, float]:
    """Between which values a goal is met exactly."""
    if isinstance(goal, Target):
        return goal.value, goal.value
    if isinstance(goal, Range):
        return -np.inf if goal.low is None else goal.low, np.inf if goal.high is None else goal.high
    return -np.inf, np.inf
