"""What a benchmark's file says, and the commands that its methods become."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contracts.benchmark_world import benchmark

from common.benchmark.config import Benchmark, read_benchmark
from common.benchmark.methods import METHODS, Trial, flags, quantity
from common.cli.finetune import parse_control
from common.errors import InputError
from common.training.task import ControlRequest


def test_a_configuration_survives_its_file_and_names_the_nearest_key(tmp_path):
    one = benchmark(second_judges={"x": "y"}, settings={"shifted": {"generate": {"shift": 1}}})
    (tmp_path / "b.yaml").write_text(one.as_yaml())
    assert read_benchmark(tmp_path / "b.yaml") == one
    assert read_benchmark(tmp_path / "b.yaml", seeds=5).seeds == 5
    for text, complaint in (
        ("model: m\ntarget: [x=1]", "has no setting 'target'.*did you mean 'targets'"),
        ("model: m\ntargets: x=1", "expected a list of texts"),
        ("model: m\nseeds: 0", "expected a number from 1 on"),
        ("model: m\ngammas: {gap: -1}", "gammas: gap: -1, expected a number above 0"),
        ("model: m\ntolerances: {gap: a}", "tolerances: gap: 'a', expected a number above 0"),
        ("model: m\nmethods: [a, a]", "'a' stands there twice"),
        ("model: m\nsettings: {a: {generat: {}}}", "did you mean 'generate'"),
        ("name: x", "names no 'model'"),
        ("- a", "expected the keys of a benchmark"),
        ("a: [", "cannot be read as YAML"),
    ):
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(InputError, match=complaint):
            read_benchmark(tmp_path / "wrong.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_benchmark(tmp_path / "none.yaml")


def test_a_control_is_asked_for_with_its_tolerance_and_weight():
    plain = benchmark(targets=("gap=4±0.2", "mu=2±0.1"))
    assert plain.control("gap") == "gap"
    said = replace(plain, tolerances={"gap": 0.3}, gammas={"gap": 0.5, "mu": 2.0})
    assert parse_control(said.control("gap")) == ControlRequest("gap", gamma=0.5, tolerance=0.3)
    assert parse_control(said.control("mu")) == ControlRequest("mu", gamma=2.0)
    shares = replace(plain, tolerances={"gap": "20%"})
    assert parse_control(shares.control("gap")) == ControlRequest("gap", tolerance=0.2, relative=True)
    assert parse_control("gap ± 12.5 % weight 2") == ControlRequest("gap", 2.0, 0.125, measured=True, relative=True)
    for wrong in ("0%", "some%", -0.1):
        with pytest.raises(InputError, match="expected a number above 0"):
            replace(plain, tolerances={"gap": wrong})


def test_options_become_flags():
    given = {"batch_size": 32, "target": "gap=4.5±0.2", "early_stop": True, "resume": False, "floor": None,
             "optimiser": {"name": "adamw"}}  # fmt: skip
    words = flags(given)
    assert words == (
        "--batch-size",
        "32",
        "--target",
        "gap=4.5±0.2",
        "--early-stop",
        "--optimiser",
        '{"name": "adamw"}',
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_in_samples_of_its_own(name, tmp_path):
    one = Benchmark("b", "base", targets=("gap=4±0.1", "gap=5±0.1"), methods=(name,), seeds=2)
    ends = set()
    for target in one.targets:
        for seed in range(2):
            steps = METHODS[name].recipe("prog", one, Trial(name, target, seed, tmp_path))
            assert steps[-1].stage == "sampling"
            assert all(step.words[0] == "prog" for step in steps)
            assert "--seed" in steps[-1].words
            assert str(steps[-1].output_dir) == steps[-1].words[-1]
            # What trains comes first, and is what is sampled, or what guides.
            for before in steps[:-1]:
                assert str(before.output_dir) in steps[-1].words
            ends.add(steps[-1].output_dir)
    # What is asked for nothing is sampled once for all targets.
    assert len(ends) == (2 if name == "unconditional" else 4)


def test_gammas_weigh_what_is_learnt_from_rewards_alone(tmp_path):
    one = Benchmark("b", "base", targets=("gap=4", "mu=1"), gammas={"gap": 0.2})
    controls = {}
    for method in ("ctrl", "conditional"):
        for target in one.targets:
            words = METHODS[method].recipe("p", one, Trial(method, target, 0, tmp_path))[0].words
            controls[method, target] = words[words.index("--control") + 1]
    assert controls == {
        ("ctrl", "gap=4"): "gap weight 0.2",
        ("ctrl", "mu=1"): "mu",
        ("conditional", "gap=4"): "gap",
        ("conditional", "mu=1"): "mu",
    }


def test_a_controlled_model_is_trained_once_for_all_targets_of_a_quantity(tmp_path):
    one = Benchmark("b", "base", targets=("gap=4", "gap=5", "mu=1"), methods=("ctrl",))
    models = {METHODS["ctrl"].recipe("p", one, Trial("ctrl", t, 0, tmp_path))[0].words for t in one.targets}
    assert len(models) == 2
    # Guidance by the difference to the unconditional samples the conditional model.
    paired = [METHODS[m].recipe("p", one, Trial(m, "gap=4", 0, tmp_path))[0] for m in ("conditional", "cfg")]
    assert paired[0] == paired[1]
    assert quantity("gap = 4.5±0.2") == "gap"
    for text in ("alpha<70", "gap=4,mu=1", "4<gap<5"):
        with pytest.raises(InputError, match="takes the value as an input"):
            quantity(text)


def test_a_benchmarks_own_options_win(tmp_path):
    one = Benchmark(
        "b", "base", targets=("gap=4",), generate={"steps": 7}, settings={"smc": {"generate": {"steps": 9}}}
    )
    for name, steps in (("smc", "9"), ("best-of-n", "7")):
        (step,) = METHODS[name].recipe("p", one, Trial(name, "gap=4", 0, tmp_path))
        assert step.words[step.words.index("--steps") + 1] == steps


def test_methods_are_rewarded_in_the_words_of_the_benchmark(tmp_path):
    one = Benchmark("b", "base", targets=("gap=4±0.1, homo<-5",), rewards={"gap": "predicted_gap(runs/p)", "omo": "x"})
    assert one.rewarded(one.targets[0]) == "predicted_gap(runs/p)=4±0.1, homo<-5"
    (step,) = METHODS["smc"].recipe("p", one, Trial("smc", one.targets[0], 0, tmp_path))
    assert step.words[step.words.index("--target") + 1] == "predicted_gap(runs/p)=4±0.1, homo<-5"


def test_what_is_put_in_for_a_quantity_is_not_searched_again():
    rewards = {"homo": "predicted_homo(runs/gap)", "gap": "predicted_gap(runs/p)"}
    one = Benchmark("b", "base", targets=("homo=-6±0.2, gap=4±0.1",), rewards=rewards)
    assert one.rewarded(one.targets[0]) == "predicted_homo(runs/gap)=-6±0.2, predicted_gap(runs/p)=4±0.1"
    assert one.rewarded("predicted_homo(runs/gap)=-6") == "predicted_homo(runs/gap)=-6"


@pytest.mark.parametrize("key", ["rewards", "gammas"])
def test_a_quantity_in_other_words_than_the_targets_is_named(key):
    said = {"rewards": {"gap": "predicted_gap"}, "gammas": {"gap": 0.2}}[key]
    with pytest.raises(InputError, match=f"{key} speaks of 'gap', which is in no target, but not of what 'gap_ev=4'"):
        Benchmark("b", "base", targets=("gap_ev=4",), **{key: said})
    # A shorter list of targets needs no shorter list of rewards.
    Benchmark("b", "base", targets=("gap=4",), **{key: said | {"mu": said["gap"]}})


def test_what_is_wanted_beside_goes_to_those_that_see_a_number(tmp_path):
    one = Benchmark("b", "base", targets=("gap=4",), rewards={"gap": "predicted_gap"}, also="maximise stable weight 2")
    targets = {}
    for name in ("smc", "rgdm", "reconstruction", "ctrl"):
        step = METHODS[name].recipe("p", one, Trial(name, "gap=4", 0, tmp_path))[0]
        targets[name] = step.words[step.words.index("--target") + 1] if "--target" in step.words else ""
    both = "predicted_gap=4, maximise stable weight 2"
    assert targets == {"smc": both, "rgdm": both, "reconstruction": "predicted_gap=4", "ctrl": ""}
