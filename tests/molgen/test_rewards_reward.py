"""`MoleculeReward`: algorithms see states only."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from contracts.chemistry_cases import METHANE, TWO_WATERS, WATER, molecule_set
from contracts.rewards import assert_reward

from common.errors import InputError
from common.rewards import Measured
from molgen.data.codec import MoleculeCodec
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.rewards import table
from molgen.rewards.geometry import GyrationRadius
from molgen.rewards.reward import MoleculeReward, passing
from molgen.rewards.table import REWARDS

CODEC = MoleculeCodec((1, 6, 7, 8, 9), coordinate_scale=0.5)


@pytest.fixture(scope="module")
def molecules() -> MoleculeSet:
    return MoleculeSet.concatenate([load().select(range(3)), molecule_set(WATER, TWO_WATERS, METHANE)])


def test_the_contract_with_workers_filters_and_failures(molecules):
    spec = ["gap=8±2 eV, maximise qed weight 2", "require valid"]
    with MoleculeReward(CODEC, spec, workers=1) as reward:
        assert "weighted_sum of gap_ev = 8 ± 2 eV; maximise qed from 0 to 1, weight 2" in str(reward)
        state = CODEC.encode(molecules)
        assert_reward(reward, state)
        result = reward(state)
    assert result.valid.tolist() == [True, True, True, True, False, True]
    assert result.failures == {"qed: no bonds, disconnected": 1}
    gap, qed = result.parts["gap_ev"], result.parts["qed"]
    assert gap.dtype == torch.float64
    expected = -0.5 * ((gap - 8) / 2) ** 2 + 2 * qed
    torch.testing.assert_close(result.values[:4], expected[:4].float())


def test_filters_choose_molecules(molecules):
    assert passing(molecules, ["require valid"], workers=1).tolist() == [0, 1, 2, 3, 5]
    assert passing(molecules, ["forbid valid"], workers=1).tolist() == [4]
    # What cannot be measured meets nothing.
    assert passing(molecules, ["require mol_weight>17", "forbid stable"], workers=1).tolist() == []
    assert passing(molecules, ["require mol_weight>17, require valid"], workers=1).tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="got 'maximise qed', expected filters alone"):
        passing(molecules, ["maximise qed"])
    with pytest.raises(InputError, match="expected one by a scorer that takes molecules alone"):
        passing(molecules, ["require gyration_radius>1"])


def test_a_floor_in_place_of_nan(molecules):
    with MoleculeReward(CODEC, "maximise qed", floor=0.4, aggregate="product", workers=1) as reward:
        assert_reward(reward, CODEC.encode(molecules), floor=0.4)


def test_a_differentiable_reward_of_states(molecules):
    with MoleculeReward(CODEC, "gyration_radius=1.5±0.3, require stable", workers=1) as reward:
        assert reward.differentiable
        assert_reward(reward, CODEC.encode(molecules))
    with MoleculeReward(CODEC, "gyration_radius=1.5±0.3, maximise atom_stability", workers=1) as reward:
        assert not reward.differentiable


def test_the_gyration_radius_is_right_and_ignores_padding():
    two = MoleculeSet.from_molecules([([6, 6], [[0, 0, 0], [0, 0, 3.0]]), ([6], [[0, 0, 0.0]]), ([], [])])
    values = GyrationRadius(CODEC)(CODEC.encode(two, n_points=5)).values["gyration_radius_angstrom"]
    torch.testing.assert_close(values, torch.tensor([1.5, 0.0, torch.nan]), equal_nan=True)


def test_a_network_is_one_more_row(molecules, monkeypatch):
    """What a learned predictor does: measures of states, with gradients, on the state's device."""

    @dataclasses.dataclass(frozen=True)
    class Predictor:
        codec: MoleculeCodec
        names: tuple[str, ...] = ("predicted_gap_ev",)
        differentiable: bool = True

        def __call__(self, state):
            return Measured({"predicted_gap_ev": (state.x**2).sum(dim=(1, 2)) * state.sizes})

    row = dataclasses.replace(
        REWARDS["gyration_radius_angstrom"], name="predicted_gap_ev", unit="eV", aliases=(), on_states=Predictor
    )
    monkeypatch.setitem(table.REWARDS, row.name, row)
    with MoleculeReward(CODEC, "predicted_gap_ev=20±5 eV, gyration_radius<2") as reward:
        assert reward.differentiable
        assert_reward(reward, CODEC.encode(molecules))
    blind = dataclasses.replace(row, on_states=lambda codec: Blind())
    monkeypatch.setitem(table.REWARDS, row.name, blind)
    with pytest.raises(InputError, match="autograd does not reach"):
        MoleculeReward(CODEC, "predicted_gap_ev=20±5 eV")


class Blind:
    """Declares a gradient that it cuts off."""

    names = ("predicted_gap_ev",)
    differentiable = True

    def __call__(self, state):
        return Measured({"predicted_gap_ev": state.x.detach().sum(dim=(1, 2))})


def test_nothing_to_aim_at_is_refused_before_any_worker_starts():
    with pytest.raises(InputError, match="nothing to aim at"):
        MoleculeReward(CODEC, "gap, require valid")
    with pytest.raises(InputError, match="give one: 'maximise gap_ev from LOW to HIGH'"):
        MoleculeReward(CODEC, "maximise gap", aggregate="product")
