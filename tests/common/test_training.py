"""The trainer on a toy world: it learns, stops, resumes bit for bit, and accumulates as it should."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest
import torch
from contracts.toy import Pointwise

from common.algorithms.pretraining import Pretraining
from common.diffusion import Cosine, Denoiser, Euclidean, Process, State, V
from common.errors import InputError
from common.training.fit import FitConfig, FitResult, fit
from common.training.optimiser import OptimiserConfig

DATA = torch.linspace(-1, 1, 64)[:, None, None].expand(64, 2, 3) * torch.tensor([1.0, -0.5, 0.2])


def batches(size: int):
    def source(start: int, rank: int, world_size: int) -> Iterable[State]:
        for step in count(start):
            first = (step * world_size + rank) * size
            indices = torch.arange(first, first + size) % len(DATA)
            yield State(DATA[indices], torch.ones(size, 2, dtype=torch.bool))

    return source


def run(directory: Path, max_steps: int, *, size: int = 8, resume: bool = False, optimiser=None, **config) -> FitResult:
    torch.manual_seed(0)
    denoiser = Denoiser(Pointwise(), Process(Cosine(), Euclidean()), V())
    return fit(
        denoiser,
        Pretraining(),
        optimiser or OptimiserConfig(warmup_steps=5),
        batches(size),
        FitConfig(max_steps=max_steps, precision="float32", device="cpu", log_every=5, **config),
        directory,
        resume=resume,
        measure=lambda denoiser: {"weight": float(next(denoiser.parameters()).detach().abs().sum())},
    )


def assert_same(first: FitResult, second: FitResult) -> None:
    for (name, a), b in zip(first.denoiser.state_dict().items(), second.denoiser.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def column(directory: Path, name: str) -> list[float]:
    rows = [
        row
        for path in sorted((directory / "logs" / "csv").glob("version_*/metrics.csv"))
        for row in csv.DictReader(path.open())
    ]
    return [float(row[name]) for row in rows if row.get(name)]


def test_it_learns(tmp_path):
    result = run(tmp_path, 400, size=32)
    assert result.finished
    assert result.samples_seen == 400 * 32
    losses = column(tmp_path, "train/loss")
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path):
    first = run(tmp_path, 10)
    again = run(tmp_path, 10, resume=True)
    assert again.finished
    assert (again.steps, again.samples_seen) == (10, 80)
    assert_same(first, again)


def test_it_does_not_go_back_to_fewer_steps(tmp_path):
    run(tmp_path, 10)
    with pytest.raises(InputError, match="stands at step 10, got 5 steps"):
        run(tmp_path, 5, resume=True)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, name):
    optimiser = OptimiserConfig(name=name, warmup_steps=5)
    whole = run(tmp_path / "whole", 30, optimiser=optimiser, measure_every=10)

    class Interrupt:
        """Sends this process Ctrl-C after a while."""

        def __init__(self, inner, after: int) -> None:
            self.inner, self.after = inner, after

        def __call__(self, *place):
            for number, batch in enumerate(self.inner(*place)):
                if number == self.after:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    global batches
    original = batches
    try:
        batches = lambda size: Interrupt(original(size), 11)  # noqa: E731
        first = run(tmp_path / "cut", 30, optimiser=optimiser)
    finally:
        batches = original
    assert not first.finished
    assert 0 < first.steps < 30
    second = run(tmp_path / "cut", 30, optimiser=optimiser, resume=True)
    assert second.finished
    assert second.samples_seen == whole.samples_seen
    assert_same(whole, second)


def test_accumulation_sees_the_same_samples(tmp_path):
    once = run(tmp_path / "once", 10, size=8)
    twice = run(tmp_path / "twice", 10, size=4, accumulate=2)
    assert once.samples_seen == twice.samples_seen


def test_the_average_differs_from_the_running_weights_and_is_what_is_returned(tmp_path):
    result = run(tmp_path, 20)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in result.denoiser.state_dict().items():
        torch.testing.assert_close(value, saved["state_dict"][f"denoiser.{name}"])
    assert any(
        not torch.equal(value, saved["current_model_state"][name]) for name, value in saved["state_dict"].items()
    )


def test_measurements_are_logged(tmp_path):
    run(tmp_path, 20, measure_every=5)
    assert len(column(tmp_path, "sample/weight")) == 4
    assert column(tmp_path, "sample/samples_seen") == [40, 80, 120, 160]


def test_a_time_limit_stops_resumably(tmp_path):
    first = run(tmp_path, 10**6, max_minutes=0.005)
    assert not first.finished
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(tmp_path):
    whole = run(tmp_path / "whole", 5)
    again = run(tmp_path / "cut", 5, resume=True)
    assert again.finished
    for ours, theirs in zip(again.denoiser.parameters(), whole.denoiser.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_bad_requests_are_one_line(tmp_path):
    with pytest.raises(InputError, match="expected 'auto', 'float32' or 'bf16'"):
        fit(
            Denoiser(Pointwise(), Process(Cosine(), Euclidean()), V()), Pretraining(), OptimiserConfig(), batches(4),
            FitConfig(max_steps=1, precision="fp8"), tmp_path,
        )  # fmt: skip
    with pytest.raises(InputError, match="expected one of adamw, muon"):
        OptimiserConfig(name="sgd")


def test_learning_rate_warms_up_stays_and_falls():
    config = OptimiserConfig(warmup_steps=10, decay_fraction=0.5)
    factors = [config.factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:50] == pytest.approx([1.0] * 41)
    assert factors[75] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.02)
