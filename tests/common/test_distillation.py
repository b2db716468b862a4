"""Autoguidance in closed form, and a student that learns what a guided teacher answers."""

from __future__ import annotations

import pytest
import torch
from contracts.oracle import GaussianLaw
from contracts.toy import PointwiseModel
from contracts.worlds import GaussianWorld

from common.algorithms.distillation import Distillation
from common.algorithms.likelihood import Likelihood
from common.diffusion import Centered, Cosine, Euclidean, Process, State
from common.errors import InputError
from common.guidance import Autoguidance
from common.training.fit import FitConfig
from common.training.optimiser import OptimiserConfig
from common.training.pretrain import BatchConfig, Teacher, pretrain

WORLD = GaussianWorld(Centered(3), sizes=(3, 2), n_channels=4)
# The same data, blurred: what a model with less capacity would take them for.
WEAKER = GaussianLaw(WORLD.process, WORLD.law.mean, 2 * WORLD.std)


def noisy(count: int = 12) -> tuple[State, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = WORLD.data(count, generator)
    t = torch.linspace(0, 1, count, dtype=torch.float64)
    noise = torch.randn(data.x.shape, generator=generator, dtype=torch.float64)
    return data.replace(x=WORLD.process.corrupt(data.x, data.mask, t, noise)), t


def test_it_goes_on_from_the_weaker_answer_through_the_better_one():
    state, t = noisy()
    strong, weak = WORLD.law(state, t), WEAKER(state, t)
    guided = Autoguidance(WEAKER, scale=0.7, active_from=0.0)(WORLD.law)(state, t)
    torch.testing.assert_close(guided, strong + 0.7 * (strong - weak))
    law = WORLD.law
    assert Autoguidance(WEAKER, scale=0)(law) is law
    same = Autoguidance(WORLD.law, scale=3.0)(WORLD.law)(state, t)
    torch.testing.assert_close(same, strong)


def test_it_acts_between_its_times_alone():
    state, t = noisy()
    asked = []

    def weaker(part: State, times: torch.Tensor) -> torch.Tensor:
        asked.extend(times.tolist())
        return WEAKER(part, times)

    guided = Autoguidance(weaker, scale=1.0, active_from=0.3, active_to=0.6)(WORLD.law)
    outside = (t < 0.3) | (t > 0.6)
    difference = (guided(state, t) - WORLD.law(state, t)).abs().sum(dim=(1, 2))
    assert (difference[outside] == 0).all()
    assert (difference[~outside] > 0).all()
    assert asked == t[~outside].tolist()
    guided(state.index(outside), t[outside])
    assert len(asked) == int((~outside).sum())


def test_a_blurred_model_is_sharpened_towards_the_data():
    """A model that takes the data for 1.5 times as wide, guided by one that takes them for twice as wide."""
    state, t = noisy()
    state, t = state.index(slice(3, None)), t[3:]
    truth = WORLD.law(state, t)
    model = GaussianLaw(WORLD.process, WORLD.law.mean, 1.5 * WORLD.std)
    guided = Autoguidance(WEAKER, scale=0.5)(model)
    assert (guided(state, t) - truth).norm() < 0.8 * (model(state, t) - truth).norm()


@pytest.mark.parametrize("settings", [{"scale": -1.0}, {"active_from": 0.5, "active_to": 0.2}, {"active_to": 1.5}])
def test_unusable_settings_are_named(settings):
    with pytest.raises(InputError, match="got"):
        Autoguidance(WEAKER, **settings)


PROCESS = Process(Cosine(), Euclidean())
DATA = torch.linspace(-1, 1, 64)[:, None, None].expand(64, 2, 3) * torch.tensor([1.0, -0.5, 0.2])
# What no data would teach: a teacher that puts everything at one place.
PLACE = torch.tensor([0.3, 0.1, -0.4])


def teacher(state: State, t: torch.Tensor) -> torch.Tensor:
    return PLACE.expand(state.x.shape)


def batches(start: int, rank: int, world_size: int):
    while True:
        yield State(DATA, torch.ones(64, 2, dtype=torch.bool))


def test_a_student_learns_the_teachers_answers_and_not_the_data(tmp_path):
    model = PointwiseModel(PROCESS)
    result = pretrain(
        model, batches, tmp_path, batch_config=BatchConfig(64),
        optimiser=OptimiserConfig(learning_rate=0.01, warmup_steps=5),
        fit_config=FitConfig(max_steps=400, precision="float32", device="cpu", ema_decay=0.9), teacher=Teacher(teacher),
    )  # fmt: skip
    state, t = State(DATA, torch.ones(64, 2, dtype=torch.bool)), torch.full((64,), 0.6)
    noise = torch.randn(DATA.shape, generator=torch.Generator().manual_seed(1))
    found = result.denoiser(state.replace(x=PROCESS.corrupt(DATA, state.mask, t, noise)), t)
    assert (found - PLACE).square().mean() < 0.4 * (found - DATA).square().mean()


def test_its_loss_is_the_squared_error_of_v_and_asks_the_teacher_without_a_graph():
    model = PointwiseModel(PROCESS).denoiser
    algorithm = Distillation(teacher=teacher, likelihood=Likelihood())
    batch = State(DATA[:8], torch.ones(8, 2, dtype=torch.bool))
    experience = algorithm.collect(model, model, None, batch, lambda *_: None, torch.Generator().manual_seed(0))
    loss, parts = algorithm.loss(model, model, experience)
    t = experience.extra["t"]
    alpha, sigma = PROCESS.schedule.alpha_sigma(t)
    state = batch.replace(x=PROCESS.corrupt(batch.x, batch.mask, t, experience.extra["noise"]))
    # v = (alpha x_t - x0) / sigma
    expected = ((model(state, t) - PLACE) / sigma[:, None, None]).square().mean()
    torch.testing.assert_close(loss, expected)
    assert parts["v"] == loss
    assert alpha.shape == (8,)


def test_near_the_data_it_is_the_data_that_are_learnt():
    model, asked = PointwiseModel(PROCESS).denoiser, []

    def heard(state: State, t: torch.Tensor) -> torch.Tensor:
        asked.extend(t.tolist())
        return teacher(state, t)

    algorithm = Distillation(teacher=heard, likelihood=Likelihood(), teacher_from=0.4)
    batch = State(DATA[:16], torch.ones(16, 2, dtype=torch.bool))
    experience = algorithm.collect(model, model, None, batch, lambda *_: None, torch.Generator().manual_seed(0))
    loss, _ = algorithm.loss(model, model, experience)
    t = experience.extra["t"]
    _, sigma = PROCESS.schedule.alpha_sigma(t)
    late = t < 0.4
    assert 0 < int(late.sum()) < 16
    assert asked == t[~late].tolist()
    state = batch.replace(x=PROCESS.corrupt(batch.x, batch.mask, t, experience.extra["noise"]))
    wanted = torch.where(late[:, None, None], batch.x, PLACE.expand(batch.x.shape))
    expected = ((model(state, t) - wanted) / sigma[:, None, None]).square().mean()
    torch.testing.assert_close(loss, expected)
    with pytest.raises(InputError, match="got teacher_from 1, expected a time from 0"):
        Distillation(teacher=heard, likelihood=Likelihood(), teacher_from=1)


def test_a_network_with_latents_takes_no_teacher(tmp_path):
    model = PointwiseModel(PROCESS)
    model.denoiser.network.conditions = ("latent",)
    with pytest.raises(InputError, match="latents of its own"):
        pretrain(
            model, batches, tmp_path, batch_config=BatchConfig(4), optimiser=OptimiserConfig(),
            fit_config=FitConfig(max_steps=1), teacher=Teacher(teacher),
        )  # fmt: skip
