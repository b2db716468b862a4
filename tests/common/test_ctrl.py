"""CTRL: calibrated predictors, the reward that they make, and the posterior that it leads to."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from contracts.control_world import (
    NOISE,
    PROCESS,
    QUESTIONS,
    STEPS,
    AnalyticNetwork,
    batch,
    controls,
    divergences,
    fit,
    sample,
)
from contracts.rewards import assert_reward
from contracts.worlds import noise_source

from common.algorithms import Backprop, Ctrl, PolicyGradient, RewardWeighted, Rgdm
from common.algorithms.ctrl import ControlReward, ControlTerm
from common.algorithms.path_consistency import PathConsistency, ValueNetwork
from common.algorithms.rollout import kernel, rollout_sampler
from common.diffusion import X0, Denoiser, State
from common.diffusion.control import Control, ControlledDenoiser
from common.errors import InputError
from common.predictors.calibration import coverage_error, expected_calibration_error, softmax_temperature, std_scale
from common.rewards import Remembering, RewardResult, SummedReward


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_several_controls_from_separate_sets_give_the_posterior():
    """p(x | y1, y2) and p(x | y1): the Bayes posteriors of a Gaussian, from one model.

    In nats a channel, the base is 0.4 to 1.5 away from the posterior. Of the 0.15 that are allowed, most is for the
    channel that nobody asks for: it weighs least in the objective and is the last to be learnt.
    """
    policy, _ = fit(Backprop(rollout_sampler(PROCESS, STEPS), checkpointed=False), 350, null_share=0.3)
    assert max(divergences(policy)) < 0.15
    for asked in QUESTIONS:
        x = sample(policy, batch(6000, **asked))
        for channel, name in enumerate(("y1", "y2")):
            # The base's variance of 0.64 over that and the noise's.
            assert abs(float(x[:, channel].mean()) - 0.8 * asked.get(name, 0.0)) < 0.1


def test_nothing_asked_is_the_base_after_training():
    policy, _ = fit(PolicyGradient(rollout_sampler(PROCESS, STEPS)), 3, null_share=0.3)
    assert torch.equal(sample(policy, batch(50)), sample(policy.uncontrolled, batch(50)))
    assert not torch.equal(sample(policy, batch(50, y1=1.0)), sample(policy, batch(50)))


def test_the_reward_is_a_sum_of_weighted_log_likelihoods():
    first, second = controls()
    second = ControlTerm(second.control, second.predictor, second.outcomes, gamma=0.5, scale=2.0)
    generator = torch.Generator().manual_seed(0)
    asked = State(
        torch.randn(5, 1, 2, generator=generator, dtype=torch.float64),
        torch.ones(5, 1, dtype=torch.bool),
        {
            "y1": torch.tensor([0.5, 0.1, torch.nan, torch.nan, 1.0], dtype=torch.float64),
            "y2": torch.linspace(-1, 1, 5, dtype=torch.float64),
        },
    )
    reward = ControlReward([first, second])
    assert_reward(reward, asked)
    log_prob = [
        torch.distributions.Normal(asked.x[:, 0, i], NOISE, validate_args=False).log_prob(asked.condition[f"y{i + 1}"])
        for i in (0, 1)
    ]
    expected = log_prob[0].nan_to_num() + 0.5 * log_prob[1]
    torch.testing.assert_close(reward(asked).values, expected)
    assert not reward(State(asked.x, asked.mask)).values.any()


def test_a_tolerance_bounds_how_sure_a_predictor_can_be():
    term = controls()[0]
    state = batch(3, y1=1.0).replace(x=torch.tensor([[[0.0, 0.0]], [[0.5, 0.0]], [[1.0, 0.0]]], dtype=torch.float64))
    tolerant = replace(term, tolerance=0.3)
    law = torch.distributions.Normal(state.x[:, 0, 0], math.hypot(NOISE, 0.3), validate_args=False)
    torch.testing.assert_close(tolerant.log_prob(state), law.log_prob(state.condition["y1"]))
    assert torch.equal(replace(term, tolerance=0.0).log_prob(state), term.log_prob(state))
    with pytest.raises(InputError, match="got tolerance -1"):
        replace(term, tolerance=-1)
    with pytest.raises(InputError, match="0 of a class"):
        ControlTerm(Control("kind", classes=3), lambda state: state.x[:, 0], torch.tensor([0, 2]), tolerance=0.1)


def test_a_logarithmic_control_counts_ratios():
    """Half and double are equally far off, in what training sees, in what it asks for, and in what the network gets."""
    outcomes = torch.tensor([0.1, 0.5, 1.0, 2.0, 10.0], dtype=torch.float64)
    control = Control.of_values("volume", outcomes, log=True)
    assert control.mean == pytest.approx(0.0)
    predictor = lambda state: (state.x[:, 0, 0], 0.1 * state.x[:, 0, 0].abs())  # noqa: E731
    term = ControlTerm(control, predictor, outcomes, tolerance=0.2)
    x = torch.tensor([0.5, 1.0, 2.0, -1.0], dtype=torch.float64)[:, None, None].repeat(1, 1, 2)
    found = term.log_prob(State(x, torch.ones(4, 1, dtype=torch.bool), {"volume": torch.ones(4).double()}))
    law = torch.distributions.Normal(0.0, math.hypot(0.1, math.log(1.2)))
    torch.testing.assert_close(found[:3], law.log_prob(x[:3, 0, 0].log()))
    # What is not positive is no more than very small.
    assert torch.isfinite(found).all()
    assert found[3] < found[:3].min()
    standardised = control.standardised(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert standardised.tolist() == pytest.approx([-float(standardised[2]), 0.0, float(standardised[2])])
    drawn = term.draw(4000, torch.Generator().manual_seed(0), even_share=1.0)
    assert float((drawn < 1).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert Control(**asdict(control)) == control
    with pytest.raises(InputError, match=r"values from -1 on, of which a share says nothing"):
        Control.of_values("energy", torch.tensor([-1.0, 2.0]), log=True)
    with pytest.raises(InputError, match="'volume': got 0, expected more than 0"):
        control.asked(State(x, torch.ones(4, 1, dtype=torch.bool), {"volume": torch.zeros(4)}))


def test_the_reward_of_a_class():
    control = Control("family", classes=3)
    logits = lambda state: torch.stack([state.x[:, 0, 0], state.x[:, 0, 1], 0 * state.x[:, 0, 0]], dim=1)  # noqa: E731
    term = ControlTerm(control, logits, torch.tensor([0, 1, 2]), scale=2.0)
    state = State(
        torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        torch.ones(4, 1, dtype=torch.bool),
        {"family": torch.tensor([0, 1, 2, -1])},
    )
    assert_reward(ControlReward([term]), state)
    expected = (logits(state) / 2).log_softmax(dim=1)[torch.arange(3), torch.arange(3)]
    torch.testing.assert_close(ControlReward([term])(state).values, torch.cat([expected, expected.new_zeros(1)]))


def test_targets_come_from_the_offline_sets_and_are_left_out_sometimes():
    ctrl = Ctrl(PolicyGradient(rollout_sampler(PROCESS, STEPS), group_size=4), controls(), null_share=0.25)
    drawn = ctrl.draw(4000, torch.Generator().manual_seed(0))
    for term in ctrl.terms:
        values = drawn[term.control.name]
        assert float(values.isnan().double().mean()) == pytest.approx(0.25, abs=0.05)
        known = values[~values.isnan()]
        assert torch.isin(known, term.outcomes).all()
        groups = values.reshape(-1, 4)
        same = (groups == groups[:, :1]) | groups.isnan()
        assert same.all()
    assert not torch.equal(drawn["y1"], drawn["y2"])


def test_a_share_of_the_targets_is_spread_evenly_over_the_range():
    outcomes = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(0)), torch.tensor([50.0])])
    term = ControlTerm(Control("y"), controls()[0].predictor, outcomes.double())
    inner = PolicyGradient(rollout_sampler(PROCESS, STEPS))
    drawn = Ctrl(inner, (term,), even_share=0.5).draw(8000, torch.Generator().manual_seed(0))["y"]
    known = torch.isin(drawn, term.outcomes)
    assert float(known.double().mean()) == pytest.approx(0.5, abs=0.03)
    low, high = torch.quantile(term.outcomes, torch.tensor([0.01, 0.99], dtype=torch.float64))
    place = ((drawn[~known] - low) / (high - low)).sort().values
    assert (place - torch.linspace(0, 1, len(place), dtype=torch.float64)).abs().max() < 0.04
    none = Ctrl(inner, (term,)).draw(500, torch.Generator().manual_seed(0))["y"]
    assert torch.isin(none, term.outcomes).all()

    kinds = ControlTerm(Control("kind", classes=3), lambda state: state.x[:, 0], torch.tensor([0, 2]))
    drawn = Ctrl(inner, (kinds,), even_share=1.0).draw(200, torch.Generator().manual_seed(0))["kind"]
    assert set(drawn.tolist()) == {0, 2}
    with pytest.raises(InputError, match=r"even_share 1\.5"):
        Ctrl(inner, (term,), even_share=1.5)


def test_gamma_is_the_knob():
    with pytest.raises(InputError, match="gamma"):
        Ctrl(Backprop(rollout_sampler(PROCESS, STEPS), tau=0.1), controls())
    with pytest.raises(InputError, match="gamma"):
        ControlTerm(Control("y"), controls()[0].predictor, torch.zeros(3), gamma=0.0)


def asking(count: int, y1: float, y2: float) -> dict[str, torch.Tensor]:
    return dict(batch(count, y1=y1, y2=y2).condition)


def controlled(seed: int = 0) -> ControlledDenoiser:
    """A policy whose steps depend on what is asked for."""
    torch.manual_seed(seed)
    policy = ControlledDenoiser(
        Denoiser(AnalyticNetwork().double(), PROCESS, X0()), [term.control for term in controls()], rank=4
    )
    with torch.no_grad():
        for parameter in policy.branch.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
        for adapter in policy.adapters:
            adapter.up.add_(0.05 * torch.randn(adapter.up.shape, dtype=adapter.up.dtype))
    return policy


@pytest.mark.parametrize("target", ["policy", "kl", "payoff"])
def test_candidates_drawn_for_one_value_tell_what_another_would_have_learnt(target):
    """Many candidates at two states: the same mean as from candidates that were drawn for the other value."""
    policy, reward = controlled(), ControlReward(controls())
    rgdm = Rgdm(rollout_sampler(PROCESS, STEPS), 1.0, target=target, candidates=60_000)
    before = batch(2).replace(
        x=torch.tensor([[[0.4, -0.8]], [[-1.2, 0.3]]], dtype=torch.float64), condition=asking(2, 0.8, -0.5)
    )
    steps = torch.tensor([3, 7])
    generator = torch.Generator().manual_seed(0)
    drawn = rgdm.propose(policy, policy.uncontrolled, before, steps, generator)
    other = asking(2, -0.7, 0.6)
    found = rgdm.weigh(policy, reward, drawn, other)
    direct = rgdm.draw(policy, policy.uncontrolled, reward, before.replace(condition=other), steps, generator)
    own = rgdm.weigh(policy, reward, drawn)
    assert found.before.condition is other
    if target == "payoff":
        # No law but that of the rewards, so that it matters where the candidates are: here the same ones.
        assert torch.equal(found.after, own.after)
        assert not torch.allclose(found.weights, own.weights)
    else:
        torch.testing.assert_close(found.mean(), direct.mean(), rtol=0, atol=0.03)
        assert (own.mean() - direct.mean()).norm() > 0.2
    # What has been scored is neither drawn nor scored again.
    assert found.cost.reward_calls == 0
    assert found.cost.evaluations == (2 if target == "policy" else 0)


def test_candidates_that_the_other_value_would_never_give_teach_it_nothing():
    policy, reward = controlled(), ControlReward(controls())
    rgdm = Rgdm(rollout_sampler(PROCESS, STEPS), 1.0, candidates=4)
    before = batch(1, y1=0.8, y2=-0.5)
    drawn = rgdm.propose(policy, policy.uncontrolled, before, torch.tensor([6]), torch.Generator().manual_seed(0))
    far = replace(drawn, proposal=replace(drawn.proposal, mean=drawn.proposal.mean + 1000.0))
    other = asking(1, -0.7, 0.6)
    found = rgdm.weigh(policy, reward, far, other)
    own_step = kernel(policy, rgdm.sampler, before.replace(condition=other), torch.tensor([6]))
    torch.testing.assert_close(found.mean(), own_step.mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("proposal", ["policy", "reference", "posterior"])
def test_where_all_candidates_are_as_good_only_the_base_pulls(proposal):
    """Four candidates from anywhere: the policy's step, and no more than `anchor` of the way back to the base's."""
    policy = controlled()
    rgdm = Rgdm(rollout_sampler(PROCESS, STEPS), 1.0, proposal=proposal, candidates=4, anchor=0.2)
    before, steps = batch(20, y1=0.8, y2=-0.5), torch.full((20,), 6)
    flat = lambda state: RewardResult(0 * state.x[:, 0, 0], torch.ones(len(state), dtype=torch.bool), {})  # noqa: E731
    drawn = rgdm.draw(
        policy, policy.uncontrolled, flat, before, steps, torch.Generator().manual_seed(0), torch.zeros_like(before.x)
    )
    own = kernel(policy, rgdm.sampler, before, steps).mean
    way = kernel(policy.uncontrolled, rgdm.sampler, before, steps).mean - own
    share = ((drawn.mean() - own) * way).sum(dim=(1, 2)) / way.square().sum(dim=(1, 2))
    torch.testing.assert_close(drawn.mean(), own + share[:, None, None] * way)
    assert (share >= 0).all()
    assert (share <= 0.2 + 1e-9).all()
    if proposal == "policy":
        torch.testing.assert_close(share, torch.full_like(share, 0.2))


def test_each_chain_teaches_several_values():
    ctrl = Ctrl(Rgdm(rollout_sampler(PROCESS, STEPS), 1.0, visited=3), controls(), null_share=0.2, values_each=4)
    policy, looked = controlled(), []

    def counting(predictor):
        return lambda state: looked.append(len(state)) or predictor(state)

    ctrl = replace(ctrl, terms=tuple(replace(term, predictor=counting(term.predictor)) for term in ctrl.terms))
    generator = torch.Generator().manual_seed(0)
    single = replace(ctrl, values_each=1)
    costs = []
    for algorithm in (ctrl, single):
        looked.clear()
        experience = algorithm.collect(
            policy, policy.uncontrolled, algorithm.reward, batch(5), noise_source(generator), generator
        )
        # Both predictors have seen each candidate once.
        assert looked == [60, 60]
        # Candidates of a chain's last step are clean: no estimate of what they lead to is wanted.
        costs.append(
            (
                experience.cost.reward_calls,
                experience.cost.evaluations - 4 * int((experience.steps[:15] < STEPS - 1).sum()),
            )
        )
        rows = 15 * algorithm.values_each
        assert len(experience) == len(experience.condition["y1"]) == rows
        assert experience.extra["usable"].all()
    assert len(experience.condition["y1"][:15].nan_to_num().unique()) <= 5
    # One evaluation more for each state and value.
    assert costs[0] == (costs[1][0], costs[1][1] + 45)


def test_what_is_remembered_is_what_these_samples_are():
    looked = []
    function = Remembering(lambda state: looked.append(len(state)) or state.x.sum(dim=(1, 2)))
    first, second = batch(2, y1=1.0), batch(2, y1=1.0)
    with torch.no_grad():
        assert torch.equal(function(first), function(first.replace(condition=asking(2, 3.0, 4.0))))
        function(second)
        function(first)
    assert looked == [2, 2, 2]
    x = first.x.requires_grad_(True)
    for _ in range(2):
        torch.autograd.grad(function(first.replace(x=x)).sum(), x)
    assert len(looked) == 5


def test_a_chain_that_teaches_four_values_needs_fewer_chains():
    """1,200 chains, and five updates after every 40 of them: how far the two means answer what is asked for."""
    gaps = []
    for values_each in (1, 4):
        inner, found = Rgdm(rollout_sampler(PROCESS, STEPS), 1.0, look_ahead=2), []
        for seed in range(3):
            policy, _ = fit(inner, 30, null_share=0.0, chains=40, updates=5, values_each=values_each, seed=seed)
            low, high = (sample(policy, batch(1000, y1=y, y2=-y)).mean(dim=0) for y in (-1.0, 1.0))
            found.append(float((high - low)[0] - (high - low)[1]) / 2)
        gaps.append(sum(found) / len(found))
    # The posterior's would be 1.6: y and 0.8 of it.
    assert gaps[1] > 0.7
    assert gaps[1] > 1.7 * gaps[0]


def test_what_samples_might_have_been_asked_for_follows_their_predictor():
    """y drawn from p(y | x)^power has that law, and the density that goes with it is its own."""
    state = batch(20_000, y1=0.0).replace(x=torch.full((20_000, 1, 2), 0.7, dtype=torch.float64))
    term = replace(controls()[0], gamma=4.0)
    y, density = term.relabel(state, torch.Generator().manual_seed(0))
    law = torch.distributions.Normal(torch.tensor(0.7).double(), NOISE / 2)
    assert float(y.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(y.std()) == pytest.approx(NOISE / 2, rel=0.03)
    torch.testing.assert_close(density, law.log_prob(y))

    positive = Control.of_values("volume", torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), log=True)
    predicted = (torch.full((20_000,), 3.0, dtype=torch.float64), torch.full((20_000,), 0.3, dtype=torch.float64))
    y, density = positive.draw(predicted, torch.Generator().manual_seed(0))
    assert float(y.log().std()) == pytest.approx(0.1, rel=0.03)
    mask = torch.ones(20_000, 1, dtype=torch.bool)
    asked = State(torch.zeros(20_000, 1, 2, dtype=torch.float64), mask, {"volume": y})
    torch.testing.assert_close(density, positive.log_prob(asked, predicted))

    kind = Control("kind", classes=3)
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64).expand(20_000, 3)
    y, density = kind.draw(logits, torch.Generator().manual_seed(0), scale=2.0, power=3.0)
    expected = (1.5 * logits[0]).softmax(dim=0)
    torch.testing.assert_close(y.bincount(minlength=3) / 20_000, expected, rtol=0, atol=0.015, check_dtype=False)
    torch.testing.assert_close(density, expected.log()[y])


def test_what_cannot_be_predicted_is_asked_for_nothing():
    broken = torch.tensor([0.5, torch.nan, 0.5], dtype=torch.float64)
    term = replace(controls()[0], predictor=lambda state: (broken, torch.ones_like(broken)))
    y, density = term.relabel(batch(3), torch.Generator().manual_seed(0), even_share=0.5)
    assert y.isnan().tolist() == density.isinf().tolist() == [False, True, False]
    y, density = Control("kind", classes=2).draw(
        torch.stack([broken, -broken], dim=1), torch.Generator().manual_seed(0)
    )
    assert (y < 0).tolist() == density.isinf().tolist() == [False, True, False]

    # It has no weight then, and that is counted; what it is is looked at once.
    looked = []
    predictor = lambda state: looked.append(1) or (broken, torch.ones_like(broken))  # noqa: E731
    ctrl = Ctrl(
        RewardWeighted(rollout_sampler(PROCESS, STEPS), 1.0, source="data", draws=2),
        (replace(controls()[0], predictor=predictor),),
    )
    policy, generator = controlled(), torch.Generator().manual_seed(0)
    found = ctrl.collect(policy, policy.uncontrolled, ctrl.reward, batch(3), noise_source(generator), generator)
    assert len(looked) == 1
    assert found.extra["weight"].tolist() == pytest.approx([1.5, 0.0, 1.5] * 2, abs=1e-6)
    assert float(found.metrics["valid"]) == pytest.approx(2 / 3)


def test_rare_outcomes_weigh_as_if_targets_had_been_drawn():
    """Outcomes of samples like the data's, with their weights, have the law of `draw`, whatever share is even."""
    generator = torch.Generator().manual_seed(0)
    outcomes = torch.randn(20_000, generator=generator, dtype=torch.float64)
    sharp = lambda state: (state.x[:, 0, 0], torch.full((len(state),), 0.01, dtype=torch.float64))  # noqa: E731
    term = ControlTerm(Control("y1"), sharp, outcomes)
    state = batch(20_000).replace(x=torch.randn(20_000, 1, 2, generator=generator, dtype=torch.float64))
    y, density = term.relabel(state, generator, even_share=0.7)
    weights = (term.log_prob(state.replace(condition={"y1": y})) - density).exp()
    wanted = term.draw(20_000, generator, even_share=0.7)
    for edge in (-1.5, -0.5, 0.0, 1.0, 2.0):
        found = float(weights[y < edge].sum() / weights.sum())
        assert found == pytest.approx(float((wanted < edge).double().mean()), abs=0.02)


def test_hindsight_gives_the_posterior():
    """Samples of the base, asked for what they turned out to be: the world of `test_several_controls_...`."""
    inner = RewardWeighted(rollout_sampler(PROCESS, STEPS), 1.0, draws=8)
    policy, cost = fit(inner, 120, null_share=0.3, chains=48, updates=5)
    assert cost.evaluations == 48 * 120 * STEPS
    found = divergences(policy)
    assert sum(found) / len(found) < 0.15


def test_hindsight_also_weighs_by_other_rewards():
    """Rewards beside that of the controls are the weights, with every y divided out; each sample is scored once."""
    ctrl = Ctrl(RewardWeighted(rollout_sampler(PROCESS, STEPS), 1.0, source="data", draws=3), controls())
    scored = []

    def other(state: State) -> RewardResult:
        scored.append(len(state))
        return RewardResult(state.x[:, 0, 0], torch.ones(len(state), dtype=torch.bool), {})

    policy = controlled()
    data = batch(50).replace(x=torch.randn(50, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    reward = SummedReward((ctrl.reward, Remembering(other)))
    experience = ctrl.collect(policy, policy.uncontrolled, reward, data, noise_source(generator), generator)
    assert scored == [50]
    assert len(experience) == 150
    # Each of the three times and noises of a sample has another y.
    assert len(experience.condition["y1"].unique()) == 150
    expected = experience.path[:, 0, 0, 0].softmax(dim=0) * 150
    torch.testing.assert_close(experience.extra["weight"], expected)


def test_what_its_inner_method_learns_is_learnt():
    inner = PathConsistency(rollout_sampler(PROCESS, STEPS), balance="detailed", value=ValueNetwork(2))
    assert Ctrl(inner, controls()).trained == inner.trained != ()


def test_calibration_of_a_regressor():
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.zeros(20_000), torch.rand(20_000, generator=generator) + 0.5
    values = 1.7 * std * torch.randn(20_000, generator=generator)
    scale = std_scale(mean, std, values)
    assert scale == pytest.approx(1.7, rel=0.02)
    assert coverage_error(mean, std, values) > 0.1
    assert coverage_error(mean, scale * std, values) < 0.01


def test_calibration_of_a_classifier():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    assert softmax_temperature(3 * logits, labels) == pytest.approx(3.0, rel=0.05)
    assert expected_calibration_error(logits, labels) < 0.015
    assert expected_calibration_error(3 * logits, labels) > 0.1


def test_too_small_a_split_is_refused():
    with pytest.raises(InputError, match="at least 10"):
        std_scale(torch.zeros(3), torch.ones(3), torch.zeros(3))
