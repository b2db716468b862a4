"""The contract of the reference shape network, of its latents, and of their prior."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.algorithms.latent_pretraining import LatentPretraining, pretraining
from common.algorithms.likelihood import Likelihood
from common.algorithms.pretraining import Pretraining
from common.diffusion import Denoiser, Eps, Euclidean, LinearBeta, Process, State
from common.diffusion.control import Control, ControlledDenoiser
from common.training.fit import FitConfig
from common.training.optimiser import OptimiserConfig, build_optimisers
from shapegen.data.shapes import ShapeSet
from shapegen.model import ShapeModel
from shapegen.models import PointwiseMLP, SetTransformer
from shapegen.models.flow import CouplingFlow
from shapegen.train import ModelConfig, ShapeBatchConfig, new_model, train

SETTINGS = {
    "n_latent": 8, "widths": (16, 24, 16), "encoder_widths": (16, 24), "flow_depth": 3, "flow_width": 16,
    "cond_width": 16,
}  # fmt: skip
PROCESS = Process(LinearBeta(100, 1e-4, 0.02), Euclidean())


def shake(network: PointwiseMLP) -> None:
    """What starts at zero and would hide a fault."""
    for coupling in network.prior.couplings:
        torch.nn.init.normal_(coupling.last.weight, std=0.3)
        if coupling.embed_context is not None:
            torch.nn.init.normal_(coupling.embed_context.weight)
    if network.n_context:
        torch.nn.init.normal_(network.embed_context.weight)


def make(n_context: int = 0, dtype: torch.dtype = torch.float64, shaken: bool = True) -> PointwiseMLP:
    torch.manual_seed(0)
    network = PointwiseMLP(n_context=n_context, **SETTINGS)
    if shaken:
        shake(network)
    return network.to(dtype)


def batch(n_context: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(11)[None] < torch.tensor([11, 4, 1])[:, None]
    x = torch.randn(3, 11, 3, generator=generator, dtype=dtype) * mask[..., None]
    t = torch.rand(3, generator=generator, dtype=dtype)
    context = torch.randn(3, n_context, generator=generator, dtype=dtype) if n_context else None
    latent = torch.randn(3, SETTINGS["n_latent"], generator=generator, dtype=dtype)
    return x, t, mask, context, latent


@pytest.mark.parametrize("n_context", [0, 3])
def test_points_may_come_in_any_order(n_context):
    network, (x, t, mask, context, latent) = make(n_context), batch(n_context)
    out = network(x, t, mask, context, latent)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(x[:, order], t, mask[:, order], context, latent), out[:, order])
    encoded = network.encode(x, mask, latent, context)
    torch.testing.assert_close(network.encode(x[:, order], mask[:, order], latent, context), encoded)


def test_padding_changes_nothing():
    network, (x, t, mask, _, latent) = make(), batch()
    out, encoded = network(x, t, mask, None, latent), network.encode(x, mask, latent)
    assert (out[~mask] == 0).all()
    wide = torch.cat([x, torch.full((3, 5, 3), 7.0, dtype=x.dtype)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(network(wide, t, wide_mask, None, latent)[:, :11], out)
    torch.testing.assert_close(network.encode(wide, wide_mask, latent), encoded)


def test_the_number_of_points_plays_no_part():
    """Every point said three times gives every answer three times, and the same latent."""
    network, (x, t, mask, _, latent) = make(), batch()
    repeated, repeated_mask = x.repeat_interleave(3, dim=1), mask.repeat_interleave(3, dim=1)
    out = network(x, t, mask, None, latent)
    torch.testing.assert_close(network(repeated, t, repeated_mask, None, latent), out.repeat_interleave(3, dim=1))
    torch.testing.assert_close(network.encode(repeated, repeated_mask, latent), network.encode(x, mask, latent))


def test_shapes_of_a_batch_do_not_mix():
    network, (x, t, mask, context, latent) = make(3), batch(3)
    out, (z, kl) = network(x, t, mask, context, latent), network.encode(x, mask, latent, context)
    for i in range(3):
        row = slice(i, i + 1)
        torch.testing.assert_close(network(x[row], t[row], mask[row], context[row], latent[row]), out[row])
        alone = network.encode(x[row], mask[row], latent[row], context[row])
        torch.testing.assert_close(alone, (z[row], kl[row]))


def test_points_hear_of_their_shape_through_the_latent_alone():
    network, (x, t, mask, context, latent) = make(3), batch(3)
    out = network(x, t, mask, context, latent)
    moved = x.clone()
    moved[0, 3] += 0.5
    torch.testing.assert_close(network(moved, t, mask, context, latent)[0, 0], out[0, 0])
    assert not torch.allclose(network(moved, t, mask, context, latent)[0, 3], out[0, 3])
    assert not torch.allclose(network.encode(moved, mask, latent)[0][0], network.encode(x, mask, latent)[0][0])
    for other in ((x, t / 2, mask, context, latent), (x, t, mask, context, 2 * latent)):
        assert not torch.allclose(network(*other), out)


def test_a_condition_starts_as_no_condition():
    network, (x, t, mask, context, latent) = make(3, shaken=False), batch(3)
    torch.nn.init.normal_(network.prior.couplings[0].last.weight)

    def answers(given):
        return (
            network(x, t, mask, given, latent),
            network.encode(x, mask, latent, given)[1],
            network.draw_latent(latent, given),
        )

    none = answers(None)
    torch.testing.assert_close(answers(context), none, rtol=0, atol=0)
    shake(network)
    none = answers(None)
    torch.testing.assert_close(answers(torch.zeros_like(context)), none, rtol=0, atol=0)
    for told, untold in zip(answers(context), none, strict=True):
        assert not torch.allclose(told, untold)


def test_without_a_latent_it_says_so():
    network, (x, t, mask, _, _) = make(), batch()
    with pytest.raises(ValueError, match=r"got no condition 'latent', expected \(B, 8\)"):
        Denoiser(network, PROCESS, Eps())(State(x, mask), t)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_latent": 7}, "got 7 channels of a latent, expected an even number"),
        ({"widths": []}, r"got widths \[\], expected at least one positive number"),
        ({"encoder_widths": [16, 0]}, "got encoder_widths"),
        ({"kl_weight": 0.0}, "got kl_weight 0.0, expected a positive number"),
    ],
)
def test_unusable_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PointwiseMLP(**{**SETTINGS, **settings})


def test_it_has_the_published_size():
    """3.88 million parameters (arXiv 2103.01458), but for our embedding of the time."""
    assert sum(p.numel() for p in PointwiseMLP().parameters()) == pytest.approx(3.88e6, rel=0.05)


def test_it_compiles_to_the_same_function():
    network, (x, t, mask, _, latent) = make(), batch()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, mask, None, latent), network(x, t, mask, None, latent))


def test_bf16_is_close():
    network, (x, t, mask, _, latent) = make(dtype=torch.float32), batch(dtype=torch.float32)
    exact, (_, kl) = network(x, t, mask, None, latent), network.encode(x, mask, latent)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, (_, rounded_kl) = network(x, t, mask, None, latent), network.encode(x, mask, latent)
    assert rounded.dtype == rounded_kl.dtype == torch.float32
    assert (rounded - exact).norm() < 0.03 * exact.norm()
    torch.testing.assert_close(rounded_kl, kl, rtol=0.05, atol=0.1)


def flow(n_context: int = 0) -> CouplingFlow:
    torch.manual_seed(0)
    made = CouplingFlow(6, depth=4, width=16, n_context=n_context)
    for coupling in made.couplings:
        torch.nn.init.normal_(coupling.last.weight, std=0.5)
        if coupling.embed_context is not None:
            torch.nn.init.normal_(coupling.embed_context.weight)
    return made.double()


def test_the_prior_is_inverted_and_its_volume_is_that_of_its_jacobian():
    made, generator = flow(2), torch.Generator().manual_seed(1)
    z, context = (torch.randn(5, width, generator=generator, dtype=torch.float64) for width in (6, 2))
    w, log_det = made.to_base(z, context)
    assert (w - z).abs().max() > 0.1
    torch.testing.assert_close(made.from_base(w, context), z)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(
            lambda row, i=i: made.to_base(row[None], context[i : i + 1])[0][0], z[i]
        )
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[i])


def test_a_fresh_prior_is_the_standard_gaussian():
    z = torch.randn(4, 6)
    w, log_det = CouplingFlow(6, depth=3, width=8).to_base(z)
    assert sorted(w[0].tolist()) == sorted(z[0].tolist())
    assert not log_det.any()


def test_the_price_of_a_latent_is_its_kl():
    """Under a fresh prior KL(q || p) is known: sum of (mean^2 + var - log var - 1) / 2."""
    network, (x, _, mask, _, _) = make(shaken=False), batch()
    mean, log_variance = network.encoder(x, mask)
    exact = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)
    count = 2000
    noise = torch.randn(3 * count, 8, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    price = network.encode(x.repeat(count, 1, 1), mask.repeat(count, 1), noise)[1].view(count, 3)
    error = price.std(dim=0) / math.sqrt(count)
    assert ((price.mean(dim=0) - exact).abs() < 4 * error).all()


def test_its_training_prices_latents_and_reaches_everything():
    network = make(3)
    x, _, mask, context, _ = batch(3)
    denoiser, state = Denoiser(network, PROCESS, Eps()), State(x, mask, {"context": context})
    algorithm = pretraining(network, Likelihood())
    assert isinstance(algorithm, LatentPretraining)

    def losses(seed):
        experience = algorithm.collect(denoiser, denoiser, None, state, None, torch.Generator().manual_seed(seed))
        return algorithm.loss(denoiser, denoiser, experience)

    loss, parts = losses(0)
    torch.testing.assert_close(loss.detach(), parts["eps"] + parts["kl"])
    torch.testing.assert_close(losses(0)[0], loss)
    assert losses(1)[0] != loss
    loss.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.kl_weight *= 2
    torch.testing.assert_close(losses(0)[1]["kl"], 2 * parts["kl"])


def test_only_a_network_with_latents_is_trained_with_them():
    network = SetTransformer(width=32, point_width=32, n_latents=2, n_blocks=1)
    assert isinstance(pretraining(network, Likelihood()), Pretraining)
    x, _, mask, _, _ = batch(dtype=torch.float32)
    denoiser = Denoiser(network, PROCESS, Eps())
    with pytest.raises(ValueError, match="got a denoiser with SetTransformer, expected a network with a latent"):
        LatentPretraining().collect(denoiser, denoiser, None, State(x, mask), None, torch.Generator())


def test_muon_leaves_all_but_the_inner_layers_to_adamw():
    network = make(3)
    muon = build_optimisers(network, OptimiserConfig(name="muon"))[0]
    held = {id(p) for group in muon.param_groups for p in group["params"]}
    assert held == {id(layer.linear.weight) for layer in network.layers}


def test_it_can_be_controlled():
    network = make()
    x, t, mask, _, latent = batch()
    base = Denoiser(network, PROCESS, Eps())
    controlled = ControlledDenoiser(base, [Control("size")], rank=2)
    asked = State(x, mask, {"latent": latent, "size": torch.ones(3, dtype=x.dtype)})
    torch.testing.assert_close(controlled(asked, t), base(asked, t), rtol=0, atol=0)
    torch.nn.init.normal_(controlled.branch[0].embed[-1].weight)
    assert not torch.allclose(controlled(asked, t), base(asked, t))


@pytest.fixture
def shapes() -> ShapeSet:
    """Two classes that differ in size, and shapes that differ in height."""
    rng = np.random.default_rng(0)
    index = np.arange(24) % 2
    points = rng.uniform(-1, 1, (24, 64, 3)) * np.array([0.1, 0.4])[index][:, None, None]
    points[..., 2] += rng.uniform(-1, 1, (24, 1))
    return ShapeSet(points, index, ("small", "large"), unit="m")


CONFIG = ModelConfig(
    network={"name": "pointwise", **SETTINGS},
    parameterisation={"name": "eps"},
    schedule={"name": "linear_beta", "timesteps": 20, "start": 0.001, "end": 0.3},
    sampler={"steps": 20, "solver": "ancestral"},
)


@pytest.fixture
def model(shapes) -> ShapeModel:
    made = new_model(shapes, CONFIG, name="toy", seed=0, facts={})
    shake(made.denoiser.network)
    made.denoiser.eval().requires_grad_(False)
    return made


def test_a_sample_depends_on_its_index_alone_latent_included(model):
    whole = model.sample(5, points=20, seed=1, batch_size=2)
    part = model.sample(2, points=20, seed=1, start=3)
    np.testing.assert_allclose(part.points, whole.points[3:], atol=1e-5)
    rows, again = model.condition(np.array([0, 1, 1]), seed=1), model.condition(np.array([1, 1]), seed=1, start=1)
    torch.testing.assert_close(again["latent"], rows["latent"][1:])
    assert not torch.allclose(rows["latent"], model.condition(np.array([0, 1, 1]), seed=2)["latent"])
    # The same noise under another class is another latent: the prior knows the class.
    assert not torch.allclose(rows["latent"][:1], model.condition(np.array([1]), seed=1)["latent"])


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = ShapeModel.load(tmp_path / "model")
    np.testing.assert_array_equal(again.sample(3, points=9).points, model.sample(3, points=9).points)


def learn(shapes, directory, steps, config=CONFIG, resume=False):
    made = new_model(shapes, config, name="toy", seed=0, facts={})
    train(
        made, shapes, directory,
        batch_config=ShapeBatchConfig(batch_size=16, points=32), resume=resume,
        optimiser=OptimiserConfig(learning_rate=0.01, warmup_steps=5),
        fit_config=FitConfig(max_steps=steps, precision="float32", device="cpu", ema_decay=0.99),
    )  # fmt: skip
    return ShapeModel.load(directory)


def test_training_resumes(shapes, tmp_path):
    learn(shapes, tmp_path, 4)
    assert learn(shapes, tmp_path, 7, resume=True).description["training"]["samples_seen"] == 112


@pytest.mark.slow
def test_it_learns_sizes_of_classes_and_that_a_shape_is_one_thing(shapes, tmp_path):
    config = replace(CONFIG, network={**CONFIG.network, "widths": (32, 64, 32)})
    made = learn(shapes, tmp_path, 600, config).sample(64, points=128, seed=3)
    spread, true = (points.std(axis=1).mean(axis=1) for points in (made.points, shapes.points))
    for index in (0, 1):
        wanted = true[shapes.class_index == index].mean()
        assert spread[made.class_index == index].mean() == pytest.approx(wanted, rel=0.35)
    # Heights differ from shape to shape as in the data: that is the latent, for points hear of nothing else.
    heights, wanted = (points[..., 2].mean(axis=1).std() for points in (made.points, shapes.points))
    assert heights == pytest.approx(wanted, rel=0.35)
