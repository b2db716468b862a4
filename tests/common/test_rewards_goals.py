"""Goals as functions: bounds, signs, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.rewards import Category, Maximise, Range, Target

finite = st.floats(-1e3, 1e3)
GOALS = (
    Target(4.5, 0.2), Target(4.5, 0.2, relative=True), Range(None, 70, 1.0), Range(4, None, 2.0), Range(4, 5, 0.1),
    Range(4, 5, 0.1, relative=True), Category("b", 1),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=5))
def test_scores_are_at_most_zero_and_desirabilities_from_zero_to_one(values):
    values = torch.tensor(values, dtype=torch.float64)
    for goal in GOALS:
        assert (goal.score(values) <= 0).all()
    for goal in (*GOALS, Maximise(1, 2, 6), Maximise(-1, 2, 6)):
        desirability = goal.desirability(values)
        assert ((desirability >= 0) & (desirability <= 1)).all()
        assert (desirability[goal.met(values)] > 0.6).all()


def test_a_target_is_a_gaussian_log_likelihood():
    values = torch.tensor([4.1, 4.3, 4.5, 4.7], dtype=torch.float64, requires_grad=True)
    goal = Target(4.5, 0.2)
    exact = torch.distributions.Normal(4.5, 0.2).log_prob(values)
    torch.testing.assert_close(goal.score(values), exact - exact[2])
    (gradient,) = torch.autograd.grad(goal.score(values).sum(), values)
    torch.testing.assert_close(gradient, (4.5 - values) / 0.04)
    assert goal.met(values).tolist() == [False, True, True, True]


def test_a_range_is_flat_inside_and_a_target_outside():
    values = torch.tensor([3.0, 4.0, 4.5, 5.0, 5.1], dtype=torch.float64)
    expected = [Target(4, 0.5).score(values)[0], 0, 0, 0, Target(5, 0.5).score(values)[4]]
    torch.testing.assert_close(Range(4, 5, 0.5).score(values), torch.tensor(expected, dtype=torch.float64))
    assert Range(4, 5).met(values).tolist() == [False, True, True, True, False]


def test_a_relative_tolerance_counts_ratios():
    values = torch.tensor([0.5, 1.0, 1.9, 2.0, 2.2, 4.0], dtype=torch.float64, requires_grad=True)
    goal = Target(2.0, 0.1, relative=True)
    exact = torch.distributions.Normal(math.log(2.0), math.log(1.1)).log_prob(values.log())
    torch.testing.assert_close(goal.score(values), exact - exact[3])
    assert goal.met(values).tolist() == [False, False, True, True, True, False]
    (gradient,) = torch.autograd.grad(goal.score(values).sum(), values)
    assert gradient.sign().tolist() == [1, 1, 1, 0, -1, -1]
    assert torch.equal(Range(2.0, 3.0, 0.1, relative=True).score(values)[:3], goal.score(values)[:3])
    # Nothing is a positive quantity's share of nothing: as bad as can be, and a number.
    assert goal.score(torch.tensor([0.0, -1.0])).unique().tolist() == [pytest.approx(-10506, rel=1e-3)]


def test_maximise_is_the_value_or_its_place_on_a_scale():
    values = torch.tensor([1.0, 2.0, 4.0, 6.0, 9.0])
    assert torch.equal(Maximise(1).score(values), values)
    assert torch.equal(Maximise(-1).score(values), -values)
    assert Maximise(1, 2, 6).score(values).tolist() == [0, 0, 0.5, 1, 1]
    assert Maximise(-1, 2, 6).score(values).tolist() == [1, 1, 0.5, 0, 0]
    assert Maximise(-1, 2, 6).met(values).tolist() == [True, True, False, False, False]
    with pytest.raises(InputError, match="no scale from 0 to 1"):
        Maximise(1).desirability(values)


def test_goals_without_their_settings_are_refused():
    for goal in (Target(1.0), Range(1.0, None), Category("b")):
        with pytest.raises(InputError, match="lacks its tolerance"):
            goal.score(torch.zeros(1))
