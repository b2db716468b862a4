"""Control branches: equal to the base at first and, where nothing is asked, always."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from common.algorithms import PolicyGradient
from common.algorithms.rollout import path_kl, rollout, rollout_sampler
from common.cost import Counted
from common.diffusion import Cosine, Denoiser, Euclidean, Process, SampleNoise, State, V, sample_seeds, size_mask
from common.diffusion.control import Control, ControlledDenoiser, build_controlled
from common.diffusion.embedding import time_features
from common.errors import InputError
from common.rewards import FunctionReward

PROCESS = Process(Cosine(), Euclidean())
CONTROLS = (Control("gap", mean=5.0, std=2.0), Control("family", classes=3))


class Network(nn.Module):
    """A small network with the places that real ones have."""

    control_site = "embed_global"

    def __init__(self) -> None:
        super().__init__()
        self.embed_global = nn.Sequential(nn.Linear(16, 24), nn.SiLU(), nn.Linear(24, 24))
        self.embed_point = nn.Linear(3, 24)
        self.mix = nn.Linear(24, 24)
        self.out = nn.Linear(24, 3)

    def forward(self, x, t, mask, context):
        h = self.embed_point(x) + self.embed_global(time_features(t, 16).to(x.dtype))[:, None]
        return self.out(torch.tanh(self.mix(torch.tanh(h)))) * mask.unsqueeze(-1)


def make(rank: int = 4, site: str | None = None) -> tuple[Denoiser, ControlledDenoiser]:
    torch.manual_seed(0)
    base = Denoiser(Network(), PROCESS, V())
    return base, ControlledDenoiser(base, CONTROLS, rank=rank, site=site)


def states(gap: list[float], family: list[int]) -> tuple[State, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = size_mask(torch.tensor([3, 2, 4, 1][: len(gap)]), 4)
    x = torch.randn(len(gap), 4, 3, generator=generator) * mask.unsqueeze(-1)
    condition = {"gap": torch.tensor(gap), "family": torch.tensor(family)}
    return State(x, mask, condition), torch.linspace(0.1, 0.9, len(gap))


def train(controlled: ControlledDenoiser, steps: int = 5, learning_rate: float = 0.05) -> None:
    state, t = states([4.0, 7.0, 5.0, 6.0], [0, 1, 2, 0])
    optimiser = torch.optim.Adam([p for p in controlled.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (controlled(state, t) - state.condition["gap"][:, None, None]).square().mean().backward()
        optimiser.step()


def test_it_starts_as_its_base_bit_for_bit():
    base, controlled = make()
    state, t = states([4.0, 7.0, torch.nan, torch.nan], [0, -1, 2, -1])
    plain = State(state.x, state.mask)
    assert torch.equal(controlled(plain, t), base(plain, t))
    asked, t_asked = state.index(slice(0, 3)), t[:3]
    assert torch.equal(controlled(asked, t_asked), base(asked, t_asked))


def test_path_divergence_is_zero_and_ratios_are_one_at_step_0():
    _, controlled = make()
    sampler = rollout_sampler(PROCESS, 6)
    batch, _ = states([4.0, 7.0, 5.0, torch.nan], [0, 1, -1, 2])
    chains = rollout(controlled, sampler, batch, SampleNoise(sample_seeds(0, 0, 4)))
    assert not path_kl(controlled.uncontrolled, sampler, chains).any()
    algorithm = PolicyGradient(sampler)
    experience = algorithm.collect(
        controlled, controlled.uncontrolled, FunctionReward(lambda s: s.x.sum(dim=(1, 2))), batch,
        SampleNoise(sample_seeds(0, 0, 4)), torch.Generator(),
    )  # fmt: skip
    for place in range(sampler.steps):
        # Steps in the batches in which they were drawn; other batches round differently.
        rows = torch.arange(4) * sampler.steps + place
        _, metrics = algorithm.loss(controlled, controlled.uncontrolled, experience.index(rows))
        assert float(metrics["ratio_deviation"]) == 0.0
        assert float(metrics["step_kl"]) == 0.0


def test_training_changes_what_is_asked_and_nothing_else():
    base, controlled = make()
    before = copy.deepcopy(base.state_dict())
    train(controlled)
    state, t = states([4.0, 7.0, torch.nan, torch.nan], [0, -1, -1, -1])
    asked = torch.tensor([True, True, False, False])
    found, expected = controlled(state, t), base(state, t)
    assert ((found - expected).abs().amax(dim=(1, 2)) > 1e-3).tolist() == asked.tolist()
    torch.testing.assert_close(found[~asked], expected[~asked], rtol=1e-6, atol=1e-6)
    # The base given away stays as it was, and so does the copy inside.
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(controlled.uncontrolled(state, t), expected)


def test_only_branch_and_adapters_learn():
    _, controlled = make()
    learn = {name for name, parameter in controlled.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("branch.") or name.endswith((".down", ".up")) for name in learn)
    # Rank 4 fits all linear layers but those from and to 3 channels.
    assert sum(name.endswith(".up") for name in learn) == 3
    _, without = make(rank=0)
    assert all(n.startswith("branch.") for n, p in without.named_parameters() if p.requires_grad)


def test_strength():
    base, controlled = make()
    train(controlled)
    state, t = states([4.0, 7.0], [0, 1])
    low, high = base(state, t), controlled(state, t)
    assert torch.equal(controlled.with_strength(0.0)(state, t), low)
    assert torch.equal(controlled.with_strength(1.0)(state, t), high)
    torch.testing.assert_close(controlled.with_strength(1.5)(state, t), low + 1.5 * (high - low))
    for strength, expected in ((0.0, 2), (1.0, 2), (1.5, 4)):
        counted = Counted(controlled.with_strength(strength))
        counted(state, t)
        assert counted.evaluations == expected


def test_values_of_a_control_are_told_apart():
    _, controlled = make()
    train(controlled, 20, 0.003)
    outputs = []
    for gap, family in ((3.0, 0), (7.0, 0), (3.0, 1), (float("nan"), 1)):
        state, t = states([gap], [family])
        outputs.append(controlled(state, t))
    for i in range(4):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().max() > 1e-4


@pytest.mark.parametrize("site", ["embed_global", "embed_point"])
def test_the_site_may_be_a_layer_of_samples_or_of_points(site):
    _, controlled = make(site=site)
    train(controlled)
    state, t = states([4.0, 7.0, 5.0], [0, 1, 2])
    alone = [controlled(state.index(slice(i, i + 1)), t[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), controlled(state, t), rtol=1e-5, atol=1e-5)


def test_settings_and_weights_make_it_again():
    base, controlled = make()
    train(controlled)
    again = build_controlled(base, controlled.settings())
    again.load_state_dict(controlled.state_dict())
    state, t = states([4.0, 7.0], [0, 1])
    assert torch.equal(again(state, t), controlled(state, t))
    assert torch.equal(copy.deepcopy(controlled)(state, t), controlled(state, t))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda base: ControlledDenoiser(base, CONTROLS, site="embed_globe"), "did you mean 'embed_global'"),
        (lambda base: ControlledDenoiser(base, [CONTROLS[0]] * 2), "expected each of them once"),
        (lambda base: ControlledDenoiser(base, [], rank=0), "expected a rank above 0, or controls"),
        (lambda base: ControlledDenoiser(base, CONTROLS, active_from=1.0), "a time from 0 to below 1"),
        (lambda base: build_controlled(base, {"controls": [{"name": "a", "classes": 1}]}), "at least 2"),
        (lambda base: Control("gap", std=0.0), "above 0"),
        (lambda base: Control.of_values("gap", torch.full((9,), 2.0)), "all of its 9 known values are 2, so that"),
    ],
)
def test_unusable_settings_are_named(change, message):
    with pytest.raises(InputError, match=message):
        change(make()[0])


def test_a_class_out_of_range_is_named():
    _, controlled = make()
    state, t = states([4.0], [3])
    with pytest.raises(InputError, match="below 3"):
        controlled(state, t)
