"""Chains of few steps, learnt from a teacher of many."""

from __future__ import annotations

import pytest
import torch
from contracts.oracle import MixtureLaw
from contracts.toy import PointwiseModel
from torch import nn

from common.algorithms.moment_matching import MomentMatching
from common.diffusion import Cosine, Euclidean, Process, Sampler, State, V
from common.diffusion.noise import SampleNoise, sample_seeds
from common.errors import InputError
from common.training.fit import FitConfig, FitResult
from common.training.optimiser import OptimiserConfig
from common.training.pretrain import BatchConfig, Teacher, pretrain

PROCESS = Process(Cosine(), Euclidean())
CORNER = torch.tensor([[1.0, -0.5, 0.2]])
STD = 0.1
TEACHER = MixtureLaw(PROCESS, torch.stack([CORNER, -CORNER]), torch.tensor([0.5, 0.5]), STD)
COUNT = 256
MASK = torch.ones(COUNT, 1, dtype=torch.bool)


def batches(start: int, rank: int, world_size: int):
    while True:
        generator = torch.Generator().manual_seed(start)
        side = 2 * torch.randint(0, 2, (COUNT, 1, 1), generator=generator) - 1
        yield State(side * CORNER + STD * torch.randn(COUNT, 1, 3, generator=generator), MASK)
        start += 1


def learn(student: PointwiseModel, directory, steps: int, *, few_steps: bool, resume: bool = False) -> FitResult:
    return pretrain(
        student, batches, directory, batch_config=BatchConfig(COUNT), teacher=Teacher(TEACHER, few_steps),
        optimiser=OptimiserConfig(learning_rate=0.002, warmup_steps=5, decay_fraction=0.5),
        fit_config=FitConfig(max_steps=steps, precision="float32", device="cpu", ema_decay=0.95), resume=resume,
    )  # fmt: skip


def samples(denoiser, evaluations: int, count: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Root mean square distance of samples from the nearer of the two places, and how many more lie at the first."""
    mask = torch.ones(count, 1, dtype=torch.bool)
    noise = SampleNoise(sample_seeds(5, 0, count))
    x = Sampler(PROCESS, steps=evaluations, solver="ancestral").sample(denoiser, mask, 3, noise).x
    side = (x @ CORNER.T).sign()
    return (x - side * CORNER).square().mean().sqrt(), side.mean()


def test_chains_of_few_steps_come_nearer_to_the_data_than_the_teachers_own(tmp_path):
    model = PointwiseModel(PROCESS)
    learn(model, tmp_path / "answers", 300, few_steps=False)
    before = samples(model.denoiser, 3)[0]
    assert samples(TEACHER, 3)[0] > 3 * STD
    learn(model, tmp_path / "few", 600, few_steps=True)
    assert samples(model.denoiser, 3)[0] < 0.75 * before
    # To both, and not to one of them.
    assert samples(model.denoiser, 3)[1].abs() < 0.3


class Constant(nn.Module):
    """One answer for all."""

    process, parameterisation = PROCESS, V()

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, state: State, t: torch.Tensor) -> torch.Tensor:
        return self.value.expand(state.x.shape)


def test_the_student_goes_where_the_teacher_expects_and_the_auxiliary_between_them():
    student, auxiliary = Constant(0.5), Constant(0.2)
    asked = []

    def teacher(state: State, t: torch.Tensor) -> torch.Tensor:
        asked.append((state.x.requires_grad, t))
        return torch.full_like(state.x, -0.3)

    algorithm = MomentMatching(teacher=teacher, auxiliary=auxiliary, steps=4)
    assert algorithm.trained == (auxiliary,)
    batch = next(iter(batches(0, 0, 1)))
    experience = algorithm.collect(student, student, None, batch, lambda *_: None, torch.Generator().manual_seed(0))
    s, t, last = (experience.extra[name] for name in ("s", "t", "last"))
    assert torch.equal(t > s, ~last)
    assert torch.equal(last, t <= 0.25)
    assert (t - s).max() <= 0.25
    assert t.max() <= 1
    loss, parts = algorithm.loss(student, student, experience)
    loss.backward()
    assert asked[0][0] is False
    assert torch.equal(asked[0][1], s)
    (_, before), (_, after) = (PROCESS.schedule.alpha_sigma(time) for time in (t, s))
    # Of |x - (x + answer - found)|^2 / sigma^2 with respect to x, of |x - answer|^2 / sigma^2 in the last step, and of
    # both errors with respect to what was found.
    apart = torch.where(last, 0.5 - -0.3, 0.2 - -0.3)
    torch.testing.assert_close(student.value.grad, (2 * apart / before**2).mean())
    torch.testing.assert_close(auxiliary.value.grad, (2 * ((0.2 - 0.5) + (0.2 - -0.3)) / after**2).mean())
    torch.testing.assert_close(parts["moments"] + parts["auxiliary"], loss.detach())


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, cut = PointwiseModel(PROCESS), PointwiseModel(PROCESS)
    learn(whole, tmp_path / "whole", 8, few_steps=True)
    stopped = pretrain(
        cut, batches, tmp_path / "cut", batch_config=BatchConfig(COUNT), teacher=Teacher(TEACHER, few_steps=True),
        optimiser=OptimiserConfig(learning_rate=0.002, warmup_steps=5, decay_fraction=0.5),
        fit_config=FitConfig(max_steps=8, precision="float32", device="cpu", ema_decay=0.95, max_minutes=1e-6),
    )  # fmt: skip
    assert 0 < stopped.steps < 8
    resumed = PointwiseModel(PROCESS)
    learn(resumed, tmp_path / "cut", 8, few_steps=True, resume=True)
    for ours, theirs in zip(resumed.denoiser.parameters(), whole.denoiser.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", [{"steps": 1, "solver": "ancestral"}, {"steps": 50, "solver": "sde-dpm2"}])
def test_a_sampler_of_other_steps_is_refused(tmp_path, sampler):
    model = PointwiseModel(PROCESS)
    model.description = {"sampler": sampler}
    with pytest.raises(InputError, match="expected ancestral steps, at least 2"):
        learn(model, tmp_path, 1, few_steps=True)
