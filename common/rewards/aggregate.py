"""Several goals, one number. Each takes conditions with goals and their finite raw values (B,), and gives (B,)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import InputError
from common.named import nearest
from common.rewards.conditions import Condition
from common.rewards.goals import Goal, Maximise

Aggregate = Callable[[Sequence[Condition], Sequence[Tensor]], Tensor]


def weighted_sum(conditions: Sequence[Condition], values: Sequence[Tensor]) -> Tensor:
    """sum_i w_i score_i. For targets and ranges alone this is the joint log-likelihood of independent Gaussians, with
    the weights in the place of CTRL's gammas (arXiv 2406.12120)."""
    return torch.stack([c.weight * _goal(c).score(v) for c, v in zip(conditions, values, strict=True)]).sum(dim=0)


def product(conditions: Sequence[Condition], values: Sequence[Tensor]) -> Tensor:
    """prod_i desirability_i ** w_i, from 0 to 1: one goal that is missed altogether spoils all."""
    parts = [_desirability(c, v) ** c.weight for c, v in zip(conditions, values, strict=True)]
    return torch.stack(parts).prod(dim=0)


def lexicographic(conditions: Sequence[Condition], values: Sequence[Tensor]) -> Tensor:
    """First things first: the number of leading goals that are met, plus the desirability of the next one.

    A goal counts only where all before it are met, so no success further down makes up for a miss further up. The last
    goal is never done with: it counts by its desirability. From 0 to the number of goals.

    Raises:
        InputError: a weight was given; the order alone decides.
    """
    if any(c.weight != 1 for c in conditions):
        raise InputError("a lexicographic reward has no weights: the order of the goals decides; leave 'weight' out")
    total = torch.zeros_like(values[0])
    reached = torch.ones_like(values[0], dtype=torch.bool)
    for k, (condition, value) in enumerate(zip(conditions, values, strict=True)):
        part = _desirability(condition, value)
        if k < len(conditions) - 1:
            met = _goal(condition).met(value)
            part = torch.where(met, torch.ones_like(part), part)
            total = total + torch.where(reached, part, torch.zeros_like(part))
            reached = reached & met
        else:
            total = total + torch.where(reached, part, torch.zeros_like(part))
    return total


def _desirability(condition: Condition, values: Tensor) -> Tensor:
    goal = _goal(condition)
    if isinstance(goal, Maximise) and goal.low is None:
        verb, name = str(goal), condition.quantity.name
        raise InputError(f"'{condition.text}' has no scale from 0 to 1; give one: '{verb} {name} from LOW to HIGH'")
    return goal.desirability(values)


def _goal(condition: Condition) -> Goal:
    if condition.goal is None:
        raise InputError(f"'{condition.text}' is only measured: it has no goal to be rewarded")
    return condition.goal


AGGREGATES: dict[str, Aggregate] = {
    "weighted_sum": weighted_sum,
    "product": product,
    "lexicographic": lexicographic,
}


def find_aggregate(name: str) -> Aggregate:
    """The aggregate called `name`; an `InputError` names the nearest otherwise."""
    if name not in AGGREGATES:
        known = ", ".join(AGGREGATES)
        raise InputError(f"got aggregate '{name}'{nearest(name, AGGREGATES)}; expected one of {known}")
    return AGGREGATES[name]
