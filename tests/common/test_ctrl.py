"""CTRL: calibrated predictors, the reward that they make, and the posterior that it leads to."""

from __future__ import annotations

import math

import pytest
import torch
from contracts.oracle import GaussianLaw
from contracts.rewards import assert_reward
from contracts.worlds import SCHEDULE, noise_source
from torch import nn

from common.algorithms import Backprop, Ctrl, PolicyGradient
from common.algorithms.ctrl import ControlReward, ControlTerm
from common.algorithms.path_consistency import PathConsistency, ValueNetwork
from common.algorithms.rollout import rollout_sampler
from common.diffusion import X0, Denoiser, Euclidean, Process, State
from common.diffusion.control import Control, ControlledDenoiser
from common.diffusion.embedding import time_features
from common.errors import InputError
from common.predictors.calibration import coverage_error, expected_calibration_error, softmax_temperature, std_scale

PROCESS = Process(SCHEDULE, Euclidean())
LAW = GaussianLaw(PROCESS, torch.zeros(1, 2, dtype=torch.float64), 0.8)
NOISE = 0.4
STEPS = 12


class AnalyticNetwork(nn.Module):
    """The analytic denoiser of LAW, and a head that is zero, for adapters to fill."""

    control_site = "embed_global"

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed_global = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.head = nn.Linear(width, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x, t, mask, context):
        h = torch.tanh(self.embed_global(time_features(t, 16).to(x.dtype)))
        shift, gain = self.head(h)[:, None].chunk(2, dim=-1)
        return LAW(State(x, mask), t) + (shift + gain * x)


def controls() -> tuple[ControlTerm, ...]:
    """y1 of channel 0 and y2 of channel 1, each seen with noise on a set of its own."""
    terms = []
    for channel in (0, 1):

        def predict(state: State, channel: int = channel) -> tuple[torch.Tensor, torch.Tensor]:
            mean = state.x[:, 0, channel]
            return mean, torch.full_like(mean, NOISE / 2)

        seen = torch.randn(500, generator=torch.Generator().manual_seed(channel), dtype=torch.float64)
        # The predictor claims half its std; scale 2 is its calibration.
        terms.append(ControlTerm(Control(f"y{channel + 1}"), predict, seen, scale=2.0))
    return tuple(terms)


def batch(count: int, **asked: float) -> State:
    condition = {name: torch.full((count,), value, dtype=torch.float64) for name, value in asked.items()}
    return State(
        torch.zeros(count, 1, 2, dtype=torch.float64), torch.ones(count, 1, dtype=torch.bool), condition
    )  # fmt: skip


def sample(denoiser, state: State, seed: int = 0) -> torch.Tensor:
    sampler = rollout_sampler(PROCESS, STEPS)
    noise = noise_source(torch.Generator().manual_seed(seed))
    return sampler.sample(denoiser, state.mask, 2, noise, state.condition).x[:, 0]


def fit(inner, iterations: int, null_share: float) -> ControlledDenoiser:
    torch.manual_seed(0)
    base = Denoiser(AnalyticNetwork().double(), PROCESS, X0())
    ctrl = Ctrl(inner, controls(), null_share=null_share)
    policy = ControlledDenoiser(base, [term.control for term in ctrl.terms], rank=4)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        experience = ctrl.collect(
            policy, policy.uncontrolled, ctrl.reward, batch(192), noise_source(generator), generator
        )
        loss, _ = ctrl.loss(policy, policy.uncontrolled, experience)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return policy


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_several_controls_from_separate_sets_give_the_posterior():
    """p(x | y1, y2) and p(x | y1): the Bayes posteriors of a Gaussian, from one model.

    In nats a channel, the base is 0.4 to 1.5 away from the posterior. Of the 0.15 that are allowed, most is for the
    channel that nobody asks for: it weighs least in the objective and is the last to be learnt.
    """
    policy = fit(Backprop(rollout_sampler(PROCESS, STEPS), checkpointed=False), 350, null_share=0.3)
    base = float(sample(policy, batch(20_000)).var())
    # Bayes of the base's chain.
    slope, posterior = base / (base + NOISE**2), base * NOISE**2 / (base + NOISE**2)
    for asked in ({"y1": 0.8, "y2": -0.6}, {"y1": -0.8, "y2": 0.5}, {"y1": 0.7}):
        x = sample(policy, batch(6000, **asked))
        for channel, name in enumerate(("y1", "y2")):
            mean = slope * asked.get(name, 0.0)
            variance = posterior if name in asked else base
            ratio = float(x[:, channel].var()) / variance
            gap = float(x[:, channel].mean()) - mean
            assert abs(gap) < 0.1
            assert 0.5 * (ratio - 1 - math.log(ratio)) + gap**2 / (2 * variance) < 0.15


def test_nothing_asked_is_the_base_after_training():
    policy = fit(PolicyGradient(rollout_sampler(PROCESS, STEPS)), 3, null_share=0.3)
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
