"""Rewards: what users want, named, measured, combined; failures are counted and never win."""

from common.rewards.aggregate import AGGREGATES, find_aggregate
from common.rewards.cache import Score, ScoreCache, geometry_hash
from common.rewards.composed import ComposedReward, Measure, Measured, Objective
from common.rewards.conditions import (
    PREDICTED,
    Condition,
    parse,
    required,
    rewarded,
    warn_outside,
    without_predictors,
)
from common.rewards.decoded import DecodedMeasure
from common.rewards.goals import Category, Goal, Maximise, Range, Target
from common.rewards.quantity import Quantity, find_quantity
from common.rewards.reward import FunctionReward, Remembering, Reward, RewardResult, SummedReward, check_gradient
from common.rewards.typed import TypedReward, conditions_of

__all__ = [
    "AGGREGATES",
    "PREDICTED",
    "Category",
    "ComposedReward",
    "Condition",
    "DecodedMeasure",
    "FunctionReward",
    "Goal",
    "Maximise",
    "Measure",
    "Measured",
    "Objective",
    "Quantity",
    "Range",
    "Remembering",
    "Reward",
    "RewardResult",
    "Score",
    "ScoreCache",
    "SummedReward",
    "Target",
    "TypedReward",
    "check_gradient",
    "conditions_of",
    "find_aggregate",
    "find_quantity",
    "geometry_hash",
    "parse",
    "required",
    "rewarded",
    "warn_outside",
    "without_predictors",
]
