"""`Spending`: what a row has taken, so that methods are compared at equal means.

Seconds and memory are measured around each command. The rest is read from what the commands leave in their run
directories: `generation` in `metrics.json` (for one sample), `training` in `model/model.json` (`network_evaluations` or
`samples_seen`, `reward_calls`, `labels`), and `cost` in `metrics.json`, which wins (the fields of `common.cost.Cost`,
and `labels`, the labelled samples that were learnt from). What a command does not state is unknown (NaN), never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

_COUNTS = ("evaluations", "reward_calls", "labels")


@dataclass(frozen=True)
class Spending:
    """What a command, or several, took.

    Attributes:
        seconds: wall clock.
        cpu_seconds: of the process and those it waited for.
        peak_memory_mb: of the largest process.
        evaluations: samples that a denoiser has seen.
        reward_calls: samples that a reward has scored.
        labels: labelled samples that were learnt from.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    evaluations: float = 0.0
    reward_calls: float = 0.0
    labels: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        # Processes follow one another; labels of one step are those of the next.
        for name in ("peak_memory_mb", "labels"):
            added[name] = larger(getattr(self, name), getattr(other, name))
        return Spending(**added)

    def for_each(self, count: int) -> Spending:
        """What one of `count` equal runs took; a peak and labels are those of all."""
        shared = {"peak_memory_mb", "labels"}
        return Spending(**{f.name: getattr(self, f.name) / (1 if f.name in shared else count) for f in fields(self)})

    @classmethod
    def from_json(cls, row: Mapping[str, float | None]) -> Spending:
        """From a file, where null stands for NaN."""
        return cls(**{name: math.nan if value is None else value for name, value in row.items()})

    @classmethod
    def unknown(cls) -> Spending:
        """Of samples that came from elsewhere."""
        return cls(**{f.name: math.nan for f in fields(cls)})


def larger(a: float, b: float) -> float:
    """The larger number; NaN, unknown, if either is."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def stated(run: Path) -> dict[str, float]:
    """Evaluations, reward calls and labels as a run directory states them; NaN where it does not."""
    found: dict[str, float] = dict.fromkeys(_COUNTS, math.nan)
    metrics = _read(run / "metrics.json")
    generation = metrics.get("generation")
    if isinstance(generation, Mapping):
        samples = metrics.get("n_samples", generation.get("samples"))
        each = {"evaluations": generation.get("network_evaluations"), "reward_calls": generation.get("reward_calls")}
        if "guidance" not in generation:
            # Unguided sampling asks no reward and needs no label.
            each["reward_calls"] = 0
            found["labels"] = 0.0
        elif _is_number(generation.get("labels")):
            found["labels"] = float(generation["labels"])
        if _is_number(samples):
            found |= {name: float(value * samples) for name, value in each.items() if _is_number(value)}
    training = _read(run / "model" / "model.json").get("training")
    if isinstance(training, Mapping):
        # A plain training sees each sample once a step; one by rewards counts its chains.
        for name, keys in {"evaluations": ("network_evaluations", "samples_seen"), "reward_calls": ("reward_calls",),
                           "labels": ("labels",)}.items():  # fmt: skip
            numbers = [float(training[key]) for key in keys if _is_number(training.get(key))]
            found[name] = numbers[0] if numbers else math.nan
    cost = metrics.get("cost")
    if isinstance(cost, Mapping):
        found |= {name: float(cost[name]) for name in _COUNTS if _is_number(cost.get(name))}
    return found


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        # A command that states nothing costs what was measured around it; the rest is unknown.
        return {}
    return content if isinstance(content, dict) else {}
