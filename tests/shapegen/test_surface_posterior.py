"""Targets that know the shape: the same optimum as the drawn points, with less noise."""

import numpy as np
import pytest
import torch

from common.diffusion import Cosine, Euclidean, Process
from common.training.fit import FitConfig
from common.training.optimiser import OptimiserConfig
from shapegen.data.batches import ShapeBatches
from shapegen.data.codec import ShapeCodec
from shapegen.data.procedural import procedural
from shapegen.data.shapes import ShapeSet
from shapegen.models.surface_posterior import SurfacePosterior
from shapegen.train import ModelConfig, ShapeBatchConfig, new_model, train

PROCESS = Process(Cosine(), Euclidean())


def batch(count: int, stored: int, points: int, seed: int = 0, rotate: str = "none"):
    """`count` states of the same random cloud."""
    cloud = np.random.default_rng(7).normal(size=(1, stored, 3))
    shapes = ShapeSet(np.repeat(cloud, count, axis=0), np.zeros(count, int), ("a",), unit="mm")
    return next(iter(ShapeBatches(shapes, ShapeCodec(), count, points, seed=seed, surface=True, rotate=rotate)))


def noisy(state, t: float, seed: int = 0):
    times = torch.full((len(state),), t)
    noise = torch.randn(state.x.shape, generator=torch.Generator().manual_seed(seed))
    return state.replace(x=PROCESS.corrupt(state.x, state.mask, times, noise)), times


@pytest.mark.parametrize("rotate", ["none", "up"])
def test_the_surface_is_the_cloud_and_what_was_not_drawn(rotate):
    state = batch(40, 9, 4, rotate=rotate)
    surface = state.condition["surface"]
    assert torch.equal(surface[:, :4], state.x)
    whole = torch.from_numpy(np.random.default_rng(7).normal(size=(9, 3))).float()
    distances = torch.cdist(whole, whole).flatten().sort().values
    for cloud in surface:
        torch.testing.assert_close(torch.cdist(cloud, cloud).flatten().sort().values, distances, atol=2e-3, rtol=0)


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
def test_its_answers_are_unbiased_and_less_noisy_than_the_points(t):
    """E[(x_0 - answer) f(x_t)] = 0 for any function f of the whole noisy cloud, which makes the optimum the same."""
    clean = batch(60_000, 6, 3)
    state, times = noisy(clean, t)
    surplus = clean.x - SurfacePosterior(PROCESS)(state, times)
    assert surplus.square().mean() > 0.02
    others = state.x.roll(1, dims=1)
    for f in (torch.ones_like(state.x), state.x, others, (state.x - others).square(), torch.sin(3 * state.x + others)):
        products = (surplus * f).mean(dim=1)
        error = products.std(dim=0) / len(products) ** 0.5
        assert bool((products.mean(dim=0).abs() < 4 * error).all()), (products.mean(dim=0), error)


def test_near_the_data_it_is_the_point_itself():
    clean = batch(8, 200, 50)
    for t in (0.0, 1e-4):
        state, times = noisy(clean, t)
        torch.testing.assert_close(SurfacePosterior(PROCESS)(state, times), clean.x)


def test_mixed_precision_does_not_reach_it():
    clean = batch(4, 300, 100)
    state, times = noisy(clean, 0.05)
    exact = SurfacePosterior(PROCESS)(state, times)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SurfacePosterior(PROCESS)(state, times), exact)


def test_in_pure_noise_it_is_the_mean_of_what_may_have_been_drawn():
    clean = batch(8, 12, 4)
    state, times = noisy(clean, 1.0)
    rest = clean.condition["surface"][:, 4:]
    expected = (clean.x + rest.sum(dim=1, keepdim=True)) / 9
    torch.testing.assert_close(SurfacePosterior(PROCESS)(state, times), expected, atol=0.02, rtol=0)


def test_where_all_points_are_drawn_there_is_nothing_to_average():
    clean = batch(8, 12, 12)
    state, times = noisy(clean, 0.5)
    torch.testing.assert_close(SurfacePosterior(PROCESS)(state, times), clean.x)


@pytest.mark.parametrize(
    ("network", "options", "taught"), [("set_transformer", {"n_blocks": 1}, True), ("pointwise", {}, False)]
)
def test_training_learns_from_it_where_it_can(network, options, taught, tmp_path, monkeypatch):
    """Not for a network that is told a latent, which knows the points that were drawn."""
    asked = []
    monkeypatch.setattr(
        SurfacePosterior, "__call__", lambda self, state, t: asked.append(state.condition["surface"].shape) or state.x
    )
    shapes = procedural(2, points=32, workers=1, normals=False, labels=False, classes=["mug", "vase"])
    for name, wanted in (("on", True), ("off", False)):
        model = new_model(shapes, ModelConfig(network={"name": network, **options}), name="toy", seed=0, facts={})
        train(
            model, shapes, tmp_path / name,
            batch_config=ShapeBatchConfig(batch_size=2, points=8, surface_targets=wanted),
            optimiser=OptimiserConfig(), fit_config=FitConfig(max_steps=1, precision="float32", device="cpu"),
        )  # fmt: skip
    assert asked == [(2, 32, 3)] * taught
