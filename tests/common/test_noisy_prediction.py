"""Predictors of noisy states: what they learn is known in closed form, and guides to the posterior."""

from __future__ import annotations

import math

import pytest
import torch
from contracts.worlds import GaussianWorld, MixtureWorld
from torch import Tensor, nn

from common.algorithms.noisy_prediction import NoisyPrediction
from common.diffusion import Denoiser, Euclidean, SampleNoise, State, sample_seeds
from common.diffusion.control import Control, ControlledDenoiser, without_adapters
from common.diffusion.denoiser import X0
from common.errors import InputError
from common.guidance import Classifier, GuidedSampler, NoisyLikelihood, NoisyPredictor
from common.rewards import FunctionReward

NOISE = 0.4
WORLD = GaussianWorld(Euclidean())
MIXTURE = MixtureWorld(Euclidean())
NO_REWARD = FunctionReward(lambda state: state.x.sum(dim=(1, 2)))


class Points(nn.Module):
    """A small network of a denoiser, that knows where it is in time and in space."""

    readout_site = "out"

    def __init__(self, n_channels: int, width: int = 48) -> None:
        super().__init__()
        self.known = nn.Sequential(nn.Linear(n_channels + 8, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, n_channels)
        self.behind = nn.Linear(n_channels, n_channels)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        time = torch.cat([(t[:, None] * k).sin() for k in range(1, 9)], dim=-1)
        known = self.known(torch.cat([x, time[:, None].expand(-1, x.shape[1], -1)], dim=-1))
        return self.behind(self.out(known * mask[..., None]))


class Packed(Points):
    """The same, but it hands over real points only, without padding, as networks of molecules do on the CPU."""

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        time = torch.cat([(t[:, None] * k).sin() for k in range(1, 9)], dim=-1)
        known = self.known(torch.cat([x, time[:, None].expand(-1, x.shape[1], -1)], dim=-1)[mask])
        return self.behind(x.new_zeros(x.shape).index_put((mask,), self.out(known)))


def labelled(count: int, generator: torch.Generator) -> State:
    """Of the Gaussian world: y = first coordinate + noise; every fifth label is missing."""
    data = WORLD.data(count, generator)
    y = data.x[:, 0, 0] + NOISE * torch.randn(count, generator=generator)
    y = torch.where(torch.arange(count) % 5 == 0, torch.nan, y)
    return State(data.x.float(), data.mask, {"y": y.float()})


def train(control: Control, world, data, steps: int = 300) -> NoisyPredictor:
    torch.manual_seed(0)
    predictor = NoisyPredictor(Points(world.n_channels), control, 1.0)
    algorithm = NoisyPrediction(control, world.process)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / steps)
    for _ in range(steps):
        batch = data(192, generator)
        experience = algorithm.collect(predictor, None, NO_REWARD, batch, SampleNoise(sample_seeds(0, 0, 1)), generator)
        loss, _ = algorithm.loss(predictor, None, experience)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return predictor.requires_grad_(False)


def test_a_trained_predictor_knows_the_law_and_guides_to_the_posterior():
    control = Control("y", mean=-0.2, std=0.9)
    predictor = train(control, WORLD, labelled)
    generator = torch.Generator().manual_seed(1)
    batch = WORLD.data(400, generator)
    t = torch.rand(400, generator=generator)
    state = batch.replace(x=WORLD.process.corrupt(batch.x, batch.mask, t, torch.randn(batch.x.shape)).float())
    mean, std = predictor(state, t)
    assert (mean - WORLD.law(state, t)[:, 0, 0]).square().mean().sqrt() < 0.08
    assert (std / (WORLD.posterior_variance(t) + NOISE**2).sqrt() - 1).abs().mean() < 0.08

    def exact(state: State, t: Tensor) -> Tensor:
        gap = state.condition["y"] - WORLD.law(state, t)[:, 0, 0]
        return -gap.square() / (2 * (WORLD.posterior_variance(t) + NOISE**2))

    count, wanted = 600, 0.7
    asked = {"y": torch.full((count,), wanted)}
    learnt, known = (
        GuidedSampler(WORLD.sampler, [Classifier(WORLD.process, weight)])
        .sample(WORLD.law, WORLD.batch(count).mask, 2, SampleNoise(sample_seeds(0, 0, count)), asked)
        .x[:, 0]
        for weight in (NoisyLikelihood(control, predictor), exact)
    )
    # The same noise, so that only the guidances differ.
    assert (learnt.mean(dim=0) - known.mean(dim=0)).abs().max() < 0.06
    assert (learnt.std(dim=0) / known.std(dim=0) - 1).abs().max() < 0.1
    # Near the posterior in the channel that y speaks of, and the chain's own law in the other one.
    chain = WORLD.reference_chain(batch.mask[0])
    gain = chain.variance / (chain.variance + NOISE**2)
    posterior = float(chain.mean[0, 0]) * (1 - gain) + gain * wanted
    assert float(learnt[:, 0].mean()) == pytest.approx(posterior, abs=0.15)
    assert 0.5 < float(learnt[:, 0].var()) / (chain.variance * (1 - gain)) < 1.2
    assert float(learnt[:, 1].mean()) == pytest.approx(float(chain.mean[0, 1]), abs=0.12)
    assert float(learnt[:, 1].var()) == pytest.approx(chain.variance, rel=0.2)


def test_a_trained_classifier_guides_to_its_class():
    def data(count: int, generator: torch.Generator) -> State:
        states = MIXTURE.data(count, generator)
        return State(states.x.float(), states.mask, {"side": (states.x[:, 0, 0] > 0).long()})

    control = Control("side", classes=2)
    predictor = train(control, MIXTURE, data, steps=200)
    sampler = GuidedSampler(MIXTURE.sampler, [Classifier(MIXTURE.process, NoisyLikelihood(control, predictor))])
    count = 400
    asked = {"side": torch.tensor([0, 1]).repeat_interleave(count // 2)}
    noise = SampleNoise(sample_seeds(0, 0, count))
    x = sampler.sample(MIXTURE.law, MIXTURE.batch(count).mask, 1, noise, asked).x[:, 0, 0]
    right = x > 0
    assert float(right[: count // 2].double().mean()) < 0.05
    assert float(right[count // 2 :].double().mean()) > 0.95


def test_missing_labels_weigh_nothing():
    control = Control("y")
    algorithm = NoisyPrediction(control, WORLD.process)
    torch.manual_seed(0)
    predictor = NoisyPredictor(Points(WORLD.n_channels), control, 1.0)
    batch = labelled(50, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    experience = algorithm.collect(predictor, None, NO_REWARD, batch, SampleNoise(sample_seeds(0, 0, 1)), generator)
    loss, metrics = algorithm.loss(predictor, None, experience)
    known = torch.arange(50) % 5 != 0
    alone, _ = algorithm.loss(predictor, None, experience.index(known.nonzero()[:, 0]))
    torch.testing.assert_close(loss, alone)
    assert float(metrics["labelled"]) == pytest.approx(0.8)
    none, _ = algorithm.loss(predictor, None, experience.index((~known).nonzero()[:, 0]))
    assert float(none) == 0
    with pytest.raises(InputError, match="no labels 'y'"):
        algorithm.collect(predictor, None, NO_REWARD, WORLD.batch(4), SampleNoise([0]), generator)


def test_the_likelihood_of_a_control():
    state = State(torch.zeros(3, 1, 3), torch.ones(3, 1, dtype=torch.bool), {"y": torch.tensor([1.0, 2.0, torch.nan])})
    mean, std = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 0.5, 1.0])
    found = Control("y").log_prob(state, (mean, std), scale=2.0)
    constant = 0.5 * math.log(2 * math.pi)
    expected = [-0.125 - math.log(2) - constant, -constant, 0.0]
    torch.testing.assert_close(found, torch.tensor(expected))

    classes = Control("kind", classes=3)
    state = state.replace(condition={"kind": torch.tensor([2, -1, 0])})
    logits = torch.tensor([[0.0, 0.0, 2.0]]).expand(3, -1)
    total = math.log(2 + math.e)
    torch.testing.assert_close(classes.log_prob(state, logits, 2.0), torch.tensor([1 - total, 0.0, -total]))
    with pytest.raises(InputError, match="is a class, but its predictor gives mean and std"):
        classes.log_prob(state, (mean, std))
    with pytest.raises(InputError, match="is continuous, but its predictor gives logits"):
        Control("y").log_prob(state, logits)


@pytest.mark.parametrize("network", [Points, Packed])
def test_a_predictor_does_not_see_padding(network):
    torch.manual_seed(0)
    predictor = NoisyPredictor(network(2), Control("y"), 1.0)
    batch = WORLD.data(4, torch.Generator().manual_seed(0))
    state, t = State(batch.x.float(), batch.mask), torch.tensor([0.1, 0.4, 0.6, 0.9])
    wider = State(nn.functional.pad(state.x, (0, 0, 0, 3)), nn.functional.pad(state.mask, (0, 3)))
    for found, expected in zip(predictor(wider, t), predictor(state, t), strict=True):
        torch.testing.assert_close(found, expected)
    later = predictor(state, t + 0.05)
    assert not torch.allclose(later[0], predictor(state, t)[0])


def test_padded_and_packed_networks_are_read_alike():
    torch.manual_seed(0)
    padded, packed = (NoisyPredictor(network(2), Control("y"), 1.0) for network in (Points, Packed))
    packed.load_state_dict(padded.state_dict())
    mask = torch.tensor([[True, True, False], [True, True, True]])
    state, t = State(torch.randn(2, 3, 2) * mask[..., None], mask), torch.tensor([0.2, 0.7])
    for found, expected in zip(packed(state, t), padded(state, t), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_lies_behind_the_readout_is_frozen():
    predictor = NoisyPredictor(Points(2), Control("y"), 1.0)
    predictor.freeze_unused(2)
    frozen = {name for name, weight in predictor.named_parameters() if not weight.requires_grad}
    assert frozen == {f"network.{layer}.{part}" for layer in ("out", "behind") for part in ("weight", "bias")}


def test_it_begins_from_the_base_before_its_controls():
    base = Denoiser(Points(2, width=16), WORLD.process, X0())
    controlled = ControlledDenoiser(base, [], rank=4)
    for weight in controlled.parameters():
        nn.init.normal_(weight) if weight.requires_grad else None
    plain = without_adapters(controlled)
    expected = base.state_dict()
    assert plain.state_dict().keys() == expected.keys()
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, expected[name])
    assert without_adapters(base) is not base


def test_a_network_of_single_points_is_refused():
    with pytest.raises(InputError, match="knows each point alone"):
        NoisyPredictor(nn.Linear(2, 2), Control("y"), 1.0)
