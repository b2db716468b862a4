"""Fine-tuning by the one trainer on a toy: every method climbs, stops, resumes bit for bit, and is watched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.algorithms import ALGORITHMS
from common.algorithms.ctrl import ControlTerm
from common.diffusion import Cosine, Denoiser, Euclidean, Process, Sampler, State, V
from common.diffusion.control import Control, asked_for
from common.errors import IncompleteError, InputError
from common.rewards import FunctionReward, Reward, RewardResult
from common.training.callbacks import Measurements, WarmedEMA
from common.training.finetune import Method, Policies, finetune, policies, reward_of
from common.training.fit import FitConfig, FitResult
from common.training.module import Pieces
from common.training.optimiser import OptimiserConfig
from common.training.task import Check, Prompt, _summary, prompts
from common.training.watch import Guard, Watch

PROCESS = Process(Cosine(), Euclidean())
GOAL = 0.8


class Network(nn.Module):
    """A small network for each point; `embed` is where a control enters.

    It starts with v = 0, the exact denoiser of standard Gaussian data.
    """

    control_site = "embed"

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(1, 16))
        last = nn.Linear(32, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.inner = nn.Sequential(nn.Linear(18, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), last)

    def forward(self, x, t, mask, context):
        time = self.embed(t[:, None])[:, None].expand(-1, x.shape[1], -1)
        return self.inner(torch.cat([x, time], dim=-1)) * mask.unsqueeze(-1)


def base() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(Network(), PROCESS, V())


class Near:
    """-(x - 0.8)^2 of the points' mean; what lies beyond 5 cannot be scored."""

    differentiable = True

    def __call__(self, state: State) -> RewardResult:
        middle = state.x.mean(dim=(1, 2))
        valid = middle.abs() < 5
        values = torch.where(valid, -(middle - GOAL).square(), torch.full_like(middle, torch.nan))
        return RewardResult(values, valid, {"middle": middle.detach()})


@dataclass
class Toy:
    """A `Task` of two points on a plane."""

    model: Any = None
    guards: tuple[Guard, ...] = ()
    n_channels: int = 2
    sampler: Sampler = field(default_factory=lambda: Sampler(PROCESS, steps=8))

    def prompt(self, seed: int, start: int, count: int) -> Prompt:
        return Prompt(np.full(count, 2))

    def data(self, batch_size: int, seed: int, labels: Sequence[str] = ()):
        def source(start, rank, world_size):
            for step in count(start):
                x = torch.randn(batch_size, 2, 2, generator=torch.Generator().manual_seed(step))
                yield State(x, torch.ones(batch_size, 2).bool(), {name: x.mean(dim=(1, 2)) for name in labels})

        return source

    def quality(self, states):
        return {"spread": float(torch.cat([state.x for state in states]).std())}


def run(
    directory: Path, method: Method, steps: int = 4, *, terms: tuple[ControlTerm, ...] = (), chunk: int = 0,
    minibatch: int = 0, batch_size: int = 16, learning_rate: float = 1e-2, early_stop: bool = False,
    reward: Reward | None = None,
    guards: tuple[Guard, ...] = (), rank: int = 2, resume: bool = False, **config: Any,
) -> tuple[Policies, FitResult, Check]:  # fmt: skip
    active_from = 0.3 if rank else 0.0
    pair = policies(base(), terms, rank=rank, active_from=active_from)
    algorithm = replace(method, active_from=active_from).algorithm(PROCESS, 2, terms)
    task = Toy()
    reward = reward if terms or reward is not None else Near()
    check = Check(
        task, reward_of(algorithm, reward), pair.reference, algorithm.sampler, terms, count=32, divergence_count=8
    )  # type: ignore[arg-type]
    result = finetune(
        pair, algorithm, reward,
        task.data(batch_size, 0, [term.control.name for term in terms]) if algorithm.needs_data
        else prompts(task, batch_size, 0),  # type: ignore[arg-type]
        directory,
        optimiser=OptimiserConfig("adamw", learning_rate, warmup_steps=1, decay_fraction=0.3, weight_decay=0.0),
        fit_config=FitConfig(steps, precision="float32", device="cpu", ema_decay=0.5, log_every=1, **config),
        pieces=Pieces(minibatch, chunk), measure=check, watch=Watch(guards), stop_early=early_stop, resume=resume,
    )  # fmt: skip
    return pair, result, check


METHODS = {
    "rgdm": Method("rgdm", 0.027, {"visited": 4}, 6),
    "rgdm held to the base": Method("rgdm", 0.02, {"visited": 4, "target": "kl"}, 6),
    "rgdm held by nothing": Method("rgdm", 0.02, {"visited": 4, "anchor": 0}, 6),
    "rgdm on data": Method("rgdm", 0.02, {"visited": 4, "target": "kl", "proposal": "posterior"}, 6),
    "policy_gradient": Method("policy_gradient", 0.02, {"epochs": 2}, 6),
    "reward_weighted": Method("reward_weighted", 0.02, {"source": "policy"}, 6),
    "backprop": Method("backprop", 0.02, {}, 6),
    # The last steps that move: those after them are the base's.
    "backprop, last steps": Method("backprop", 0.02, {"truncation": "last", "kept": 2}, 6),
    "path_consistency": Method("path_consistency", 0.02, {}, 6),
    "detailed balance": Method("path_consistency", 0.02, {"balance": "detailed"}, 6),
    "adjoint_matching": Method("adjoint_matching", 0.02, {}, 6),
}


def test_every_method_of_the_table_is_tried():
    assert {method.name for method in METHODS.values()} == set(ALGORITHMS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_climbs_by_the_one_trainer(tmp_path, name):
    # A value has to be learnt before it can guide.
    steps = 150 if name == "detailed balance" else 40
    pair, result, check = run(tmp_path, METHODS[name], steps=steps, batch_size=64)
    before, after = check(pair.reference), check(result.denoiser)
    assert after["reward"] > before["reward"] + 2 * math.hypot(before["reward_error"], after["reward_error"])
    assert before["path_kl"] == 0
    assert after["path_kl"] > 0
    assert result.cost.reward_calls >= 40 * 64
    assert result.cost.evaluations > 40 * 64


def test_below_active_from_and_in_the_reference_the_base_stays(tmp_path):
    pair, result, _ = run(tmp_path, METHODS["backprop"], learning_rate=0.1)
    state = State(torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(0)), torch.ones(8, 2).bool())
    early, late = torch.full((8,), 0.5), torch.full((8,), 0.29)
    with torch.no_grad():
        assert not torch.equal(result.denoiser(state, early), base()(state, early))
        assert torch.equal(result.denoiser(state, late), base()(state, late))
        assert torch.equal(pair.reference(state, early), base()(state, early))


def test_all_weights_can_be_trained_too(tmp_path):
    _, result, check = run(tmp_path, METHODS["backprop"], 60, rank=0, batch_size=64)
    assert check(result.denoiser)["reward"] > check(base())["reward"] + 0.1


@pytest.mark.parametrize("name", ["policy_gradient", "detailed balance"])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, name):
    _, whole, _ = run(tmp_path / "whole", METHODS[name], 6, minibatch=24)
    _, cut, _ = run(tmp_path / "cut", METHODS[name], 6, minibatch=24, max_minutes=1e-9)
    assert not cut.finished
    _, resumed, _ = run(tmp_path / "cut", METHODS[name], 6, minibatch=24, resume=True)
    assert resumed.finished
    assert resumed.cost == whole.cost
    for (key, a), b in zip(whole.denoiser.state_dict().items(), resumed.denoiser.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", ["policy_gradient", "backprop", "adjoint_matching"])
def test_chunks_change_nothing_but_rounding(tmp_path, name):
    _, whole, _ = run(tmp_path / "whole", METHODS[name], 2)
    _, cut, _ = run(tmp_path / "cut", METHODS[name], 2, chunk=5)
    for a, b in zip(whole.denoiser.parameters(), cut.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_paths_whose_mean_counts_are_not_cut(tmp_path):
    """Trajectory balance takes log Z from all its rows: chunks and minibatches smaller than that would change it."""
    _, whole, _ = run(tmp_path / "whole", METHODS["path_consistency"], 2)
    _, cut, _ = run(tmp_path / "cut", METHODS["path_consistency"], 2, chunk=5, minibatch=3)
    for a, b in zip(whole.denoiser.parameters(), cut.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)


def gap_term() -> ControlTerm:
    """The mean of the points, known to 0.2."""

    def predictor(state: State) -> tuple[torch.Tensor, torch.Tensor]:
        middle = state.x.mean(dim=(1, 2))
        return middle, torch.full_like(middle, 0.2)

    return ControlTerm(Control("middle", mean=0.0, std=0.5), predictor, torch.linspace(-0.6, 0.6, 50))


@pytest.mark.parametrize("name", ["ctrl", "adjoint_matching", "likelihood"])
def test_a_control_input_is_learnt_and_its_absence_is_the_base(tmp_path, name):
    term = gap_term()
    pair, result, check = run(tmp_path, Method(name, rollout_steps=6), 80, terms=(term,), batch_size=64)
    tuned = result.denoiser
    assert check(tuned)["reward"] > check(pair.reference)["reward"] + 1
    t, mask = torch.full((8,), 0.5), torch.ones(8, 2).bool()
    x = torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(tuned(State(x, mask), t), base()(State(x, mask), t))
        low, high = (
            tuned(State(x, mask, asked_for([term.control], {"middle": value}, 8)), t).mean() for value in (-0.5, 0.5)
        )
    assert high > low


@pytest.mark.parametrize("name", ["ctrl", "rgdm", "likelihood", "hindsight"])
def test_rows_that_ask_for_nothing_teach_nothing_and_stop_nothing(tmp_path, name):
    """Four chains of five ask for nothing, row by row in passes of their own: the frozen base has no gradient."""
    method = Method(name, rollout_steps=5, null_share=0.8)
    _, result, _ = run(tmp_path, method, 3, terms=(gap_term(),), batch_size=3, minibatch=1, chunk=1)
    assert result.finished
    assert all(torch.isfinite(p).all() for p in result.denoiser.parameters())


def test_a_control_is_learnt_in_hindsight(tmp_path):
    """From samples of the base, each asked for what it turned out to be."""
    method = Method("hindsight", rollout_steps=6, settings={"source": "reference", "draws": 4})
    pair, result, check = run(tmp_path, method, 60, terms=(gap_term(),), batch_size=64)
    assert check(result.denoiser)["reward"] > check(pair.reference)["reward"] + 1


def test_a_control_and_a_target_are_learnt_together(tmp_path):
    """The mean is what is asked for, and the points come closer whatever that is."""

    @dataclass
    class Together:
        differentiable = True

        def __call__(self, state: State) -> RewardResult:
            values = -(state.x[:, 0] - state.x[:, 1]).square().sum(dim=-1)
            return RewardResult(4 * values, torch.isfinite(values), {"closeness": values.detach()})

    terms = (replace(gap_term(), gamma=4.0),)
    pair, result, check = run(
        tmp_path, Method("rgdm", rollout_steps=6), 80, terms=terms, batch_size=64, reward=Together()
    )  # fmt: skip
    before, after = check(pair.reference), check(result.denoiser)
    for name in ("log p(middle)", "closeness"):
        assert after[name] > before[name] + 0.5, name
    with pytest.raises(InputError, match="knows no reward"):
        run(tmp_path / "other", Method("likelihood"), 2, terms=(gap_term(),), reward=Together())


def test_hacking_is_noticed_and_stops_the_run_at_the_last_good_weights(tmp_path, caplog):
    """The reward asks for nothing but the mean, and the spread of the samples is what it costs at low temperature."""
    guards = (Guard("spread"),)
    method = Method("backprop", 1e-4, {}, 6)
    _, result, check = run(
        tmp_path, method, 60, guards=guards, early_stop=True, measure_every=2, learning_rate=3e-2
    )  # fmt: skip
    assert result.stopped_early
    assert result.finished
    assert result.steps < 60
    assert "while spread fell" in caplog.text
    assert f"step {result.steps}: stopped early, after 2 warnings in a row; the weights of step" in caplog.text
    assert check(result.denoiser)["spread"] == pytest.approx(check(base())["spread"], rel=0.2)
    # It is finished: there is nothing to go on with.
    _, again, _ = run(
        tmp_path, method, 60, guards=guards, early_stop=True, measure_every=2, learning_rate=3e-2, resume=True
    )  # fmt: skip
    assert (again.stopped_early, again.finished, again.steps) == (True, True, result.steps)
    for name, value in result.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], value), name


def test_a_run_whose_samples_all_fail_stops_and_says_why(tmp_path, caplog):
    @dataclass
    class Never:
        differentiable = False

        def __call__(self, state: State) -> RewardResult:
            values = torch.full((len(state),), math.nan)
            return RewardResult(values, torch.isfinite(values), failures={"gap: time limit": len(state)})

    with pytest.raises(IncompleteError, match=r"stopped at step 4: nothing could be scored .*64 x gap: time limit"):
        run(tmp_path, Method("rgdm", 0.1, {"visited": 1}, 6), 30, reward=Never(), measure_every=10)
    assert "32 of 32 samples have no reward (32 x gap: time limit)" in caplog.text


def test_weights_that_are_no_longer_numbers_are_not_saved(tmp_path):
    with pytest.raises(IncompleteError, match=r"no longer finite at step \d+; expected a smaller .*nothing is kept"):
        run(tmp_path, METHODS["backprop"], 3, learning_rate=1e38)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_updates_that_are_all_left_out_end_the_run(tmp_path):
    @dataclass
    class Cliff:
        differentiable = True

        def __call__(self, state: State) -> RewardResult:
            values = state.x.mean(dim=(1, 2)) * 1e38
            return RewardResult(values.clamp(-1e38, 1e38), torch.isfinite(values))

    with pytest.raises(IncompleteError, match="the gradients of 50 updates in a row were not finite"):
        run(tmp_path, Method("backprop", 1e-4, {}, 6), 60, reward=Cliff())


@pytest.mark.parametrize("left", [b"", b"nothing like it", 2000], ids=["empty", "another file", "cut short"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, left):
    run(tmp_path, METHODS["backprop"], 1)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:left] if isinstance(left, int) else left)
    with pytest.raises(InputError, match=r"last.ckpt is damaged .*; put a copy back, or begin anew with --overwrite"):
        run(tmp_path, METHODS["backprop"], 2, resume=True)


def test_an_interrupt_before_the_first_step_is_passed_on(tmp_path, monkeypatch):
    def interrupt(self, policy):
        raise KeyboardInterrupt

    monkeypatch.setattr(Check, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, METHODS["backprop"], 2, measure_every=1)


def test_the_last_good_weights_are_kept_over_a_restart():
    measure, ema = (lambda denoiser: {"reward": 1.0}), WarmedEMA(0.9)
    before, after = (Measurements(measure, 1, ema, Watch(()), stop_early=True) for _ in range(2))
    before.best = {"weight": torch.ones(2)}
    after.load_state_dict(before.state_dict())
    assert after.best is not None
    assert torch.equal(after.best["weight"], torch.ones(2))


def test_a_watch_needs_two_warnings_in_a_row_and_more_than_noise():
    watch = Watch((Guard("validity", 0.02),))
    assert watch.look({"reward": 0.0, "validity": 0.9, "validity_error": 0.02}) == []
    assert watch.look({"reward": 1.0, "validity": 0.86, "validity_error": 0.02}) == []
    assert len(watch.look({"reward": 1.0, "validity": 0.7, "validity_error": 0.02})) == 1
    assert not watch.alarmed
    # Where the reward did not rise, nothing was bought.
    assert watch.look({"reward": -1.0, "validity": 0.7}) == []
    for _ in range(2):
        watch.look({"reward": 1.0, "validity": 0.7})
    assert watch.alarmed
    again = Watch((Guard("validity", 0.02),))
    again.restore(watch.state())
    assert again.alarmed


def test_a_watch_takes_what_can_no_longer_be_measured_for_the_worst_of_falls():
    watch = Watch((Guard("validity", 0.02), Guard("judge")))
    assert watch.look({"reward": 0.0, "validity": 0.9, "judge": math.nan}) == []
    for _ in range(2):
        (line,) = watch.look({"reward": math.nan, "validity": 0.0, "judge": math.nan})
        assert line == "reward can no longer be measured: it was 0 at first"
    assert watch.alarmed
    assert watch.look({"reward": 1.0, "validity": 0.9, "judge": 3.0}) == []


def test_a_watch_is_not_silenced_by_an_error_that_is_not_known():
    watch = Watch((Guard("judge"),))
    watch.look({"reward": 0.0, "judge": 1.0, "judge_error": math.nan})
    assert len(watch.look({"reward": 1.0, "judge": -100.0, "judge_error": math.nan})) == 1


def test_a_share_of_valid_samples_has_the_error_of_a_share():
    values = torch.arange(10.0)
    found = _summary("reward", [RewardResult(values, values < 9)])
    assert found["valid"] == pytest.approx(0.9)
    assert found["valid_error"] == pytest.approx(math.sqrt(0.9 * 0.1 / 10))


def test_no_candidate_is_drawn_where_the_policy_is_the_base():
    rgdm = Method("rgdm", settings={"visited": 6}, rollout_steps=6, active_from=0.3).algorithm(PROCESS, 2)
    pair, generator = policies(base(), (), rank=2, active_from=0.3), torch.Generator().manual_seed(0)
    batch = State(torch.zeros(4, 5, 2), torch.ones(4, 5, dtype=torch.bool))
    reward = FunctionReward(lambda state: state.x.sum(dim=(1, 2)))
    noise = lambda mask, channels: torch.randn(*mask.shape, channels, generator=generator)  # noqa: E731
    found = rgdm.collect(pair.policy, pair.reference, reward, batch, noise, generator)
    assert set(rgdm.sampler.times()[found.steps.unique()].tolist()) == {
        t for t in rgdm.sampler.times().tolist() if t >= 0.3
    }


@pytest.mark.parametrize("name", ["policy_gradient", "path_consistency"])
def test_chains_that_are_compared_are_asked_for_the_same(name):
    compared = Method(name).algorithm(PROCESS, 2, (gap_term(),))
    drawn = compared.draw(8, torch.Generator().manual_seed(0))["middle"].view(2, 4)
    assert (drawn == drawn[:, :1]).all()
    assert len(drawn.unique()) == 2
    assert Method(name, settings={"group_size": 8}).algorithm(PROCESS, 2, (gap_term(),)).inner.group_size == 8
    assert Method(name).algorithm(PROCESS, 2).group_size == 0


@pytest.mark.parametrize(
    ("method", "terms", "message"),
    [
        (Method("rgmd"), (), "did you mean 'rgdm'"),
        (Method("ctrl"), (), "--control NAME"),
        (Method("likelihood"), (), "--control NAME"),
        (Method("hindsight"), (), "--control NAME"),
        (Method("hindsight", settings={"source": "policy"}), (gap_term(),), "not of the policy"),
        (Method("likelihood", null_share=1.0), (gap_term(),), "below 1"),
        (Method("rgdm", settings={"candidate": 4}), (), "did you mean 'candidates'"),
        (Method("rgdm", settings={"inactive": 30}), (), "got inactive 30, expected 0 to 29 steps"),
        (Method("rgdm", tau=0.0), (), "expected a number above 0"),
        (Method("rgdm", rollout_steps=1), (), "at least 2"),
        (Method("ctrl", tau=2.0), (gap_term(),), "set gamma instead"),
        (Method("path_consistency", settings={"balance": "detailed"}), (gap_term(),), "cannot learn controls"),
        (Method("likelihood", tau=0.1), (gap_term(),), "leave --tau and --values-each out"),
        (Method("policy_gradient", settings={"epochs": 0}), (), "got epochs 0, expected at least 1"),
        (Method("reward_weighted", settings={"draws": 0}), (), "draws 0"),
        (Method("reward_weighted", settings={"likelihood": {"max_wait": 5}}), (), "did you mean 'max_weight'"),
    ],
)
def test_bad_methods_are_one_line(method, terms, message):
    with pytest.raises(InputError, match=message):
        method.algorithm(PROCESS, 2, terms)


def test_controls_have_to_fit():
    controlled = policies(base(), (gap_term(),), rank=2).policy
    other = ControlTerm(Control("size"), gap_term().predictor, torch.ones(3))
    with pytest.raises(InputError, match="control inputs are: middle"):
        policies(controlled, (other,))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="control inputs are: middle"):
        policies(controlled, ())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got rank 33, expected at most 32"):
        policies(base(), (), rank=33)
    with pytest.raises(InputError, match="--active-from 0"):
        policies(base(), (), rank=0, active_from=0.2)
    # In whatever order they are given.
    both = (gap_term(), other)
    tuned = policies(base(), both, rank=2).policy
    assert policies(tuned, both[::-1]).policy.controls == tuned.controls  # type: ignore[arg-type]
    # Other data have another mean; the model's own scale stays.
    elsewhere = replace(gap_term(), control=Control("middle", mean=0.1, std=0.7))
    assert policies(controlled, (elsewhere,)).policy.controls == controlled.controls  # type: ignore[arg-type]
    again = policies(controlled, (gap_term(),))  # type: ignore[arg-type]
    trained = {name for name, p in again.policy.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in controlled.named_parameters() if p.requires_grad}
