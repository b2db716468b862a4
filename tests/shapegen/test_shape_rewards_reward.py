"""`ShapeReward`: algorithms see states only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts.rewards import assert_reward
from contracts.shape_cases import box, points_on, solid

from common.diffusion import State, size_mask
from common.errors import InputError
from shapegen.data.codec import ShapeCodec
from shapegen.rewards.reward import CloudMeasure, ShapeReward, measure_of
from shapegen.rewards.table import REWARDS, find_scorer

CODEC = ShapeCodec((0.01, -0.02, 0.08), 0.05)
METRIC = ShapeCodec((0.01, -0.02, 0.08), 0.05, unit="m")
CENTIMETRES = ShapeCodec((1.0, -2.0, 8.0), 5.0, unit="cm")


def state_of(*clouds: np.ndarray) -> State:
    """Ragged clouds in metres as states of `METRIC`."""
    mask = size_mask(torch.tensor([len(cloud) for cloud in clouds]))
    x = torch.zeros(*mask.shape, 3)
    for row, cloud in zip(x, clouds, strict=True):
        row[: len(cloud)] = torch.from_numpy((cloud - METRIC.centre) / METRIC.scale)
    return State(x, mask)


@pytest.fixture(scope="module")
def state() -> State:
    return state_of(
        points_on(box(), 64), points_on(solid("bolt"), 80), points_on(box(height=0.1), 64), np.zeros((64, 3))
    )


def test_the_contract_with_gradients_filters_and_failures(state):
    spec = ["volume=1e-3±2e-4, maximise stability weight 20", "require aspect_ratio>1.2"]
    with ShapeReward(METRIC, spec) as reward:
        assert "weighted_sum of volume_m3 = 0.001 ± 0.0002 m^3; maximise stability_margin_m (m)" in str(reward)
        assert reward.differentiable
        assert_reward(reward, state)
        result = reward(state)
    assert result.valid.tolist() == [True, True, False, False]
    assert result.failures["does not meet 'require aspect_ratio>1.2'"] == 1
    volume, margin = result.parts["volume_m3"], result.parts["stability_margin_m"]
    torch.testing.assert_close(result.values[:2], (-0.5 * ((volume - 1e-3) / 2e-4) ** 2 + 20 * margin)[:2])


def test_a_reward_with_a_mesh_has_no_gradient_and_a_filter_leaves_it(state):
    with ShapeReward(METRIC, "maximise mesh_volume, require components=1", workers=1) as reward:
        assert not reward.differentiable
        result = reward(state)
        assert result.valid.tolist() == [True, True, True, False]
        assert result.parts["mesh_volume_m3"][0] == pytest.approx(0.0012, rel=0.2)
    with ShapeReward(METRIC, "height=0.2±0.01, require components=1", workers=1) as reward:
        assert reward.differentiable


def test_metres_are_metres_whatever_the_unit_of_the_model(state):
    in_metres = measure_of("volume", METRIC)(state).values["volume_m3"]
    in_centimetres = measure_of("volume", CENTIMETRES)(state).values["volume_m3"]
    torch.testing.assert_close(in_metres, in_centimetres, equal_nan=True, rtol=1e-2, atol=0)
    measure = measure_of("mesh_volume", CENTIMETRES, workers=1)
    found = measure(state.index(torch.tensor([0]))).values["mesh_volume_m3"]
    measure.close()
    assert found.item() == pytest.approx(0.0012, rel=0.2)


def test_a_model_without_a_unit_has_ratios_and_no_metres(state):
    with ShapeReward(CODEC, "aspect_ratio=2±0.1") as reward:
        assert reward(state).parts["aspect_ratio"][0] == pytest.approx(2, rel=0.1)
    message = "height_m is in m, but the model's shapes have no unit of length; aim at a ratio"
    with pytest.raises(InputError, match=message):
        ShapeReward(CODEC, "height=0.2±0.01")
    with pytest.raises(InputError, match=message):
        measure_of("height", CODEC)
    erased = ShapeCodec(mode="per_shape")
    with pytest.raises(InputError, match=r"size was normalised away \(per_shape\)"):
        ShapeReward(erased, "maximise volume")


def test_the_same_values_in_low_precision_and_with_few_points(state):
    measure = CloudMeasure(METRIC, (REWARDS["volume_m3"],))
    plain = measure(state).values["volume_m3"]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(measure(state).values["volume_m3"], plain, equal_nan=True)
    few = State(state.x[:, :20], state.mask[:, :20])
    assert measure(few).values["volume_m3"].isnan().all()


def test_what_is_shared_is_found_once(state, monkeypatch):
    from shapegen.rewards.solid import Solid

    calls = []
    original = Solid.of_cloud
    monkeypatch.setattr(Solid, "of_cloud", classmethod(lambda cls, cloud: calls.append(1) or original(cloud)))
    names = ("volume", "fill", "centre_height", "elongation", "stability")
    CloudMeasure(METRIC, tuple(find_scorer(name) for name in names))(state)
    assert len(calls) == 1


def test_nothing_to_aim_at_is_refused():
    with pytest.raises(InputError, match="nothing to aim at"):
        ShapeReward(METRIC, "volume, require components=1")
    with pytest.raises(InputError, match="give one: 'maximise volume_m3 from LOW to HIGH'"):
        ShapeReward(METRIC, "maximise volume", aggregate="product")
