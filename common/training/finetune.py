"""`finetune`: a trained generator of any domain steered by a reward, or given control inputs, in a run directory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.algorithms import ALGORITHMS, Algorithm, Conditional, Ctrl
from common.algorithms.algorithm import require_differentiable
from common.algorithms.ctrl import ControlTerm
from common.algorithms.likelihood import Likelihood
from common.algorithms.path_consistency import ValueNetwork
from common.algorithms.rollout import rollout_sampler
from common.diffusion import Denoiser, Process
from common.diffusion.control import ControlledDenoiser
from common.errors import InputError
from common.named import build, nearest
from common.rewards import Remembering, Reward, SummedReward
from common.rewards.reward import Explained
from common.training.callbacks import Measure
from common.training.fit import FitConfig, FitResult, fit
from common.training.module import BatchSource, Guide, Pieces
from common.training.optimiser import OptimiserConfig
from common.training.watch import Watch

# Methods that are about control inputs, beside `ALGORITHMS`: the algorithm behind each, `likelihood` its own.
_WITH_CONTROLS = {"ctrl": "backprop", "hindsight": "reward_weighted"}
_NEEDS_CONTROL = (*_WITH_CONTROLS, "likelihood")
# What an algorithm is made with, but not by its settings.
_SAID_ELSEWHERE = {"sampler": "--rollout-steps and --exponent", "tau": "--tau"}
# Short runs of pay-off samples come only part of the way, so that by default they aim further.
_RGDM_TAU = 0.27
# Values that a state's candidates are weighed for where controls are learnt: nearly for nothing, see `Rgdm`.
_VALUES_EACH = 4
# Chains that are asked for the same where controls are learnt by a method that compares chains.
_COMPARED, _GROUP = ("policy_gradient", "path_consistency"), 4


@dataclass(frozen=True)
class Method:
    """Which algorithm, and how its chains are drawn.

    Attributes:
        name: a key of `ALGORITHMS`; `ctrl`, which is `backprop` with control inputs; `hindsight`, which is
            `reward_weighted` with them, on data (or samples of the base) asked for what they turned out to be; or
            `likelihood`, which learns them from labelled data.
        tau: temperature: weight of the divergence from the base against the reward; None for 1, and for 0.27 where
            `rgdm` is rewarded for a target.
        settings: of the algorithm.
        rollout_steps: network evaluations of a chain in training.
        exponent: its times are linspace(1, 0, steps) ** exponent.
        null_share: share of the chains that a control is left out of.
        even_share: share of the chains that are asked for a value anywhere in the data's range, see `Ctrl`.
        values_each: see `Ctrl`; None for 4 where the method draws candidates, and for 1 where it does not.
        active_from: of the policy, see `ControlledDenoiser`.
    """

    name: str
    tau: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rollout_steps: int = 30
    exponent: float = 1.0
    null_share: float = 0.0
    even_share: float = 0.0
    values_each: int | None = None
    active_from: float = 0.0

    def algorithm(self, process: Process, n_channels: int, terms: Sequence[ControlTerm] = ()) -> Algorithm:
        """The algorithm for chains of `process`, with control `terms` where there are some.

        Raises:
            InputError: an unknown method or setting, or a method that does not fit.
        """
        known = [*ALGORITHMS, *_NEEDS_CONTROL]
        if self.name not in known:
            raise InputError(f"got method '{self.name}'{nearest(self.name, known)}; expected one of {', '.join(known)}")
        if self.name in _NEEDS_CONTROL and not terms:
            raise InputError(f"method '{self.name}' adds control inputs; say which with --control NAME")
        if self.name == "likelihood":
            if self.tau is not None or self.values_each is not None:
                raise InputError(
                    "method 'likelihood' learns from labels and has no rewards; leave --tau and --values-each out"
                )
            likelihood = build(Likelihood, {"earliest": self.active_from, **self.settings}, "method 'likelihood'")
            return Conditional(tuple(terms), likelihood, self.null_share)
        for setting, flag in _SAID_ELSEWHERE.items():
            if setting in self.settings:
                raise InputError(f"got the setting '{setting}' of method '{self.name}'; expected it as {flag}")
        if self.rollout_steps < 2:
            raise InputError(f"got {self.rollout_steps} rollout steps, expected at least 2")
        name = _WITH_CONTROLS.get(self.name, self.name)
        settings = dict(self.settings)
        if self.name == "hindsight" and settings.setdefault("source", "data") == "policy":
            raise InputError("method 'hindsight' learns from data or from samples of the reference, not of the policy")
        if settings.get("balance") == "detailed":
            if terms:
                raise InputError(
                    "detailed balance learns a value that does not know what is asked for, and cannot learn controls; "
                    "leave 'balance' out, which takes whole trajectories"
                )
            settings.setdefault("value", ValueNetwork(n_channels))
        sampler = rollout_sampler(process, self.rollout_steps, self.exponent)
        if not (sampler.times().float().diff() < 0).all():
            raise InputError(f"got exponent {self.exponent:g}, expected less: the chain's last times are all the same")
        if self.values_each is not None and not terms:
            raise InputError("--values-each is about what controls are asked for; leave it out, or give --control")
        if name in ("backprop", "rgdm"):
            settings.setdefault("inactive", int((sampler.times().float() < self.active_from).sum()))
        if terms and name in _COMPARED:
            settings.setdefault("group_size", _GROUP)
        if name == "reward_weighted" and settings.get("source") != "policy":
            given = settings.get("likelihood", {})
            if isinstance(given, Mapping):
                given = build(Likelihood, {"earliest": self.active_from, **given}, "setting 'likelihood'")
            settings["likelihood"] = given
        tau = self.tau if self.tau is not None else _RGDM_TAU if name == "rgdm" and not terms else 1.0
        found = build(ALGORITHMS[name], {"sampler": sampler, "tau": tau, **settings}, f"method '{name}'")
        if found.epochs < 1:
            raise InputError(f"got epochs {found.epochs}, expected at least 1")
        if not terms:
            return found
        values_each = self.values_each or (_VALUES_EACH if name == "rgdm" else 1)
        return Ctrl(found, tuple(terms), self.null_share, self.even_share, values_each)


@dataclass(frozen=True)
class Policies:
    """What is trained, and what it is held to.

    Attributes:
        policy: with trainable parameters.
        reference: frozen.
    """

    policy: nn.Module
    reference: Any


def policies(
    start: Denoiser | ControlledDenoiser,
    terms: Sequence[ControlTerm],
    *,
    rank: int = 16,
    active_from: float = 0.0,
    seed: int = 0,
) -> Policies:
    """Policy and reference of a run.

    A model that was tuned before is trained further, held to the base that it was tuned from.

    Args:
        start: what training starts from; it stays as it is.
        terms: the controls.
        rank: of the adapters; 0 trains all weights of a copy, without controls only. A tuned model keeps its own.
        active_from: see `ControlledDenoiser`; likewise.
        seed: of the adapters' initial weights.

    Raises:
        InputError: `start` has other controls than those asked for.
    """
    controls = [term.control for term in terms]
    # Of initial weights, of whatever is trained.
    torch.manual_seed(seed)
    if isinstance(start, ControlledDenoiser):
        # The data that they are standardised by may be others: the model keeps its own scale.
        if {(c.name, c.classes, c.log) for c in start.controls} != {(c.name, c.classes, c.log) for c in controls}:
            names = ", ".join(control.name for control in start.controls) or "none"
            raise InputError(f"the model's control inputs are: {names}; ask for the same, or start at its base")
        policy = copy.deepcopy(start)
        policy.requires_grad_(True).base.requires_grad_(False)
        for adapter in policy.adapters:
            adapter.requires_grad_(True)
    elif rank == 0 and not terms:
        if active_from:
            raise InputError("all weights act at all times; give --rank, or --active-from 0")
        frozen = copy.deepcopy(start).requires_grad_(False).eval()
        return Policies(copy.deepcopy(start).requires_grad_(True), frozen)
    else:
        policy = ControlledDenoiser(start, controls, rank=rank, active_from=active_from)
    return Policies(policy, policy.uncontrolled)


def reward_of(algorithm: Algorithm, reward: Reward | None) -> Reward:
    """What a run aims at: the reward that was given, that of the controls, or their sum.

    Raises:
        InputError: neither, one that the algorithm cannot use, or no gradient where it follows one.
    """
    if isinstance(algorithm, Conditional) and reward is not None:
        raise InputError("method 'likelihood' learns from labelled data and knows no reward; leave --target out")
    if isinstance(algorithm, Ctrl | Conditional):
        reward = algorithm.reward if reward is None else SummedReward((algorithm.reward, Remembering(reward)))
    if reward is None:
        raise InputError("nothing to aim at; give --target or --control")
    if algorithm.needs_gradient:
        require_differentiable(reward)
    return reward


def finetune(
    pair: Policies,
    algorithm: Algorithm,
    reward: Reward | None,
    batches: BatchSource,
    directory: Path,
    *,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    pieces: Pieces,
    measure: Measure | None = None,
    watch: Watch | None = None,
    stop_early: bool = False,
    resume: bool = False,
) -> FitResult:
    """Train `pair.policy`; see `fit`.

    Args:
        pair: see `policies`.
        algorithm: see `Method.algorithm`.
        reward: beside that of the controls, at their temperature of 1; None for none.
        batches: what to generate, or clean data for algorithms that need some.
        directory: of the run.
        optimiser, fit_config, pieces, measure, watch, stop_early, resume: see `fit`.

    Raises:
        InputError: nothing to aim at, or unusable options.
    """
    return fit(
        pair.policy, algorithm, optimiser, batches, fit_config, directory,
        resume=resume, measure=measure, guide=Guide(pair.reference, Explained(reward_of(algorithm, reward))),
        pieces=pieces, watch=watch, stop_early=stop_early,
    )  # fmt: skip
