"""Measurements -> goals -> one reward, with the raw values kept and every failure counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from common.diffusion import State
from common.errors import InputError
from common.rewards.aggregate import find_aggregate
from common.rewards.conditions import Condition, required, rewarded
from common.rewards.reward import RewardResult, check_gradient, checked_values


@dataclass(frozen=True)
class Measured:
    """Raw values of a batch of B samples.

    Attributes:
        values: name of a quantity -> (B,) float, NaN where it could not be measured; on any device.
        failures: reason -> number of samples. What is not finite and has no reason here is counted all the same.
    """

    values: Mapping[str, Tensor]
    failures: Mapping[str, int] = field(default_factory=dict)


class Measure(Protocol):
    """Measures one or several quantities on states: a network, a batched calculator, or a pool of workers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities that it gives."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether all its values carry gradients with respect to `state.x`."""
        ...

    def __call__(self, state: State) -> Measured:
        """Raw values of a batch of clean states."""
        ...


class Objective:
    """From raw values to a reward: goals, filters, and what failures get.

    A sample is valid if every quantity with a goal or a filter was measured and every filter is passed. An invalid
    sample has the reward NaN; with a `floor` it has the floor, and no valid sample has less, so a failure never beats a
    success. Nothing is averaged over the parts that happened to succeed.

    Args:
        conditions: what is wanted, see `common.rewards.conditions.parse`; at least one goal.
        aggregate: a name of `AGGREGATES`.
        floor: the reward of failures and the lowest there is; None leaves failures NaN.

    Raises:
        InputError: nothing to aim at, an unknown aggregate, or a goal that the aggregate cannot use.
    """

    def __init__(self, conditions: Sequence[Condition], aggregate: str = "weighted_sum", floor: float | None = None):
        self._combine = find_aggregate(aggregate)
        if floor is not None and not math.isfinite(floor):
            raise InputError(f"got the floor {floor}, expected a finite number")
        self.conditions = tuple(conditions)
        self.goals = rewarded(conditions)
        self.filters = required(conditions)
        self.aggregate, self.floor = aggregate, floor
        # A goal that the aggregate cannot use is found here, not after an hour of sampling.
        self._combine(self.goals, [torch.zeros(1) for _ in self.goals])

    def __str__(self) -> str:
        floor = "" if self.floor is None else f", failures get {self.floor:g}"
        return f"{self.aggregate} of " + "; ".join(map(str, self.conditions)) + floor

    def combine(
        self, measured: Sequence[Measured], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> RewardResult:
        """The rewards, on `device` in `dtype`, of samples whose quantities were measured; raw values stay as they are.

        Raises:
            KeyError: a quantity of the conditions is missing.
            ValueError: the measurements are of different numbers of samples.
        """
        parts: dict[str, Tensor] = {}
        failures: Counter[str] = Counter()
        for one in measured:
            for name, raw in one.values.items():
                parts[name] = torch.where(torch.isfinite(raw), raw, torch.full_like(raw, torch.nan))
            failures.update(one.failures)
            _count_unexplained(failures, one, parts)

        goals = [parts[condition.quantity.name] for condition in self.goals]
        filters = [parts[condition.quantity.name] for condition in self.filters]
        valid = torch.ones(len(goals[0]), dtype=torch.bool, device=device)
        for raw in (*goals, *filters):
            valid &= torch.isfinite(raw).to(device)
        for condition, raw in zip(self.filters, filters, strict=True):
            met = condition.goal.met(_filled(raw)).to(device)  # type: ignore[union-attr]
            if dropped := int((valid & ~met).sum()):
                failures[f"does not meet '{condition.text}'"] += dropped
            valid &= met
        total = self._combine(self.goals, [_filled(raw).to(device, dtype) for raw in goals])
        overflow = valid & ~torch.isfinite(total)
        if overflow.any():
            failures["reward not finite"] += int(overflow.sum())
            valid &= ~overflow
        failed = torch.nan if self.floor is None else self.floor
        total = total if self.floor is None else total.clamp(min=self.floor)
        values = torch.where(valid, total, torch.full_like(total, failed))
        return RewardResult(values, valid, parts, dict(failures))


class ComposedReward:
    """A `Reward`: measures of states, and an objective for what they give.

    Args:
        objective: what is wanted.
        measures: where the values come from; they give every quantity of the objective's conditions.
        example: a state on which the gradients of differentiable measures are checked; needed if there are such.

    Raises:
        InputError: a quantity that nobody measures, or a declared gradient that is none.
    """

    def __init__(self, objective: Objective, measures: Sequence[Measure], example: State | None = None):
        self.objective = objective
        self._measures = tuple(measures)
        providers = {name: measure for measure in measures for name in measure.names}
        wanted = [condition.quantity.name for condition in objective.conditions]
        lacking = [name for name in wanted if name not in providers]
        if lacking:
            raise InputError(f"nothing measures {', '.join(lacking)}; measured: {', '.join(providers) or 'nothing'}")
        self._differentiable = all(providers[goal.quantity.name].differentiable for goal in objective.goals)
        for measure in measures:
            if measure.differentiable:
                for name in measure.names:
                    check_gradient(name, lambda state, m=measure, n=name: m(state).values[n], example)

    @property
    def differentiable(self) -> bool:
        """See `Reward`: every quantity with a goal is measured differentiably; filters need not be."""
        return self._differentiable

    def __str__(self) -> str:
        return str(self.objective)

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`."""
        measured = [measure(state) for measure in self._measures]
        for one in measured:
            for name, values in one.values.items():
                checked_values(name, values, len(state))
        return self.objective.combine(measured, state.x.device, torch.promote_types(state.x.dtype, torch.float32))


def _filled(values: Tensor) -> Tensor:
    """`values` with 0 for NaN, so that no NaN enters a gradient; `valid` remembers where."""
    return torch.where(torch.isfinite(values), values, torch.zeros_like(values))


def _count_unexplained(failures: Counter[str], measured: Measured, parts: Mapping[str, Tensor]) -> None:
    for name in measured.values:
        failed = int(torch.isnan(parts[name]).sum())
        explained = sum(n for reason, n in measured.failures.items() if reason.startswith(f"{name}: "))
        if failed > explained:
            failures[f"{name}: not finite"] += failed - explained
