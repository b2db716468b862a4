"""Aggregates, filters and failures: nothing that failed ever wins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from contracts.rewards import assert_reward
from hypothesis import given, settings
from hypothesis import strategies as st

from common.diffusion import State
from common.errors import InputError
from common.rewards import (
    AGGREGATES,
    ComposedReward,
    FunctionReward,
    Measured,
    Objective,
    Quantity,
    RewardResult,
    find_quantity,
    parse,
)

NAN = float("nan")
KNOWN = [Quantity(name=name, tolerance=1.0, bounds=(0.0, 10.0)) for name in "abc"]


def conditions(text):
    return parse(text, lambda name, argument: find_quantity(name, KNOWN))


def combine(text, aggregate="weighted_sum", floor=None, **values):
    table = {name: torch.tensor(column, dtype=torch.float64) for name, column in values.items()}
    return Objective(conditions(text), aggregate, floor).combine([Measured(table)], dtype=torch.float64)


@dataclass(frozen=True)
class Moments:
    """Measures of a state: a = mean square, b = the first value (NaN where negative), c = the number of points."""

    names: tuple[str, ...] = ("a", "b", "c")
    differentiable: bool = False

    def __call__(self, state):
        first = state.x[:, 0, 0]
        values = {
            "a": (state.x**2).mean(dim=(1, 2)),
            "b": torch.where(first < 0, torch.full_like(first, NAN), first),
            "c": state.sizes.to(state.x.dtype),
        }
        return Measured({name: values[name] for name in self.names})


@pytest.fixture
def state():
    x = torch.randn(8, 5, 2, generator=torch.Generator().manual_seed(1))
    x[0, 0, 0], x[2, 0, 0], x[1, 0, 0] = 1.0, 2.0, -1.0
    return State(x, torch.ones(8, 5, dtype=torch.bool))


def test_the_sum_of_targets_is_the_joint_log_likelihood():
    result = combine("a=1±0.5 weight 2, b<3", a=[1.0, 2.0], b=[5.0, 2.0])
    torch.testing.assert_close(result.values, torch.tensor([-0.5 * 4.0, -2 * 0.5 * 4.0], dtype=torch.float64))


def test_the_product_raises_desirabilities_to_their_weights():
    result = combine("maximise a weight 2, maximise b", "product", a=[5.0, 10.0], b=[2.0, 0.0])
    torch.testing.assert_close(result.values, torch.tensor([0.25 * 0.2, 0.0], dtype=torch.float64))


def test_lexicographic_goals_count_in_their_order():
    text = "a=5±1, b>3, maximise c"
    values = {"a": [5.0, 5.5, 9.0, 5.0, 5.0], "b": [4.0, 9.0, 9.0, 2.0, 4.0], "c": [1.0, 8.0, 10.0, 10.0, 3.0]}
    result = combine(text, "lexicographic", **values)
    assert result.values[:2].tolist() == pytest.approx([2.1, 2.8])
    assert 0 < result.values[2] < 1 < result.values[3] < 2 < result.values[4]
    assert result.order().tolist() == [1, 4, 0, 3, 2]
    with pytest.raises(InputError, match="no weights"):
        Objective(conditions("a=5 weight 2"), "lexicographic")


def test_one_failed_part_fails_the_sample_and_nothing_is_averaged_over_the_rest():
    result = combine("maximise a, maximise b", a=[10.0, NAN, 1.0, NAN], b=[NAN, 10.0, 0.5, float("inf")])
    assert result.valid.tolist() == [False, False, True, False]
    assert result.values.isnan().tolist() == [True, True, False, True]
    assert result.failures == {"a: not finite": 2, "b: not finite": 2}
    assert result.parts["a"][0] == 10
    assert result.parts["b"].isnan().tolist() == [True, False, False, True]
    assert result.order()[0] == 2


rows = st.lists(st.tuples(*[st.one_of(st.floats(-50, 50), st.sampled_from([NAN, float("inf")]))] * 2), min_size=1)


@settings(deadline=None)
@given(rows, st.sampled_from(sorted(AGGREGATES)), st.one_of(st.none(), st.floats(-100, 100)))
def test_a_failure_never_beats_a_success(rows, aggregate, floor):
    a, b = zip(*rows, strict=True)
    result = combine("a=5±2, maximise b", aggregate, floor, a=list(a), b=list(b))
    failed, succeeded = result.values[~result.valid], result.values[result.valid]
    assert torch.isfinite(succeeded).all()
    if floor is None:
        assert failed.isnan().all()
    elif len(failed) and len(succeeded):
        assert failed.max() <= succeeded.min()
    assert result.valid[result.order()].tolist() == sorted(result.valid.tolist(), reverse=True)
    assert (result.n_failed > 0) == bool(result.failures)


def test_when_everything_failed_nothing_is_best():
    result = combine("maximise a", "product", a=[NAN, NAN])
    assert not result.valid.any()
    assert result.mean().isnan()
    assert combine("maximise a", "product", -1.0, a=[NAN, NAN]).values.tolist() == [-1, -1]


def test_filters_make_samples_invalid_and_are_counted_apart_from_failures():
    result = combine("maximise a, require b>3", a=[1.0, 2.0, 3.0, NAN], b=[4.0, 2.0, NAN, 1.0])
    assert result.valid.tolist() == [True, False, False, False]
    assert result.failures == {"a: not finite": 1, "b: not finite": 1, "does not meet 'require b>3'": 1}


def test_a_measured_quantity_without_aim_fails_nobody():
    result = combine("maximise a, b", a=[1.0], b=[NAN])
    assert result.valid.all()
    assert result.parts["b"].isnan().all()


def test_reasons_of_a_measure_are_not_counted_twice():
    measured = Measured({"a": torch.tensor([NAN, NAN, 1.0])}, {"a: time limit": 1})
    assert Objective(conditions("maximise a")).combine([measured]).failures == {"a: time limit": 1, "a: not finite": 1}


@pytest.mark.parametrize("floor", [None, -3.0])
@pytest.mark.parametrize("aggregate", sorted(AGGREGATES))
def test_composed_rewards_keep_the_contract(state, aggregate, floor):
    reward = ComposedReward(Objective(conditions("a=1, maximise b, c"), aggregate, floor), [Moments()])
    assert not reward.differentiable
    assert_reward(reward, state, floor)
    assert reward(state).n_failed == int((state.x[:, 0, 0] < 0).sum()) > 0


def test_differentiable_measures_give_a_differentiable_reward(state):
    smooth = Moments(("a",), differentiable=True)
    reward = ComposedReward(Objective(conditions("a=1, require c>2")), [smooth, Moments(("c",))], example=state)
    assert reward.differentiable
    assert_reward(reward, state)
    # Its measure is differentiable, its filter need not be; with an aim on the other one it is not.
    mixed = Objective(conditions("a=1, maximise c"))
    assert not ComposedReward(mixed, [smooth, Moments(("c",))], example=state).differentiable


def test_a_failed_sample_spoils_no_gradient(state):
    reward = ComposedReward(Objective(conditions("a=1, maximise b")), [Moments(("a", "b"), True)], example=state)
    assert_reward(reward, state)


def test_what_is_not_differentiable_is_found_out_at_construction(state):
    for names, message in ((("c",), "autograd does not reach"), (("a",), "give example")):
        with pytest.raises(InputError, match=message):
            ComposedReward(
                Objective(conditions(f"maximise {names[0]}")), [Moments(names, True)], state if "c" in names else None
            )
    make = partial(FunctionReward, differentiable=True, example=state)
    assert_reward(make(lambda s: s.x.sin().sum(dim=(1, 2))), state)
    with pytest.raises(InputError, match="gradient is zero"):
        make(lambda s: 0 * s.x.sum(dim=(1, 2)))
    with pytest.raises(InputError, match="autograd does not reach"):
        make(lambda s: s.x.detach().sum(dim=(1, 2)))
    with pytest.raises(InputError, match="gradient is not finite"):
        make(lambda s: (s.x - s.x.detach()).abs().sqrt().sum(dim=(1, 2)))
    with pytest.raises(InputError, match="scores no sample"):
        make(lambda s: s.x.sum(dim=(1, 2)) * NAN)


def test_function_rewards_of_the_wrong_shape_are_errors(state):
    with pytest.raises(ValueError, match=r"gave \(8, 5\).*expected a float tensor \(8,\)"):
        FunctionReward(lambda s: s.x.sum(dim=2))(state)
    with pytest.raises(ValueError, match="gave float"):
        FunctionReward(lambda s: 1.0)(state)
    assert_reward(FunctionReward(lambda s: s.x[:, 0, 0].log()), state)


def test_construction_refuses_what_cannot_work(state):
    with pytest.raises(InputError, match="did you mean 'product'"):
        Objective(conditions("maximise a"), "prodcut")
    with pytest.raises(InputError, match="finite number"):
        Objective(conditions("maximise a"), floor=NAN)
    with pytest.raises(InputError, match="nothing measures b; measured: a"):
        ComposedReward(Objective(conditions("maximise a, b")), [Moments(("a",))])
    unbounded = [Quantity(name="energy", unit="eV")]
    aims = parse("maximise energy", lambda name, argument: find_quantity(name, unbounded))
    with pytest.raises(InputError, match="give one: 'maximise energy from LOW to HIGH'"):
        Objective(aims, "product")


def test_results_that_contradict_themselves_are_errors():
    with pytest.raises(ValueError, match="expected"):
        RewardResult(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        RewardResult(torch.tensor([NAN]), torch.tensor([True]))
