"""Methods of guidance by name: what is typed, what is built, and what is said of mistakes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest
import torch
from jsonargparse import ArgumentParser

from common.cli.app import Verb, run_command
from common.cli.guidance import GuidanceOptions, guided_sampler
from common.cli.options import add_options
from common.cost import Cost
from common.diffusion import Cosine, Euclidean, Process, SampleNoise, Sampler, State, sample_seeds, size_mask
from common.errors import InputError
from common.guidance import (
    GUIDANCES,
    SELECTORS,
    Autoguidance,
    BestOfN,
    Classifier,
    ClassifierFree,
    Method,
    Reconstruction,
    Smc,
    TrainingFree,
    ValueWeighted,
    build_guided_sampler,
    with_defaults,
)
from common.rewards import FunctionReward

PROCESS = Process(Cosine(), Euclidean())
SAMPLER = Sampler(PROCESS, steps=5)
EXAMPLE = State(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
REWARD = FunctionReward(lambda state: -state.x.square().sum(dim=(1, 2)), True, EXAMPLE)


def denoiser(state: State, t: torch.Tensor) -> torch.Tensor:
    return PROCESS.space.project(0.5 * state.x, state.mask)


def build(*texts: str, **parts):
    return build_guided_sampler([Method.parse(text) for text in texts], SAMPLER, denoiser, **parts)


def test_methods_are_read_with_their_settings():
    assert Method.parse("smc particles=16 tau=0.5") == Method("smc", {"particles": 16, "tau": 0.5})
    assert Method.parse("Training-Free max-shift=2").settings == {"max_shift": 2.0}
    assert [Method.parse(text).name for text in ("svdd", "dps", "tfg")] == [
        "value-weighted", "reconstruction", "training-free",
    ]  # fmt: skip
    assert str(Method.parse("smc  tau=0.50   particles=4")) == "smc tau=0.5 particles=4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smcc", r"did you mean 'smc'.*expected one of autoguidance, cfg"),
        ("", "expected one of autoguidance"),
        ("smc partcles=4", r"did you mean 'particles'"),
        ("smc particles", "expected NAME=NUMBER"),
        ("smc particles=four", "expected a whole number"),
        ("smc tau=x", "expected a number"),
        ("best-of-n scale=2", "with one of particles"),
        ("cfg null=1", "with one of scale"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(InputError, match=message):
        Method.parse(text)


def test_each_name_builds_its_method():
    parts = {"reward": REWARD, "log_weight": lambda state, t: state.x.sum(dim=(1, 2)), "weaker": denoiser}
    kinds = {
        "autoguidance": Autoguidance, "cfg": ClassifierFree, "classifier": Classifier, "reconstruction": Reconstruction,
        "training-free": TrainingFree, "best-of-n": BestOfN, "value-weighted": ValueWeighted, "smc": Smc,
    }  # fmt: skip
    assert set(kinds) == {*GUIDANCES, *SELECTORS}
    for name, kind in kinds.items():
        built = build(name, **parts)
        assert isinstance(built.guidances[0] if name in GUIDANCES else built.selector, kind)
    nested = build("reconstruction scale=2", "training-free", "smc particles=3", **parts)
    assert [type(one) for one in nested.guidances] == [Reconstruction, TrainingFree]
    assert nested.guidances[0].scale == 2
    assert nested.particles == 3


def test_what_is_missing_is_asked_for():
    for name in ("reconstruction", "training-free", "best-of-n", "value-weighted", "smc"):
        with pytest.raises(InputError, match=f"'{name}' needs a reward"):
            build(name)
    with pytest.raises(InputError, match="'classifier' needs a predictor of noisy states"):
        build("classifier", reward=REWARD)
    with pytest.raises(InputError, match="'autoguidance' needs a weaker model"):
        build("autoguidance", reward=REWARD)
    with pytest.raises(InputError, match="at most one method that chooses"):
        build("smc", "best-of-n", reward=REWARD)
    blind = FunctionReward(lambda state: state.x.sum(dim=(1, 2)))
    with pytest.raises(InputError, match="needs a differentiable reward"):
        build("reconstruction", reward=blind)
    with pytest.raises(InputError, match="expected at least 1"):
        build("smc particles=0", reward=REWARD)


def test_scale_0_is_plain_sampling_bit_for_bit():
    mask = size_mask(torch.tensor([2, 3]))
    plain = SAMPLER.sample(denoiser, mask, 3, SampleNoise(sample_seeds(0, 0, 2)))
    parts = {"reward": REWARD, "log_weight": lambda state, t: state.x.sum(dim=(1, 2))}
    for name in ("classifier", "reconstruction", "training-free", "value-weighted", "smc"):
        guided = build(f"{name} scale=0", **parts)
        found = guided.sample(denoiser, mask, 3, SampleNoise(sample_seeds(0, 0, 2)))
        assert torch.equal(found.x, plain.x)
        assert (guided.cost.evaluations, guided.cost.reward_calls) == (10, 0)


def test_cfg_at_scale_0_asks_for_nothing():
    seen = []

    def asked(state: State, t: torch.Tensor) -> torch.Tensor:
        seen.append(bool(state.condition["context"].any()))
        return denoiser(state, t)

    mask = size_mask(torch.tensor([2, 3]))
    guided = build("cfg scale=0")
    guided.sample(asked, mask, 3, SampleNoise(sample_seeds(0, 0, 2)), {"context": torch.ones(2, 3)})
    assert seen
    assert not any(seen)


def test_calls_of_rewards_and_predictors_are_counted():
    mask = size_mask(torch.tensor([2, 3]))
    parts = {"reward": REWARD, "log_weight": lambda state, t: state.x.sum(dim=(1, 2)), "weaker": denoiser}
    expected = {
        "reconstruction": (10, 10),
        "reconstruction draws=4": (10, 40),
        "training-free iterations=3": (10, 30),
        "training-free recurrence=2": (16, 16),
        "classifier": (10, 10),
        "best-of-n particles=3": (30, 6),
        # At the times 1, 3/4 and 1/2, of two samples.
        "autoguidance active-from=0.4": (16, 0),
    }
    for text, cost in expected.items():
        guided = build(text, **parts)
        guided.sample(denoiser, mask, 3, SampleNoise(sample_seeds(0, 0, 2)))
        assert (guided.cost.evaluations, guided.cost.reward_calls) == cost, text


def test_settings_for_all_methods_at_once():
    methods = [Method.parse("reconstruction scale=3"), Method.parse("smc")]
    found = with_defaults(methods, {"scale": 2.0, "tau": None, "particles": 5})
    assert [dict(method.settings) for method in found] == [{"scale": 3.0}, {"scale": 2.0, "particles": 5}]
    with pytest.raises(InputError, match="got particles 5, but cfg has no such setting"):
        with_defaults([Method.parse("cfg")], {"particles": 5})
    with pytest.raises(InputError, match="got scale 2, a setting of guidance, but no --guidance"):
        with_defaults([], {"scale": 2.0})


@dataclass(frozen=True, kw_only=True)
class Options(GuidanceOptions):
    """As a verb would have them."""


def read(*arguments: str) -> Options:
    got: list[Options] = []
    code = run_command("prog", "test", [Verb("draw", "draw", Options, got.append)], ["draw", *arguments])
    assert code == 0
    return got[0]


def test_the_command_line_reads_guidance():
    options = read("--guidance", "reconstruction draws=2", "--guidance", "smc tau=0.5", "--guidance-scale", "2")
    methods = options.guidance_methods()
    assert [str(method) for method in methods] == ["reconstruction scale=2 draws=2", "smc scale=2 tau=0.5"]
    guided = guided_sampler(options, SAMPLER, denoiser, reward=REWARD)
    mask = size_mask(torch.tensor([2, 3]))
    guided.sample(denoiser, mask, 3, SampleNoise(sample_seeds(0, 0, 2)))
    assert [str(method) for method in methods] == ["reconstruction scale=2 draws=2", "smc scale=2 tau=0.5"]
    assert guided.particles == 8
    assert guided.cost == Cost(reward_calls=2 * 8 * (5 * 2 + 4), evaluations=2 * 8 * 5)
    assert read().guidance_methods() == []
    with pytest.raises(InputError, match="--guidance smc more than once"):
        read("--guidance", "smc", "--guidance", "smc tau=2").guidance_methods()
    with pytest.raises(InputError, match="no such setting"):
        read("--guidance", "cfg", "--particles", "4").guidance_methods()


def test_the_help_says_what_there_is(capsys):
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, Options)
    text = " ".join(parser.format_help().split())
    for name in (*GUIDANCES, *SELECTORS):
        assert name in text
    with pytest.raises(argparse.ArgumentError):
        parser.parse_args(["--particles", "many"])
