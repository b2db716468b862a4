"""Guidances around a denoiser, against worlds in which the guided denoiser is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from contracts.oracle import GaussianLaw
from contracts.worlds import SCHEDULE, GaussianWorld, GroupNoise, MixtureWorld, World
from torch import Tensor, nn

from common.diffusion import (
    Centered,
    Cosine,
    Denoiser,
    Euclidean,
    Process,
    SampleNoise,
    Sampler,
    State,
    V,
    sample_seeds,
    size_mask,
)
from common.diffusion.control import Control, ControlledDenoiser
from common.errors import InputError
from common.guidance import Classifier, ClassifierFree, GuidedSampler, Reconstruction, TrainingFree, null_of
from common.guidance.tilt import Tilt
from common.rewards import FunctionReward, RewardResult

EUCLIDEAN = GaussianWorld(Euclidean())
CENTRED = GaussianWorld(Centered(3), sizes=(3, 2), n_channels=4)
MIXTURE = MixtureWorld(Euclidean())


def noisy(world: World, count: int = 40, seed: int = 0) -> tuple[State, Tensor]:
    """States of the forward process at all times, the ends among them."""
    generator = torch.Generator().manual_seed(seed)
    data = world.data(count, generator)
    t = torch.linspace(0, 1, count, dtype=torch.float64)
    noise = torch.randn(data.x.shape, generator=generator, dtype=torch.float64)
    return data.replace(x=world.process.corrupt(data.x, data.mask, t, noise)), t


def chain(world: World, guidance, count: int = 6000, seed: int = 0, **options) -> State:
    generator = torch.Generator().manual_seed(seed)
    sampler = GuidedSampler(world.sampler, [guidance], **options)
    return sampler.sample(world.law, world.batch(count).mask, world.n_channels, GroupNoise(generator, count))


def log_weight(world: World):
    return lambda state, t: world.soft_value(state, t) / world.tau


def tilted_denoiser(world: GaussianWorld, state: State, t: Tensor) -> Tensor:
    """The denoiser of the tilted data, size by size."""
    expected = torch.zeros_like(state.x)
    for size in world.sizes:
        rows = (state.sizes == size).nonzero()[:, 0]
        moments = world.tilted(state.mask[rows[0]])
        law = GaussianLaw(world.process, moments.mean, math.sqrt(moments.variance))
        expected[rows] = law(state.index(rows), t[rows])
    return expected


@pytest.mark.parametrize("world", [EUCLIDEAN, CENTRED, GaussianWorld(Euclidean(), tau=0.3)], ids=str)
def test_an_exact_classifier_makes_the_denoiser_of_the_tilted_data(world):
    state, t = noisy(world)
    guided = Classifier(world.process, log_weight(world))(world.law)
    torch.testing.assert_close(guided(state, t), tilted_denoiser(world, state, t), atol=1e-9, rtol=1e-9)


def test_an_exact_classifier_of_a_mixture():
    state, t = noisy(MIXTURE)
    guided = Classifier(MIXTURE.process, log_weight(MIXTURE))(MIXTURE.law)
    torch.testing.assert_close(guided(state, t), MIXTURE.tilted_law(state, t), atol=1e-8, rtol=1e-8)


def test_a_chain_under_an_exact_classifier_has_the_law_of_the_tilted_denoiser():
    for world in (EUCLIDEAN, CENTRED):
        samples = chain(world, Classifier(world.process, log_weight(world)))
        assert world.distance(samples, world.projected_chain) < 0.002
    samples = chain(MIXTURE, Classifier(MIXTURE.process, log_weight(MIXTURE)))
    target = MIXTURE.chain_draws(MIXTURE.tilted_law, 20_000, torch.Generator().manual_seed(1))
    assert MIXTURE.distance(samples, target) < 0.04


@pytest.mark.parametrize("world", [EUCLIDEAN, CENTRED], ids=str)
def test_reconstruction_is_the_tilt_without_the_spread(world):
    """The documented bias, in closed form: a width tau spread^2 instead of tau spread^2 + Var(x_0 | x_t)."""
    state, t = noisy(world)
    base = world.law(state, t)
    gap = world.space.project(world.reward.target - base, state.mask)
    variance = world.posterior_variance(t)[:, None, None]
    expected = base + 0.7 * variance / (world.tau * world.spread**2) * gap
    for guidance in (
        Reconstruction(world.process, world.reward, world.tau, scale=0.7),
        TrainingFree(world.process, world.reward, world.tau, scale=0.7, data_std=world.std),
    ):
        torch.testing.assert_close(guidance(world.law)(state, t), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", [Reconstruction, TrainingFree])
def test_draws_around_the_estimate_take_the_bias_away(kind):
    state, t = noisy(EUCLIDEAN)
    exact = tilted_denoiser(EUCLIDEAN, state, t)
    errors = []
    for draws in (0, 16, 1024):
        guidance = kind(EUCLIDEAN.process, EUCLIDEAN.reward, EUCLIDEAN.tau, draws=draws, data_std=EUCLIDEAN.std)
        with torch.no_grad():
            errors.append(float((guidance(EUCLIDEAN.law)(state, t) - exact).square().mean().sqrt()))
    assert errors[0] > 1.5 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_the_bias_in_the_samples_law_is_the_documented_one():
    """The same chain with and without draws: several times the distance without."""
    plain, averaged = (
        EUCLIDEAN.distance(
            chain(EUCLIDEAN, Reconstruction(EUCLIDEAN.process, EUCLIDEAN.reward, draws=draws, data_std=EUCLIDEAN.std)),
            EUCLIDEAN.projected_chain,
        )
        for draws in (0, 32)
    )
    assert averaged < 0.004
    assert 2 * averaged < plain < 0.1


def test_many_small_steps_do_not_overshoot_a_narrow_reward():
    """One step to a target whose width is small against the spread jumps over it; many go there."""
    world = GaussianWorld(Euclidean(), spread=0.3)
    state, t = noisy(world)
    state, t = state.index(t > 0.8), t[t > 0.8]

    def miss(iterations: int) -> float:
        guidance = TrainingFree(world.process, world.reward, iterations=iterations, data_std=world.std)
        gap = guidance(world.law)(state, t) - world.reward.target
        return float(world.space.project(gap, state.mask).square().mean().sqrt())

    assert miss(20) < 0.1 < 1.0 < miss(1)


def test_scale_0_is_the_denoiser_itself():
    world, law = EUCLIDEAN, EUCLIDEAN.law
    guidances = [
        Classifier(world.process, log_weight(world), scale=0.0),
        Reconstruction(world.process, world.reward, scale=0.0),
        TrainingFree(world.process, world.reward, scale=0.0, recurrence=3),
    ]
    for guidance in guidances:
        assert guidance(law) is law
    generator = torch.Generator().manual_seed(0)
    plain = world.sampler.sample(world.law, world.batch(5).mask, 2, GroupNoise(generator, 5))
    for guidance in guidances:
        assert torch.equal(chain(world, guidance, 5).x, plain.x)


def exact_weight(law: GaussianLaw, target: Tensor, width: float):
    """log E[exp(-|x_0 - target|^2 / (2 width)) | x_t] of a Gaussian law, but for a function of t."""

    def weight(state: State, t: Tensor) -> Tensor:
        gap = law.process.space.project(law(state, t) - target, state.mask).square().sum(dim=(1, 2))
        return -gap / (2 * (width + posterior_variance(law, t)))

    return weight


def posterior_variance(law: GaussianLaw, t: Tensor) -> Tensor:
    alpha, sigma = SCHEDULE.alpha_sigma(t)
    return (law.std * sigma) ** 2 / ((alpha * law.std) ** 2 + sigma**2)


def test_nested_guidances_multiply_their_tilts():
    """Each within what is around it: two exact classifiers, and reconstruction through a classifier's gradient."""
    world, width = EUCLIDEAN, EUCLIDEAN.tau * EUCLIDEAN.spread**2
    mask = world.batch(1).mask[0]
    once, twice = world.tilted(mask), world.tilted(mask, world.tilted(mask))
    law, law_once, law_twice = (
        GaussianLaw(world.process, mean, std)
        for mean, std in ((world.law.mean, world.std), *((m.mean, math.sqrt(m.variance)) for m in (once, twice)))
    )
    state, t = noisy(world)
    inner = Classifier(world.process, exact_weight(law, world.reward.target, width))(law)
    outer = Classifier(world.process, exact_weight(law_once, world.reward.target, width))
    torch.testing.assert_close(outer(inner)(state, t), law_twice(state, t), atol=1e-9, rtol=1e-9)

    through = Reconstruction(world.process, world.reward, world.tau)(inner)(state, t)
    gap = world.space.project(world.reward.target - law_once(state, t), state.mask)
    expected = law_once(state, t) + posterior_variance(law_once, t)[:, None, None] / width * gap
    torch.testing.assert_close(through, expected, atol=1e-8, rtol=1e-8)


def test_classifiers_of_noisy_states_add_their_gradients():
    world = EUCLIDEAN
    state, t = noisy(world)
    weights = [exact_weight(world.law, world.reward.target + shift, 0.5) for shift in (0.0, 1.0)]
    base = world.law(state, t)
    alone = [Classifier(world.process, weight)(world.law)(state, t) - base for weight in weights]
    nested = Classifier(world.process, weights[1])(Classifier(world.process, weights[0])(world.law))
    torch.testing.assert_close(nested(state, t) - base, alone[0] + alone[1])


def test_recurrence_keeps_the_law_of_an_exact_denoiser():
    """Down and up again: neither the noise put back nor the step down may be off."""
    world = GaussianWorld(Centered(3), sizes=(3, 2), n_channels=4, steps=20)
    idle = TrainingFree(world.process, Hopeless(), recurrence=3)
    assert world.distance(chain(world, idle, 2000), world.reference_chain) < 0.004
    # The guidance is almost exact here, and the levels between the first and the last are gone through twice.
    guidance = TrainingFree(world.process, world.reward, recurrence=2, draws=16, data_std=world.std)
    assert world.distance(chain(world, guidance, 500), world.tilted) < 0.04
    counted = GuidedSampler(world.sampler, [idle])
    counted.sample(world.law, world.batch(7).mask, 4, GroupNoise(torch.Generator().manual_seed(0), 7))
    assert counted.cost.evaluations == 7 * (20 + 2 * 18)


class Network(nn.Module):
    """A small network with a context and a place for controls."""

    control_site = "embed"

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 16))
        self.context = nn.Linear(2, 16, bias=False)
        self.point, self.out = nn.Linear(3, 16), nn.Linear(16, 3)

    def forward(self, x, t, mask, context):
        told = self.embed(t[:, None]) + (0 if context is None else self.context(context))
        return self.out(torch.tanh(self.point(x) + told[:, None])) * mask.unsqueeze(-1)


def models() -> tuple[Denoiser, ControlledDenoiser, State, Tensor]:
    torch.manual_seed(0)
    base = Denoiser(Network(), Process(Cosine(), Euclidean()), V()).requires_grad_(False)
    controlled = ControlledDenoiser(base, (Control("gap", mean=5.0, std=2.0), Control("family", classes=3)))
    for parameter in controlled.branch.parameters():
        nn.init.normal_(parameter, std=0.3)
    mask = size_mask(torch.tensor([3, 2, 4]), 4)
    x = torch.randn(3, 4, 3) * mask.unsqueeze(-1)
    return base, controlled.requires_grad_(False), State(x, mask), torch.tensor([0.2, 0.5, 0.9])


def test_classifier_free_guidance_of_a_context():
    base, _, state, t = models()
    asked = state.replace(condition={"context": torch.eye(2)[[0, 1, 1]]})
    conditional, without = base(asked, t), base(state, t)
    assert (conditional - without).abs().max() > 0.01
    for scale, expected in ((0.0, without), (1.0, conditional)):
        assert torch.equal(ClassifierFree(null_of(base), scale)(base)(asked, t), expected)
    guided = ClassifierFree(null_of(base), 3.0)(base)(asked, t)
    torch.testing.assert_close(guided, without + 3 * (conditional - without))
    with pytest.raises(InputError, match="a condition that is asked for"):
        ClassifierFree(null_of(base), 3.0)(base)(state, t)


def test_classifier_free_guidance_of_controls():
    base, controlled, state, t = models()
    asked = state.replace(condition={"gap": torch.tensor([4.0, 7.0, 5.0]), "family": torch.tensor([0, 2, -1])})
    guided = ClassifierFree(null_of(controlled), 2.5)(controlled)(asked, t)
    torch.testing.assert_close(guided, controlled.with_strength(2.5)(asked, t))
    assert torch.equal(ClassifierFree(null_of(controlled), 0.0)(controlled)(asked, t), base(state, t))
    # One control at a time: more of the gap, the family as it is.
    more = ClassifierFree(null_of(controlled, "gap"), 2.0)(controlled)(asked, t)
    rest = controlled(state.replace(condition={"family": asked.condition["family"]}), t)
    torch.testing.assert_close(more, rest + 2 * (controlled(asked, t) - rest))
    with pytest.raises(InputError, match="expected some of gap, family"):
        null_of(controlled, "gab")


def test_guidance_by_a_conditional_model_is_the_posterior_and_beyond():
    """In a Gaussian world the conditional denoiser is known, and so is what scale 2 makes of it."""
    world = EUCLIDEAN

    def conditional(state: State, t: Tensor) -> Tensor:
        return tilted_denoiser(world, state, t) if "context" in state.condition else world.law(state, t)

    def null(state: State) -> State:
        return state.replace(condition={})

    state, t = noisy(world)
    state = state.replace(condition={"context": torch.ones(len(state), 1)})
    guided = ClassifierFree(null, 2.0)(conditional)(state, t)
    # The gradient of log p(y | x_t), twice: what a classifier of scale 2 does.
    classified = Classifier(world.process, log_weight(world), scale=2.0)(world.law)(state, t)
    torch.testing.assert_close(guided, classified, atol=1e-9, rtol=1e-9)


def test_a_guided_denoiser_is_a_function_of_the_sample_alone():
    """Neither its place in a batch, nor padding, nor other samples change the draws around an estimate."""
    world = CENTRED
    state, t = noisy(world, count=6)
    guided = Reconstruction(world.process, world.reward, draws=4)(world.law)
    with torch.no_grad():
        together = guided(state, t)
        assert torch.equal(guided(state, t), together)
        alone = guided(state.index(slice(3, 4)), t[3:4])
    torch.testing.assert_close(alone[0], together[3])
    assert not together[~state.mask].any()
    assert float(together[..., :3].sum(dim=1).abs().max()) < 1e-9


def test_draws_do_not_depend_on_padding():
    norm = FunctionReward(
        lambda state: -(state.x**4).sum(dim=(1, 2)),
        True,
        State(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)),
    )
    tilt = Tilt(Process(SCHEDULE, Centered(3)), norm, draws=6)
    x = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    narrow = tilt(State(x, torch.ones(2, 4, dtype=torch.bool)), t)
    wider = torch.cat([x, torch.zeros(2, 3, 4, dtype=x.dtype)], dim=1)
    torch.testing.assert_close(tilt(State(wider, size_mask(torch.tensor([4, 4]), 7)), t), narrow)


@dataclass(frozen=True)
class Failing:
    """A reward that cannot score samples whose first coordinate is negative."""

    inner: object
    differentiable: bool = True

    def __call__(self, state: State) -> RewardResult:
        result = self.inner(state)  # type: ignore[operator]
        valid = state.x[:, 0, 0] >= 0
        return RewardResult(torch.where(valid, result.values, torch.nan), valid)


@pytest.mark.parametrize("draws", [0, 8])
@pytest.mark.parametrize("kind", [Reconstruction, TrainingFree])
def test_what_cannot_be_scored_is_not_pushed(kind, draws):
    world = EUCLIDEAN
    state, t = noisy(world)
    base = world.law(state, t)
    guided = kind(world.process, Failing(world.reward), draws=draws)(world.law)(state, t)
    assert torch.isfinite(guided).all()
    moved = (guided - base).abs().amax(dim=(1, 2)) > 0
    scored = base[:, 0, 0] >= 0
    assert moved[scored].all()
    if not draws:
        assert not moved[~scored].any()
    hopeless = kind(world.process, Hopeless(), draws=draws)
    torch.testing.assert_close(hopeless(world.law)(state, t), base)


class Hopeless:
    """A reward that scores nothing."""

    differentiable = True

    def __call__(self, state: State) -> RewardResult:
        nothing = torch.full((len(state),), torch.nan, dtype=state.x.dtype)
        return RewardResult(nothing, torch.zeros(len(state), dtype=torch.bool))


def test_a_shift_can_be_bounded():
    world = CENTRED
    state, t = noisy(world)
    base = world.law(state, t)
    guided = Reconstruction(world.process, world.reward, scale=100.0, max_shift=0.1)(world.law)(state, t)
    dof = world.space.dof(state.mask, world.n_channels)
    size = ((guided - base).square().sum(dim=(1, 2)) / dof).sqrt()
    assert float(size.max()) == pytest.approx(0.1)
    free = Reconstruction(world.process, world.reward)(world.law)(state, t) - base
    loose = Reconstruction(world.process, world.reward, max_shift=1e3)(world.law)(state, t) - base
    torch.testing.assert_close(loose, free)


def test_gradients_are_demanded_where_they_are_needed():
    world = EUCLIDEAN
    blind = FunctionReward(lambda state: state.x.sum(dim=(1, 2)))
    for kind in (Reconstruction, TrainingFree):
        with pytest.raises(InputError, match="take best-of-n, value-weighted or smc"):
            kind(world.process, blind)
    state, t = noisy(world)
    detached = Classifier(world.process, lambda state, t: state.x.detach().sum(dim=(1, 2)))(world.law)
    with pytest.raises(InputError, match="autograd does not reach the state"):
        detached(state, t)


@pytest.mark.parametrize(
    "options",
    [{"scale": -1.0}, {"scale": math.inf}, {"tau": 0.0}, {"draws": 3}, {"data_std": 0.0}, {"max_shift": 0.0}],
)
def test_unusable_settings_are_named(options):
    for kind in (Reconstruction, TrainingFree):
        with pytest.raises(InputError, match="expected"):
            kind(EUCLIDEAN.process, EUCLIDEAN.reward, **options)
    with pytest.raises(InputError, match="at least 1"):
        TrainingFree(EUCLIDEAN.process, EUCLIDEAN.reward, iterations=0)


def test_guidance_goes_through_a_real_network_without_touching_its_weights():
    base, _, state, _ = models()
    reward = FunctionReward(lambda state: -state.x.square().sum(dim=(1, 2)), True, state)
    sampler = Sampler(base.process, steps=6)
    plain = sampler.sample(base, state.mask, 3, SampleNoise(sample_seeds(0, 0, 3)))
    for guidance in (
        Reconstruction(base.process, reward, max_shift=0.1),
        TrainingFree(base.process, reward, scale=0.5),
    ):
        found = GuidedSampler(sampler, [guidance]).sample(base, state.mask, 3, SampleNoise(sample_seeds(0, 0, 3)))
        assert not found.x.requires_grad
        assert (found.x - plain.x).abs().max() > 0.01
        assert found.x.isfinite().all()
    # The last: it needs nothing of the network, which here knows nothing.
    assert reward(found).values.mean() > reward(plain).values.mean()
    assert all(parameter.grad is None for parameter in base.parameters())
