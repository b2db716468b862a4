"""Experience as tensors, and which samplers can give it."""

from __future__ import annotations

import pytest
import torch
from contracts.worlds import GaussianWorld, noise_source

from common.algorithms import (
    AdjointMatching,
    Backprop,
    Cost,
    Experience,
    PathConsistency,
    PolicyGradient,
    Pretraining,
    RewardWeighted,
    Rgdm,
)
from common.algorithms.likelihood import Likelihood
from common.algorithms.rollout import rollout
from common.diffusion import Centered, Sampler
from common.errors import InputError
from common.rewards import FunctionReward

WORLD = GaussianWorld(Centered(3), (3, 2), 4, steps=5)


def chains(count: int = 6) -> Experience:
    return rollout(WORLD.policy(), WORLD.sampler, WORLD.batch(count), noise_source(torch.Generator().manual_seed(0)))


def test_rows_go_into_minibatches_once():
    experience = chains().with_extra(number=torch.arange(6))
    parts = list(experience.minibatches(4, torch.Generator().manual_seed(1)))
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    numbers = torch.cat([part.extra["number"] for part in parts])
    assert sorted(numbers.tolist()) == list(range(6))
    assert torch.equal(torch.cat([part.path for part in parts]), experience.path[numbers])


def test_flat_rows_are_single_steps():
    experience = chains().with_extra(each=torch.arange(30).reshape(6, 5), row=torch.arange(6))
    flat = experience.flat()
    assert len(flat) == 30
    assert flat.length == 1
    for i, (row, step) in enumerate((r, s) for r in range(6) for s in range(5)):
        assert torch.equal(flat.path[i, 0], experience.path[row, step])
        assert torch.equal(flat.path[i, 1], experience.path[row, step + 1])
        assert flat.log_prob[i, 0] == experience.log_prob[row, step]
        assert (flat.extra["each"][i, 0], flat.extra["row"][i]) == (5 * row + step, row)


def test_parts_join_and_costs_add():
    both = Experience.concatenate([chains(), chains(4)])
    assert len(both) == 10
    assert both.cost == Cost(evaluations=50)


def test_costs_are_counted():
    generator = torch.Generator().manual_seed(0)
    arguments = (WORLD.policy(), WORLD.law, WORLD.reward, WORLD.data(6, generator), noise_source(generator), generator)
    steps, s = 5, WORLD.sampler
    expected = {
        PolicyGradient(s): Cost(6, 6 * steps * 2),
        Backprop(s): Cost(6, 6 * steps),
        AdjointMatching(s): Cost(6, 6 * steps * 2),
        PathConsistency(s): Cost(6, 6 * steps * 2),
        RewardWeighted(s, 1.0): Cost(6, 6 * steps),
        RewardWeighted(s, 1.0, source="data"): Cost(6, 0),
        RewardWeighted(s, 1.0, source="policy"): Cost(6, 6 * steps * 2),
        # A chain; at all its states the base's and the policy's step, and 8 candidates, of which the last step's are
        # clean and want no look-ahead.
        Rgdm(s, 1.0, candidates=8, visited=5): Cost(240, 6 * steps + 30 * 2 + 24 * 8),
        Rgdm(s, 1.0, "kl", "posterior", candidates=8, visited=5): Cost(240, 30 + 24 * 8),
        # At most 3 evaluations, and no more than there are times left.
        Rgdm(s, 1.0, candidates=8, visited=5, look_ahead=3): Cost(240, 6 * steps + 30 * 2 + 6 * 8 * (3 + 3 + 2 + 1)),
    }
    for algorithm, cost in expected.items():
        assert algorithm.collect(*arguments).cost == cost, algorithm


def test_pretraining_is_likelihood():
    world = WORLD
    batch = world.data(16, torch.Generator().manual_seed(0))
    algorithm = Pretraining()
    experience = algorithm.collect(
        world.policy(), world.law, None, batch, noise_source(torch.Generator()), torch.Generator().manual_seed(3)
    )
    policy = world.policy()
    loss, _ = algorithm.loss(policy, world.law, experience)
    expected, _ = Likelihood().loss(policy, batch, torch.Generator().manual_seed(3))
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("algorithm", [PolicyGradient, Backprop, PathConsistency, AdjointMatching])
def test_steps_without_a_density_are_refused(algorithm):
    for sampler in (
        Sampler(WORLD.process, 5),
        Sampler(WORLD.process, 5, "ddim", final_noise=True),
        Sampler(WORLD.process, 5, "sde-dpm2", final_noise=True),
    ):
        with pytest.raises(InputError, match="rollout_sampler"):
            algorithm(sampler)


def test_adjoint_matching_needs_memoryless_noise():
    with pytest.raises(InputError, match="expected 1"):
        AdjointMatching(Sampler(WORLD.process, 5, "ancestral", eta=0.5, final_noise=True))


@pytest.mark.parametrize("algorithm", [Backprop, AdjointMatching])
def test_rewards_without_a_gradient_are_refused(algorithm):
    generator = torch.Generator().manual_seed(0)
    reward = FunctionReward(lambda state: state.x.sum(dim=(1, 2)))
    with pytest.raises(InputError, match="differentiable"):
        algorithm(WORLD.sampler).collect(
            WORLD.policy(), WORLD.law, reward, WORLD.batch(4), noise_source(generator), generator
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: Rgdm(s, 0.0), "tau"),
        (lambda s: Rgdm(s, 1.0, proposal="policies"), "did you mean 'policy'"),
        (lambda s: Rgdm(s, 1.0, explore_std=0.5), "explore_std"),
        (lambda s: PolicyGradient(s, clip=0.0), "clip"),
        (lambda s: Backprop(s, truncation="lst"), "did you mean 'last'"),
        (lambda s: PathConsistency(s, balance="detailed"), "value"),
        (lambda s: RewardWeighted(s, 1.0, source="dat"), "did you mean 'data'"),
    ],
)
def test_unusable_settings_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make(WORLD.sampler)
