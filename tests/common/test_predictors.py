"""Predictors of any domain: what they learn from, what they say, how honest it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.diffusion import State
from common.errors import InputError
from common.predictors import ModelPredictor, Output, find_output
from common.predictors.evaluation import Labels, calibrate, fit_outputs, quality
from common.training.predictor import CLASS_INDEX, VALUES, Supervised

OUTPUTS = (Output("height_m", "m", 2.0, 0.5, 0.0, 4.0), Output("heat_w", "W", 0.0, 10.0, -30.0, 30.0))


class Told(nn.Module):
    """Says what stands in the first point: two means, two spreads, three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, mask):
        told = self.gain * x[:, 0]
        return torch.stack([told[:, :2], told[:, 2:4]], dim=-1), told[:, 4:7]


def state_of(means, spreads, logits) -> State:
    """Means (M, 2) and standard deviations (M, 2), standardised, and logits (M, 3), as `Told` reads them."""
    raw = torch.log(torch.expm1(torch.as_tensor(spreads) - 1e-3))
    x = torch.cat([torch.as_tensor(means), raw, torch.as_tensor(logits)], dim=1)[:, None].float()
    return State(x, torch.ones(len(x), 1, dtype=torch.bool))


@pytest.fixture(scope="module")
def overconfident():
    """A predictor that claims half of its error in the first property and twice in the second; states and labels."""
    rng = np.random.default_rng(0)
    means, claimed = rng.normal(size=(4000, 2)), rng.uniform(0.2, 0.6, (4000, 2))
    true = means + claimed * [2.0, 0.5] * rng.normal(size=(4000, 2))
    logits = 4 * rng.normal(size=(4000, 3))
    share = np.exp(logits / 4) / np.exp(logits / 4).sum(axis=1, keepdims=True)
    classes = (rng.random((4000, 1)) > share.cumsum(axis=1)).sum(axis=1)
    values = np.array([2.0, 0.0]) + np.array([0.5, 10.0]) * true
    predictor = ModelPredictor(Told(), OUTPUTS, ("a", "b", "c"))
    return predictor, state_of(means, claimed, logits), Labels(values, classes)


def test_predictions_are_in_units_whatever_the_number_of_samples(overconfident):
    predictor, state, _ = overconfident
    found = predictor(state.index(slice(0, 600)))
    torch.testing.assert_close(found.mean[:, 0], 2.0 + 0.5 * state.x[:600, 0, 0])
    torch.testing.assert_close(found.mean[:, 1], 10.0 * state.x[:600, 0, 1])
    one = predictor(state.index(slice(599, 600)))
    torch.testing.assert_close(one.std, found.std[599:])
    assert predictor(state.index(slice(0, 0))).mean.shape == (0, 2)


def test_calibration_finds_the_scales_and_quality_shows_that_it_did(overconfident):
    predictor, state, labels = overconfident
    first, second = (np.arange(2000), np.arange(2000, 4000))
    calibrated = calibrate(predictor, [state.index(torch.from_numpy(first))], labels.select(first))
    assert [output.std_scale for output in calibrated.outputs] == pytest.approx([2.0, 0.5], rel=0.06)
    assert calibrated.temperature == pytest.approx(4.0, rel=0.2)
    held_out = [state.index(torch.from_numpy(second))]
    before = quality(predictor, held_out, labels.select(second), labels.select(first))
    after = quality(calibrated, held_out, labels.select(second), labels.select(first))
    for name in ("height_m", "heat_w"):
        assert before[name]["coverage_error"] > 0.1
        assert after[name]["coverage_error"] < 0.03
        assert after[name]["coverage_68"] == pytest.approx(0.683, abs=0.03)
        assert after[name]["mae"] == before[name]["mae"] < after[name]["constant_mae"]
    assert after["class"]["calibration_error"] < 0.05 < before["class"]["calibration_error"]
    assert after["class"]["accuracy"] > after["class"]["constant_accuracy"]


def test_a_translation_that_knows_nothing_of_a_sample_gives_no_number(overconfident):
    _, state, _ = overconfident
    known = torch.tensor([True, False, True])
    predictor = ModelPredictor(Told(), OUTPUTS, ("a", "b", "c"), translate=lambda s: (s, known))
    x = state.x[:3].clone().requires_grad_()
    found = predictor(State(x, state.mask[:3]))
    for values in (found.mean, found.std, found.logits):
        assert values.isnan().all(dim=1).tolist() == [False, True, False]
    found.mean[0].sum().backward()
    assert torch.isfinite(x.grad).all()


def test_outputs_are_fitted_to_what_is_known_and_left():
    rng = np.random.default_rng(1)
    explained = rng.normal(size=(500, 2))
    values = explained + [3.0, 3.0] + [0.5, 0.2] * rng.normal(size=(500, 2))
    values[::3, 0] = np.nan
    one, two = fit_outputs(["a_m", "b"], ["m", ""], values, explained, [True, False])
    assert (one.centre, one.scale) == pytest.approx((3.0, 0.5), rel=0.1)
    assert (two.centre, two.scale) == pytest.approx((0.0, 0.2), rel=0.1)
    assert one.low == np.nanmin(values[:, 0])
    for bad in (np.where(np.arange(500)[:, None] < 9, values, np.nan), np.ones((500, 2))):
        with pytest.raises(InputError, match=r"b has \d+ training values.*expected at least 10 that differ"):
            fit_outputs(["b"], [""], bad[:, 1:], 0 * bad[:, 1:], [True])


def test_names_without_their_unit_are_understood_where_they_are_clear():
    outputs = [Output(name, "", 0, 1, 0, 1) for name in ("gap_ev", "inertia_small_m5", "inertia_large_m5", "logS")]
    known = [output.name for output in outputs]
    assert [find_output(outputs, name, known) for name in ("gap", "GAP_EV", "inertia_large", "logs")] == [0, 0, 2, 3]
    for vague in ("inertia", "ga", "volume"):
        with pytest.raises(InputError, match="this predictor knows no"):
            find_output(outputs, vague, known)


def test_missing_labels_teach_nothing_and_the_rest_as_if_they_were_alone():
    generator = torch.Generator().manual_seed(0)
    state = state_of(torch.randn(6, 2, generator=generator), torch.full((6, 2), 0.4), torch.zeros(6, 3))
    values = torch.randn(6, 2, generator=generator)
    values[2:, 1] = torch.nan
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    network, algorithm = Told(), Supervised((0.0,) * 7)

    def loss(rows, wanted):
        batch = State(state.x[rows], state.mask[rows], {VALUES: wanted[rows], CLASS_INDEX: classes[rows]})
        experience = algorithm.collect(None, None, None, batch, None, torch.Generator())
        return algorithm.loss(network, None, experience)

    total, parts = loss(slice(0, 6), values)
    z, std = state.x[:, 0, :2], 0.4
    each = std * (0.5 * ((values - z) / std) ** 2 + np.log(std))
    assert float(parts["likelihood"]) == pytest.approx(float(each[torch.isfinite(values)].mean()), rel=1e-4)
    assert float(parts["cross_entropy"]) == pytest.approx(np.log(3), rel=1e-5)
    total.backward()
    assert torch.isfinite(network.gain.grad)


def test_noise_has_every_strength_up_to_the_one_given_and_spares_the_padding():
    mask = torch.ones(2000, 4, dtype=torch.bool)
    mask[:, 3] = False
    batch = State(torch.zeros(2000, 4, 3), mask)
    experience = Supervised((0.5, 0.5, 0.0)).collect(None, None, None, batch, None, torch.Generator().manual_seed(0))
    x = experience.state(-1).x
    assert (x[:, 3] == 0).all()
    assert (x[..., 2] == 0).all()
    # The square of a uniform strength is a third on average.
    assert float(x[:, :3, :2].square().mean()) == pytest.approx(0.25 / 3, rel=0.1)
