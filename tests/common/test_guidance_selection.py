"""Selectors among particles, against what is known of them in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from contracts.worlds import GaussianWorld, GroupNoise, MixtureWorld, World
from scipy import stats

from common.cost import CountedReward
from common.diffusion import Cosine, Euclidean, Process, SampleNoise, Sampler, State, sample_seeds, size_mask
from common.diffusion.generation import generate_states
from common.errors import InputError
from common.guidance import BestOfN, GuidedSampler, Selected, Smc, ValueWeighted
from common.guidance.selection import effective_number, grouped, log_mean, one_of, systematic
from common.rewards import FunctionReward, RewardResult

EUCLIDEAN = GaussianWorld(Euclidean())
MIXTURE = MixtureWorld(Euclidean(), steps=16)
# A stronger tilt: about 1.3 nats away.
NARROW = GaussianWorld(Euclidean(), spread=0.5)


def selected(world: World, selector, groups: int, seed: int = 0, sampler: Sampler | None = None) -> Selected:
    guided = GuidedSampler(sampler or world.sampler, selector=selector)
    noise = GroupNoise(torch.Generator().manual_seed(seed), groups)
    guided.sample(world.law, world.batch(groups).mask, world.n_channels, noise)
    assert guided.last is not None
    return guided.last


def test_the_best_of_n_has_the_law_of_the_largest_order_statistic():
    """F(r) of the best of n is Beta(n, 1); F is that of a noncentral chi-square law here."""
    world, n = EUCLIDEAN, 5
    mask = world.batch(1).mask[0]
    chain = world.reference_chain(mask)
    gap = world.space.project((chain.mean - world.reward.target)[None], mask[None]).square().sum()
    rewards = selected(world, BestOfN(world.reward, n), 1500).values.numpy()
    # -2 spread^2 r / variance is chi-square with 2 degrees of freedom, and larger for a worse sample.
    distance = -2 * world.spread**2 * rewards / chain.variance
    levels = stats.ncx2.sf(distance, 2, float(gap) / chain.variance)
    assert stats.kstest(levels, stats.beta(n, 1).cdf).pvalue > 0.01
    # The divergence from the base is the one that any reward gives.
    divergence = np.log(n * levels ** (n - 1))
    expected = math.log(n) - (n - 1) / n
    assert divergence.mean() == pytest.approx(expected, abs=4 * divergence.std() / math.sqrt(len(levels)))


def unbiased(world: GaussianWorld, selector, groups: int = 3000, seed: int = 1) -> float:
    """How many standard errors the mean of Z is off."""
    found = selected(world, selector, groups, seed)
    estimates = found.log_normaliser.exp()
    exact = math.exp(world.log_normaliser(world.batch(1).mask[0]))
    return float((estimates.mean() - exact) / (estimates.std() / math.sqrt(groups)))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_smc_estimates_the_normaliser_without_bias(threshold):
    assert abs(unbiased(NARROW, Smc(NARROW.reward, particles=4, threshold=threshold))) < 3.5


def test_smc_estimates_the_normaliser_without_bias_whatever_it_believes_on_the_way():
    nonsense = Smc(
        NARROW.reward, particles=4, threshold=1.0, value=lambda state, t: 3 * torch.sin(7 * state.x[:, 0, 0])
    )
    assert abs(unbiased(NARROW, nonsense)) < 3.5


def test_smc_estimates_the_normaliser_of_another_scale_and_temperature():
    world = replace(NARROW, tau=2.0)
    exact = math.exp(world.log_normaliser(world.batch(1).mask[0]))
    for selector in (
        Smc(world.reward, tau=2.0, particles=4),
        Smc(world.reward, tau=1.0, scale=0.5, particles=4),
        Smc(world.reward, tau=2.0, particles=4, every=3, start=0.5),
    ):
        estimates = selected(world, selector, 2000).log_normaliser.exp()
        assert float(estimates.mean()) == pytest.approx(exact, abs=3.5 * float(estimates.std()) / math.sqrt(2000))


def test_resampling_lowers_the_variance_of_the_normaliser():
    """The more so the more there is to find: eight degrees of freedom and a narrow reward."""
    world = GaussianWorld(Euclidean(), sizes=(4,), spread=0.5)
    weighted, steered = (
        selected(world, Smc(world.reward, particles=16, threshold=threshold), 300) for threshold in (0.0, 0.5)
    )
    assert steered.log_normaliser.std() < 0.85 * weighted.log_normaliser.std()
    assert steered.effective.mean() > 1.5 * weighted.effective.mean()


def test_smc_reaches_the_tilted_law_and_nearer_with_more_particles():
    distances = [
        NARROW.distance(selected(NARROW, Smc(NARROW.reward, particles=count), 1500).state, NARROW.tilted_chain)
        for count in (1, 4, 16)
    ]
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    assert distances[2] < 0.02


def test_value_weighted_sampling_reaches_the_tilted_law_with_the_exact_value():
    distances = [
        NARROW.distance(
            selected(NARROW, ValueWeighted(NARROW.reward, particles=count, value=NARROW.soft_value), 1500).state,
            NARROW.tilted_chain,
        )
        for count in (1, 4, 16)
    ]
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    # Of order 1 / K.
    assert distances[2] < 0.05


def test_value_weighted_sampling_has_the_bias_of_its_value():
    """r(x0_hat) ignores the spread of x_0: it pulls harder than the exact value, and narrows more."""
    world = GaussianWorld(Euclidean(), spread=0.5)
    mask = world.batch(1).mask[0]
    exact, estimate = (
        world.found(selected(world, ValueWeighted(world.reward, particles=16, value=value), 1200).state)[1][1]
        for value in (world.soft_value, None)
    )
    target = world.space.project(world.reward.target[None], mask[None])[0]
    assert (estimate.mean - target).norm() < (exact.mean - target).norm() - 0.05
    assert estimate.variance < 0.85 * exact.variance


@pytest.mark.parametrize("kind", [Smc, ValueWeighted])
def test_selectors_change_the_weights_of_a_mixture(kind):
    target = MIXTURE.tilted_chain_draws(5000, torch.Generator().manual_seed(1))
    start = MIXTURE.distance(MIXTURE.chain_draws(MIXTURE.law, 2000, torch.Generator().manual_seed(2)), target)
    found = selected(MIXTURE, kind(MIXTURE.reward, particles=12), 600)
    assert start > 0.4
    assert MIXTURE.distance(found.state, target) < 0.12


def test_selection_follows_a_second_order_solver():
    """Its step needs the estimate of the time before, which has to follow the particles."""
    sampler = Sampler(NARROW.process, steps=30, solver="sde-dpm2", final_noise=True)
    found = selected(NARROW, Smc(NARROW.reward, particles=12), 1000, sampler=sampler)
    assert NARROW.distance(found.state, NARROW.tilted) < 0.03


def network_like(process: Process):
    """A float32 denoiser that is no law of anything."""
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)) * 0.6

    def denoiser(state: State, t: torch.Tensor) -> torch.Tensor:
        return process.space.project(torch.tanh(state.x @ weight) * (1 - t[:, None, None]), state.mask)

    return denoiser


PROCESS = Process(Cosine(), Euclidean())
SPREAD_OUT = FunctionReward(lambda state: -(state.x - 0.5).square().sum(dim=2).mul(state.mask).sum(dim=1))


@pytest.mark.parametrize(
    "selector",
    [BestOfN(SPREAD_OUT, 4), ValueWeighted(SPREAD_OUT, 0.5, particles=4), Smc(SPREAD_OUT, 0.3, particles=4)],
    ids=lambda s: type(s).__name__,
)
def test_a_sample_depends_on_its_seed_and_index_alone(selector):
    """Neither batch size nor the samples beside it nor padding: a group is a sample's own."""
    sizes = np.array([3, 6, 4, 2, 5])
    denoiser = network_like(PROCESS)

    def draw(batch_size: int, chosen: slice) -> dict[int, torch.Tensor]:
        guided = GuidedSampler(Sampler(PROCESS, steps=8), selector=selector)
        found = {}
        start = chosen.start or 0
        for places, state in generate_states(
            denoiser, guided, sizes[chosen], 3, device=torch.device("cpu"), start=start, batch_size=batch_size
        ):
            for place, x, mask in zip(places, state.x, state.mask, strict=True):
                found[start + int(place)] = x[mask]
        return found

    together = draw(5, slice(None))
    for part in (draw(1, slice(None)), draw(2, slice(2, 5))):
        for index, x in part.items():
            torch.testing.assert_close(x, together[index], atol=1e-5, rtol=1e-5)


def plain_and_guided(selector, steps: int = 8) -> tuple[torch.Tensor, torch.Tensor, GuidedSampler]:
    mask = size_mask(torch.tensor([3, 6, 4]))
    sampler, denoiser = Sampler(PROCESS, steps=steps), network_like(PROCESS)
    plain = sampler.sample(denoiser, mask, 3, SampleNoise(sample_seeds(0, 0, 3)))
    guided = GuidedSampler(sampler, selector=selector)
    return plain.x, guided.sample(denoiser, mask, 3, SampleNoise(sample_seeds(0, 0, 3))).x, guided


@pytest.mark.parametrize("kind", [BestOfN, ValueWeighted, Smc])
def test_one_particle_is_the_plain_sample_bit_for_bit(kind):
    plain, guided, _ = plain_and_guided(kind(SPREAD_OUT, particles=1))
    assert torch.equal(guided, plain)
    plain, guided, sampler = plain_and_guided(None)
    assert torch.equal(guided, plain)
    assert sampler.last is None


def test_more_candidates_never_give_a_worse_best():
    rewards = []
    for count in (1, 2, 5):
        _, x, _ = plain_and_guided(BestOfN(SPREAD_OUT, count))
        rewards.append(SPREAD_OUT(State(x, size_mask(torch.tensor([3, 6, 4])))).values)
    assert (rewards[1] >= rewards[0]).all()
    assert (rewards[2] >= rewards[1]).all()
    assert (rewards[2] > rewards[0]).any()


def test_what_is_spent_is_counted():
    for kind, calls in ((BestOfN, 3 * 4), (ValueWeighted, 3 * 4 * 7), (Smc, 3 * 4 * 7)):
        reward = CountedReward(SPREAD_OUT)
        guided = GuidedSampler(Sampler(PROCESS, steps=8), selector=kind(reward, particles=4), counted=[reward])
        mask = size_mask(torch.tensor([3, 6, 4]))
        guided.sample(network_like(PROCESS), mask, 3, SampleNoise(sample_seeds(0, 0, 3)))
        # Valued at all times but the first and the last, and at the end.
        assert (guided.cost.evaluations, guided.cost.reward_calls) == (3 * 4 * 8, calls)


@dataclass(frozen=True)
class Partial:
    """Scores what `usable` says; the rest gets a tempting number and is not valid."""

    usable: object
    differentiable: bool = False

    def __call__(self, state: State) -> RewardResult:
        values = SPREAD_OUT(state).values
        valid = self.usable(state)  # type: ignore[operator]
        return RewardResult(torch.where(valid, values, torch.full_like(values, 1e6)), valid)


@pytest.mark.parametrize("kind", [BestOfN, ValueWeighted, Smc])
def test_a_failure_is_never_chosen_where_anything_can_be_scored(kind, caplog):
    reward = Partial(lambda state: state.x[:, 0, 0] > 0)
    plain, found, guided = plain_and_guided(kind(reward, particles=12))
    assert (plain[:, 0, 0] <= 0).any(), "nothing is tested"
    assert guided.last is not None
    valid = guided.last.valid
    # The proposals of one value-weighted step may all fail in the end; what is chosen says so.
    assert valid.all() or kind is ValueWeighted
    assert valid.sum() >= 2
    assert torch.equal(found[:, 0, 0] > 0, valid)
    assert (guided.last.values[valid] < 0).all()
    assert guided.last.values[~valid].isnan().all()


@pytest.mark.parametrize("kind", [BestOfN, ValueWeighted, Smc])
def test_where_nothing_can_be_scored_a_sample_comes_all_the_same(kind, caplog):
    hopeless = Partial(lambda state: torch.zeros(len(state), dtype=torch.bool))
    plain, found, guided = plain_and_guided(kind(hopeless, particles=3))
    # Nothing was ever preferred: the first particle went its way.
    torch.testing.assert_close(found, plain)
    assert guided.last is not None
    assert not guided.last.valid.any()
    assert guided.last.values.isnan().all()
    assert not guided.last.log_normaliser.isfinite().any()
    assert "3 of 3 samples: none of 3 particles could be scored" in caplog.text


def test_failures_on_the_way_are_no_reason_and_no_advantage():
    """A reward that fails at noisy estimates alone leaves the normaliser without bias."""

    calls = 0

    class Squeamish:
        differentiable = False

        def __call__(self, state: State) -> RewardResult:
            nonlocal calls
            calls += 1
            valid = state.x[:, 0, 1] > -0.5
            if calls == NARROW.steps - 1:  # The ends of the chains.
                valid = torch.ones_like(valid)
            elif calls % 3 == 0:
                valid = torch.zeros_like(valid)
            return RewardResult(NARROW.reward(state).values, valid)

    assert abs(unbiased(NARROW, Smc(Squeamish(), particles=4, threshold=1.0))) < 3.5
    assert calls == NARROW.steps - 1


@pytest.mark.parametrize("kind", [ValueWeighted, Smc])
def test_copies_need_noise_to_part(kind):
    still = Sampler(PROCESS, steps=5, solver="ddim")
    with pytest.raises(InputError, match="take ancestral, sde-dpm2 or eta above 0"):
        GuidedSampler(still, selector=kind(SPREAD_OUT, particles=4))
    GuidedSampler(still, selector=BestOfN(SPREAD_OUT, 4))
    GuidedSampler(still.adjusted(eta=0.5), selector=kind(SPREAD_OUT, particles=4))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (BestOfN, {"particles": 0}),
        (Smc, {"particles": 0}),
        (Smc, {"tau": 0.0}),
        (Smc, {"threshold": 1.5}),
        (ValueWeighted, {"scale": -1.0}),
        (ValueWeighted, {"every": 0}),
        (ValueWeighted, {"start": 2.0}),
    ],
)
def test_unusable_settings_are_named(kind, options):
    with pytest.raises(InputError, match=f"{next(iter(options))}.*expected"):
        kind(SPREAD_OUT, **options)


def test_drawing_by_weight():
    logits = torch.tensor([[0.0, math.log(3.0), -math.inf, 0.0]], dtype=torch.float64)
    levels = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = torch.cat([one_of(logits, level[None]) for level in levels])
    assert drawn.bincount(minlength=4).tolist() == [200, 600, 0, 200]
    ancestors = systematic(logits.expand(1000, -1), levels)
    copies = torch.nn.functional.one_hot(ancestors, 4).sum(dim=1)
    torch.testing.assert_close(copies.double().mean(dim=0), 4 * logits.softmax(dim=1)[0], atol=0.01, rtol=0)
    # Never off by one or more.
    assert ((copies - 4 * logits.softmax(dim=1)).abs() < 1).all()
    assert effective_number(logits).item() == pytest.approx(25 / 11)
    assert log_mean(logits).item() == pytest.approx(math.log(5 / 4))


def test_the_ends_of_the_unit_interval_are_drawn_from_too():
    nearly = torch.tensor([1 - 2**-53], dtype=torch.float64)
    lopsided = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64)
    assert one_of(lopsided, nearly).item() == 1
    assert systematic(lopsided, nearly).max() <= 1
    hopeless = torch.full((1, 3), -math.inf, dtype=torch.float64)
    assert one_of(hopeless, nearly).item() == 0
    assert effective_number(hopeless).item() == 0


def test_a_failure_counts_as_the_lowest_of_its_group():
    values = torch.tensor([3.0, 9.0, 1.0, 5.0, 5.0, 5.0])
    valid = torch.tensor([True, False, True, False, False, False])
    found = grouped(values, valid, 3)
    assert found[0].tolist() == [3.0, 1.0, 1.0]
    assert found[1].isnan().all()


def test_particles_have_streams_of_their_own():
    mask = size_mask(torch.tensor([2, 4]))
    seeds = sample_seeds(0, 0, 2)
    spread = SampleNoise(seeds).particles(3)(mask.repeat_interleave(3, dim=0), 3)
    # The first of each group is the sample itself; the others are nobody else.
    torch.testing.assert_close(spread[::3], SampleNoise(seeds)(mask, 3), rtol=0, atol=0)
    assert len({float(x[0, 0]) for x in spread}) == 6
    fewer = SampleNoise(seeds).particles(2)(mask.repeat_interleave(2, dim=0), 3)
    assert torch.equal(fewer, spread.unflatten(0, (2, 3))[:, :2].flatten(0, 1))
    alone = SampleNoise(seeds[1:])
    together = SampleNoise(seeds)
    for _ in range(2):
        both = together.uniforms()
        assert torch.equal(alone.uniforms(), both[1:])
        assert ((both >= 0) & (both < 1)).all()
    assert not torch.equal(both, together.uniforms())


def test_noise_put_back_is_that_of_the_forward_process():
    """Corrupting to s and on to t is corrupting to t: mean and variance."""
    t, s = (torch.full((4000,), time, dtype=torch.float64) for time in (0.7, 0.4))
    mask = torch.ones(4000, 1, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4000, 1, 3, generator=generator, dtype=torch.float64)
    x0 = torch.full((4000, 1, 3), 2.0, dtype=torch.float64)
    x_t = PROCESS.renoise(PROCESS.corrupt(x0, mask, s, noise[0]), mask, s, t, noise[1])
    alpha, sigma = (float(value[0]) for value in PROCESS.schedule.alpha_sigma(t))
    assert float(x_t.mean()) == pytest.approx(2 * alpha, abs=4 * sigma / math.sqrt(12_000))
    assert float(x_t.std()) == pytest.approx(sigma, rel=0.03)
