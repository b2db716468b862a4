"""Estimators against exact gradients, weights against exact laws, and identities at step 0."""

from __future__ import annotations

import math

import pytest
import torch
from contracts.worlds import AffinePolicy, GaussianWorld, MixtureWorld, noise_source
from torch import Tensor

from common.algorithms import ALGORITHMS, Algorithm, Backprop, PathConsistency, PolicyGradient, Rgdm
from common.algorithms.gradient_noise import GradientNoise, compare_gradients
from common.algorithms.rollout import kernel, kernels, path_kl, rollout
from common.diffusion import Centered, Euclidean, State
from common.rewards import FunctionReward

LINE = GaussianWorld(Euclidean(), sizes=(1,), n_channels=1, steps=6)
WORLDS = [GaussianWorld(Euclidean()), GaussianWorld(Centered(3), (3, 2), 4), MixtureWorld(Euclidean())]


def moved_policy() -> AffinePolicy:
    """A policy of the line that is no longer its reference."""
    policy = LINE.policy()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        policy.shift[:, 1:] = 0  # Padding.
    return policy


def exact_objective(policy: AffinePolicy) -> Tensor:
    """E[r] - tau sum KL of the line's chain, by its means and variances: everything is linear and Gaussian."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    law, target = LINE.law, LINE.reward.target[0, 0]
    times = LINE.sampler.times()
    zero, one = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    mean, variance, total_kl = zero.sum(), one.sum(), zero.sum()
    for i in range(LINE.steps):
        t = times[i : i + 1]
        alpha, sigma = LINE.process.schedule.alpha_sigma(t)
        gain = (alpha * law.std**2 / (alpha**2 * law.std**2 + sigma**2))[0]
        rest = law.mean[0, 0] * (1 - gain * alpha[0])
        if i + 1 < LINE.steps:
            of_x0 = LINE.process.posterior(zero, one, mask, t, times[i + 1 : i + 2])
            of_x = LINE.process.posterior(one, zero, mask, t, times[i + 1 : i + 2])
            c, d, std = of_x0.mean.sum(), of_x.mean.sum(), of_x.std[0]
        else:
            c, d, std = one.sum(), zero.sum(), (sigma / alpha)[0]
        shift, tilt = policy.shift[i, 0, 0], policy.gain[i]
        moved = shift + tilt * mean
        total_kl = total_kl + c**2 * (moved**2 + tilt**2 * variance) / (2 * std**2)
        mean = (d + c * (gain + tilt)) * mean + c * (rest + shift)
        variance = (d + c * (gain + tilt)) ** 2 * variance + std**2
    return -((mean - target) ** 2 + variance) / (2 * LINE.spread**2) - LINE.tau * total_kl


def flat_gradient(value: Tensor, policy: AffinePolicy) -> Tensor:
    gradients = torch.autograd.grad(value, [policy.shift, policy.gain])
    return torch.cat([gradients[0][:, 0, 0], gradients[1]])


def estimates(algorithm: Algorithm, draws: int, count: int, factor: float) -> tuple[Tensor, AffinePolicy]:
    """(draws, P) gradients of -loss times factor."""
    policy, generator = moved_policy(), torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        experience = algorithm.collect(
            policy, LINE.law, LINE.reward, LINE.batch(count), noise_source(generator), generator
        )
        found.append(flat_gradient(-factor * algorithm.loss(policy, LINE.law, experience)[0], policy))
    return torch.stack(found), policy


@pytest.mark.parametrize(
    ("algorithm", "factor"),
    [
        # The policy gradient's loss is a mean over steps.
        (PolicyGradient(LINE.sampler), float(LINE.steps)),
        (PolicyGradient(LINE.sampler, group_size=8), float(LINE.steps)),
        (Backprop(LINE.sampler), 1.0),
        (Backprop(LINE.sampler, checkpointed=False), 1.0),
        # A group's mean, which contains the row itself, takes 1 / n of the gradient away.
        (PathConsistency(LINE.sampler, group_size=8), LINE.tau * 8 / 7),
    ],
    ids=["policy_gradient", "grouped", "backprop", "backprop unchecked", "trajectory_balance"],
)
def test_gradient_estimators_are_unbiased(algorithm, factor):
    found, policy = estimates(algorithm, draws=40, count=1600, factor=factor)
    exact = flat_gradient(exact_objective(policy), policy)
    error = found.std(dim=0) / math.sqrt(len(found))
    assert ((found.mean(dim=0) - exact).abs() < 4.5 * error + 1e-9).all()
    # The estimate is sharp enough to tell the gradient from zero and from its double.
    assert error.norm() < 0.1 * exact.norm()


def test_leaving_the_later_divergence_out_is_biased():
    found, policy = estimates(PolicyGradient(LINE.sampler, full_kl=False), 40, 1600, float(LINE.steps))
    exact = flat_gradient(exact_objective(policy), policy)
    error = found.std(dim=0) / math.sqrt(len(found))
    assert ((found.mean(dim=0) - exact).abs() > 6 * error).any()


@pytest.mark.parametrize("world", WORLDS, ids=["euclidean", "centred", "mixture"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_at_step_0_nothing_differs_from_the_reference(name, world):
    """Path KL is 0 and every ratio is 1, exactly."""
    policy, generator = world.policy(), torch.Generator().manual_seed(0)
    settings = {} if name in ("policy_gradient", "backprop", "path_consistency", "adjoint_matching") else {"tau": 1.0}
    algorithm = ALGORITHMS[name](sampler=world.sampler, **settings)
    arguments = (policy, world.law, world.reward, world.batch(16), noise_source(generator), generator)
    experience = algorithm.collect(*arguments)
    _, metrics = algorithm.loss(policy, world.law, experience)
    for source in (experience.metrics, metrics):
        for exact in {"path_kl", "step_kl", "ratio_deviation"} & source.keys():
            assert float(source[exact]) == 0.0, exact
    chains = rollout(policy, world.sampler, world.batch(16), noise_source(generator))
    assert not path_kl(world.law, world.sampler, chains).any()


@pytest.mark.parametrize("world", WORLDS, ids=["euclidean", "centred", "mixture"])
def test_a_replayed_step_is_the_step_that_was_drawn(world):
    """`kernel` gives the log-probabilities of `Sampler.reverse` bit for bit, read-out and all."""
    policy, generator = world.policy(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    chains = rollout(policy, world.sampler, world.batch(8), noise_source(generator))
    for place in range(chains.length):
        step = kernel(policy, world.sampler, chains.state(place), chains.steps[:, place])
        assert torch.equal(step.log_prob(chains.path[:, place + 1]), chains.log_prob[:, place])
    together = kernels(policy, world.sampler, chains).log_prob(chains.path[:, 1:].flatten(0, 1))
    torch.testing.assert_close(together.unflatten(0, chains.steps.shape), chains.log_prob, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("proposal", ["policy", "reference", "posterior"])
@pytest.mark.parametrize("explore_std", [1.0, 1.6])
def test_the_weights_of_rgdm_give_the_optimal_kernel(proposal, explore_std):
    """At the read-out the value is the reward, and p* ~ N(mu_ref, std^2) exp(r / tau) a Gaussian in closed form."""
    world = GaussianWorld(Euclidean(), sizes=(1,), n_channels=1, spread=0.05, steps=4)
    rgdm = Rgdm(world.sampler, 1.0, "kl", proposal, candidates=40_000, explore_std=explore_std)
    policy = world.policy()
    with torch.no_grad():
        policy.shift.fill_(0.03)
    steps = torch.tensor([3, 3])
    target = world.reward.target[0, 0]
    x = torch.zeros(2, 2, 1, dtype=torch.float64)
    x[:, 0, 0] = target + torch.tensor([0.08, -0.08])
    before = State(x, world.batch(2).mask)
    drawn = rgdm.draw(
        policy, world.law, world.reward, before, steps, torch.Generator().manual_seed(0), clean=before.x + 0.02
    )
    base = kernel(world.law, world.sampler, before, steps)
    weight = 1 / world.spread**2
    precision = 1 / base.std**2 + weight
    exact = (base.mean[:, 0, 0] / base.std**2 + weight * target) / precision
    mean = (drawn.weights * drawn.after[:, :, 0, 0]).sum(dim=1)
    variance = (drawn.weights * (drawn.after[:, :, 0, 0] - mean[:, None]) ** 2).sum(dim=1)
    spread = precision**-0.5
    assert (drawn.effective() > 300).all()
    assert ((mean - exact).abs() < 5 * spread / drawn.effective().sqrt()).all()
    torch.testing.assert_close(variance, 1 / precision, rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("look_ahead", "places"),
    [
        (1, {0: [1], 3: [4], 4: [5], 5: []}),
        (2, {0: [1, 3], 3: [4, 5], 4: [5], 5: []}),
        (6, {0: [1, 2, 3, 4, 5], 3: [4, 5], 4: [5], 5: []}),
    ],
)
def test_a_look_ahead_visits_the_times_that_are_left_and_none_twice(look_ahead, places):
    rgdm, seen = Rgdm(LINE.sampler, 1.0, look_ahead=look_ahead), []

    def watched(state: State, t: Tensor) -> Tensor:
        seen.append(t)
        return LINE.law(state, t)

    times = LINE.sampler.times().double()
    for step, expected in places.items():
        seen.clear()
        steps = torch.full((2,), step)
        before = LINE.data(2, torch.Generator().manual_seed(0))
        drawn = rgdm.propose(LINE.law, watched, before, steps, torch.Generator().manual_seed(0))
        # The first is the base's own step.
        assert torch.equal(torch.stack([t[0] for t in seen]), times[[step, *expected]])
        assert drawn.cost.evaluations == 2 + 2 + 2 * rgdm.candidates * len(expected)
        assert torch.equal(drawn.ends.x, drawn.after) == (not expected)


def test_rows_without_a_valid_candidate_weigh_nothing():
    reward = FunctionReward(lambda state: torch.where(state.x[:, 0, 0] > 0, state.x[:, 0, 0], torch.nan))
    generator = torch.Generator().manual_seed(0)
    rgdm, policy = Rgdm(LINE.sampler, 1.0), LINE.policy()
    experience = rgdm.collect(policy, LINE.law, reward, LINE.batch(64), noise_source(generator), generator)
    assert torch.isfinite(experience.path).all()
    assert 0 < float(experience.extra["usable"].mean()) < 1
    hopeless = FunctionReward(lambda state: torch.full((len(state),), torch.nan, dtype=torch.float64))
    for name, make in ALGORITHMS.items():
        if name in ("backprop", "adjoint_matching"):
            continue
        algorithm = make(sampler=LINE.sampler, tau=1.0)
        experience = algorithm.collect(policy, LINE.law, hopeless, LINE.batch(8), noise_source(generator), generator)
        loss, _ = algorithm.loss(policy, LINE.law, experience)
        gradients = torch.autograd.grad(loss, list(policy.parameters()))
        assert all(float(gradient.abs().max()) < 1e-9 for gradient in gradients), name


def test_checkpointing_changes_no_gradient():
    found = []
    for checkpointed in (True, False):
        world = WORLDS[1]
        generator = torch.Generator().manual_seed(0)
        algorithm, policy = Backprop(world.sampler, checkpointed=checkpointed), world.policy()
        experience = algorithm.collect(
            policy, world.law, world.reward, world.batch(8), noise_source(generator), generator
        )
        loss, _ = algorithm.loss(policy, world.law, experience)
        found.append(torch.autograd.grad(loss, list(policy.parameters())))
    for checked, plain in zip(*found, strict=True):
        torch.testing.assert_close(checked, plain, rtol=1e-12, atol=1e-14)
        assert checked.abs().max() > 0


def noise_of(reward, tau: float) -> dict[str, GradientNoise]:
    world, generator = GaussianWorld(Euclidean(), spread=0.5), torch.Generator().manual_seed(0)
    policy = world.policy()
    flat = rollout(policy, world.sampler, world.batch(16), noise_source(generator)).flat()
    return compare_gradients(
        Rgdm(world.sampler, tau, "kl", candidates=8), policy, list(policy.parameters()), world.law,
        reward or world.reward, flat.state(0), flat.steps[:, 0], generator, draws=24,
    )  # fmt: skip


def test_pay_off_samples_vary_less_than_the_policy_gradient():
    """The claim of RGDM, on the same states and candidates, where rewards differ by many tau.

    The mean falls with the variance, for weights are bounded and advantages are not: against its mean, RGDM is about
    as noisy as the policy gradient, at any tau, if rewards are as well-behaved as a quadratic.
    """
    for tau in (3.0, 0.1):
        noise = noise_of(None, tau)
        assert noise["rgdm"].relative < 1.6 * noise["policy_gradient"].relative
    assert noise["rgdm"].variance < 0.5 * noise["policy_gradient"].variance


def test_outliers_of_the_reward_do_not_shake_pay_off_samples():
    """A candidate in 50 that scores absurdly badly, as a calculator's failures do: its weight is merely zero."""

    def outliers(state):
        bad = (state.x * 1e4).sum(dim=(1, 2)).long() % 50 == 0
        return -state.x.square().sum(dim=(1, 2)) / 0.5 - 300.0 * bad

    noise = noise_of(FunctionReward(outliers), 1.0)
    assert noise["rgdm"].relative < 0.1 * noise["policy_gradient"].relative
