"""A benchmark of numbers: a domain whose samples are numbers in a JSON file, and records of runs that never were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.benchmark.config import Benchmark
from common.benchmark.domain import Domain, Task, View
from common.benchmark.methods import METHODS, Method, Step, Trial
from common.benchmark.runner import StepRecord, TrialRecord
from common.benchmark.spending import Spending
from common.benchmark.verdict import Achieved, Column, Verdict, mean
from common.errors import InputError
from common.metrics import proportion

COLUMNS = (Column("hit_rate", "hits [%]", 1, True), Column("mae[x]", "MAE x", -1), Column("size", "size"))


def judge_numbers(values: np.ndarray, target: str) -> Verdict:
    """Numbers against a target `x=1.5`."""
    wanted = float(target.partition("=")[2] or 0)
    error = np.abs(values - wanted)
    metrics = (
        proportion("hit_rate", int((error < 0.3).sum()), len(values), "within 0.3"),
        mean("mae[x]", error, "mean distance"),
        mean("size", values, "mean"),
    )
    valid = tuple(True for _ in values)
    return Verdict(len(values), metrics, (Achieved("x", "", target, wanted, tuple(values.tolist()), valid, "ruler"),))


class NumberJudge:
    """Reads `samples.json` and judges its numbers."""

    def __init__(self, benchmark: Benchmark, workers: int | None) -> None:
        self.closed = False

    def __call__(self, samples: Path, target: str, keep: Path) -> Verdict:
        path = samples / "samples.json" if samples.is_dir() else samples
        if not path.exists():
            raise InputError(f"{samples} holds no numbers")
        keep.write_bytes(path.read_bytes())
        return judge_numbers(np.array(json.loads(path.read_text())), target)

    def close(self) -> None:
        self.closed = True


def check_target(target: str) -> None:
    if not target.startswith("x="):
        raise InputError(f"got the target '{target}', expected x=NUMBER")


def shifted(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
    """Samples moved towards the target by `generate: {shift: ...}`."""
    output_dir = trial.directory / "samples"
    words = (
        program, "generate", benchmark.model, "--num-samples", str(benchmark.num_samples), "--seed", str(trial.seed),
        "--target", trial.target, "--shift", str(benchmark.options("generate", trial.method).get("shift", 0.5)),
        "--output-dir", str(output_dir),
    )  # fmt: skip
    return [Step("sampling", words, output_dir)]


def number_views(kept: Path, count: int) -> list[View]:
    numbers = json.loads(kept.read_text())
    return [View(f"x = {x} </script><b>", {"data": [], "layout": {}}) for x in numbers[:count]]


def domain(published: Path) -> Domain:
    methods = {
        "unconditional": METHODS["unconditional"],
        "shifted": Method("shifted", "moved towards the target", shifted, "sampling"),
    }
    tasks = {
        "property": Task("property", "Numbers near a wanted one.", lambda b: COLUMNS, True, "size",
                         check_target=check_target),
        "unconditional": Task("unconditional", "Numbers.", lambda b: COLUMNS, False, "size"),
    }  # fmt: skip
    return Domain("contracts.benchmark_stub", methods, tasks, NumberJudge, published, number_views, "kept.json",
                  "numbers")  # fmt: skip


def benchmark(**changes: object) -> Benchmark:
    one = Benchmark(
        "numbers", "base", targets=("x=1.5",), methods=("unconditional", "shifted"), num_samples=4, seeds=2
    )  # fmt: skip
    return replace(one, **changes)


def record(method: str, target: str, seed: int, values: np.ndarray, *steps: tuple[str, str, float]) -> TrialRecord:
    """A finished trial; steps are (stage, output_dir, evaluations)."""
    spent = tuple(
        StepRecord(stage, f"stub {stage} {place}", place, Spending(10.0, 8.0, 500.0, evaluations, 0.0, 0.0))
        for stage, place, evaluations in steps
    )
    commands = tuple(step.command for step in spent)
    return TrialRecord(method, target, seed, True, "", commands, spent, judge_numbers(values, target))
