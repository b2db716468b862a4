"""`Task`: what a domain gives to a fine-tuning run, and `Check`: what is measured of the policy on the way."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common.algorithms.ctrl import ControlTerm, MeasuredPredictor
from common.algorithms.rollout import path_kl, rollout
from common.diffusion import DenoiserFunction, Sampler, State, size_mask
from common.diffusion.control import Control
from common.diffusion.generation import generate_states
from common.diffusion.noise import SampleNoise, sample_seeds
from common.errors import InputError
from common.predictors import Predictor
from common.rewards import Measure, Measured, Reward, RewardResult
from common.rewards.quantity import Quantity
from common.rewards.reward import reasons
from common.training.module import BatchSource
from common.training.pretrain import TrainableModel
from common.training.watch import Guard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What M samples shall be, before any noise.

    Attributes:
        sizes: (M,) number of points.
        condition: name -> (M, ...).
    """

    sizes: np.ndarray
    condition: Mapping[str, Tensor] = field(default_factory=dict)

    def state(self, n_channels: int) -> State:
        """An empty state (M, N, n_channels) of these sizes and conditions."""
        mask = size_mask(torch.from_numpy(self.sizes))
        return State(torch.zeros(*mask.shape, n_channels), mask, self.condition)


@dataclass(frozen=True)
class ControlRequest:
    """One `--control` as typed.

    Attributes:
        name: the quantity.
        gamma: its weight.
        tolerance: how far off still counts as right.
        measured: whether the scorer itself decides, or a learned predictor.
        relative: the tolerance is a share of the value, and the control logarithmic.
    """

    name: str
    gamma: float = 1.0
    tolerance: float = 0.0
    measured: bool = False
    relative: bool = False

    def term(
        self,
        name: str,
        outcomes: Callable[[], Tensor],
        measure: Callable[[], Measure],
        learned: Callable[[], tuple[Predictor, float]],
    ) -> ControlTerm:
        """The control of a column `name`.

        Args:
            name: of the condition.
            outcomes: gives the values (M,) from which training draws what to ask for; they may have to be measured.
            measure: makes the scorer.
            learned: makes the learned predictor and the factor that calibrates it.
        """
        predictor, scale = (MeasuredPredictor(measure(), name), 1.0) if self.measured else learned()
        values = outcomes()
        control = Control.of_values(name, values, self.relative)
        return ControlTerm(control, predictor, values, self.gamma, scale, self.tolerance)

    def by_scorer(self, scorer: Quantity) -> ControlRequest:
        """What is asked for of a quantity that no predictor has learnt: its scorer decides, give or take its own
        tolerance where none was typed."""
        tolerance = self.tolerance or scorer.tolerance
        if not tolerance:
            raise InputError(
                f"no predictor of {self.name} ships, and how far off still counts is not known; give --control "
                f"'{self.name}±TOLERANCE'"
            )
        logger.info("no predictor of %s ships: its scorer decides, give or take %g", self.name, tolerance)
        return replace(self, measured=True, tolerance=tolerance)


class Task(Protocol):
    """A domain's side of a run: it knows its data, its rewards and what makes a sample sound."""

    @property
    def model(self) -> TrainableModel:
        """What training starts from."""
        ...

    @property
    def sampler(self) -> Sampler:
        """That model's recommended sampler."""
        ...

    @property
    def n_channels(self) -> int:
        """Channels of a state."""
        ...

    @property
    def guards(self) -> Sequence[Guard]:
        """Which measurements of `quality` must not fall."""
        ...

    def prompt(self, seed: int, start: int, count: int) -> Prompt:
        """What the samples start, start + 1, ... of the run with `seed` shall be."""
        ...

    def data(self, batch_size: int, seed: int, labels: Sequence[str] = (), part: str = "train") -> BatchSource:
        """Clean data, `train`, `val` or `test`; with the values of `labels` as conditions, where all are known."""
        ...

    def quality(self, states: Sequence[State]) -> Mapping[str, float]:
        """How sound samples are, whatever was asked: name -> value, `NAME_error` -> its standard error."""
        ...


def prompts(task: Task, batch_size: int, seed: int) -> BatchSource:
    """Endless batches of what to generate; batch k is a function of (seed, k)."""

    def source(start: int, rank: int, world_size: int) -> Any:
        for step in count_from(start):
            first = (step * world_size + rank) * batch_size
            yield task.prompt(seed, first, batch_size).state(task.n_channels)

    return source


@dataclass(frozen=True)
class Check:
    """Measures a policy: reward, judge, soundness, divergence from the base.

    Attributes:
        task: of the domain.
        reward: what training sees.
        reference: the frozen denoiser.
        chains: the sampler of training, for the divergence; None for none.
        terms: controls, whose targets are drawn for the samples.
        judge: an independent opinion, for which larger is better, too.
        count: samples.
        seed: of them; the same every time.
        device: of the policy.
        divergence_count: chains for the divergence.
    """

    task: Task
    reward: Reward
    reference: DenoiserFunction
    chains: Sampler | None
    terms: Sequence[ControlTerm] = ()
    judge: Callable[[State], RewardResult] | None = None
    count: int = 128
    seed: int = 0
    device: torch.device | str = "cpu"
    divergence_count: int = 32

    def __call__(self, policy: Any) -> dict[str, float]:
        """`reward`, `valid`, `judge`, `path_kl`, the mean of each raw value, and `Task.quality`."""
        prompt = self._asked(self.task.prompt(self.seed, 0, self.count))
        batches = generate_states(
            policy, self.task.sampler, prompt.sizes, self.task.n_channels,
            device=torch.device(self.device), seed=self.seed, condition=prompt.condition,
        )  # fmt: skip
        states = [state for _, state in batches]
        rewarded = [self.reward(state) for state in states]
        failed = sum(result.n_failed for result in rewarded)
        if 2 * failed > self.count:
            why = reasons([result.failures for result in rewarded])
            logger.warning("%d of %d samples have no reward (%s)", failed, self.count, why)
        found = _summary("reward", rewarded)
        if self.judge is not None:
            judged = _summary("judge", [self.judge(state) for state in states])
            judged.pop("valid")
            found |= judged
        found |= self.task.quality(states)
        if self.chains is not None:
            found["path_kl"] = self._divergence(policy, self.chains)
        return found

    def _asked(self, prompt: Prompt) -> Prompt:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = {term.control.name: term.draw(len(prompt.sizes), generator) for term in self.terms}
        return Prompt(prompt.sizes, {**prompt.condition, **drawn})

    def _divergence(self, policy: Any, sampler: Sampler) -> float:
        """Nats a sample between the path laws of the policy's and the base's chains."""
        count = min(self.divergence_count, self.count)
        batch = self._asked(self.task.prompt(self.seed, 0, count)).state(self.task.n_channels).to(self.device)
        chains = rollout(policy, sampler, batch, SampleNoise(sample_seeds(self.seed, 0, count)))
        return float(path_kl(self.reference, sampler, chains).sum(dim=1).mean())


class ControlJudge:
    """How near measured quantities come to what controls asked for: -mean |y - asked|, standardised.

    Args:
        measures: states -> raw values of quantities, by name; together of all controls.
        terms: the controls; each by its own name.
    """

    def __init__(self, measures: Sequence[Callable[[State], Measured]], terms: Sequence[ControlTerm]) -> None:
        self._measures = tuple(measures)
        self._terms = tuple(terms)

    def __call__(self, state: State) -> RewardResult:
        """`parts`: the raw values, and `NAME_off`, their distance from what was asked."""
        found: dict[str, Tensor] = {}
        failures: Counter[str] = Counter()
        for measure in self._measures:
            measured = measure(state)
            found |= measured.values
            failures.update(measured.failures)
        parts, distances = {}, []
        for term in self._terms:
            name = term.control.name
            raw = found[name].to(state.x.device, state.x.dtype)
            off = (raw - state.condition[name]).abs()
            parts |= {name: raw, f"{name}_off": off}
            standardised = term.control.standardised
            distances.append((standardised(raw) - standardised(state.condition[name])).abs())
        values = -torch.stack(distances).mean(dim=0)
        return RewardResult(values, torch.isfinite(values), parts, failures)


def _summary(name: str, results: Sequence[RewardResult]) -> dict[str, float]:
    """Mean of the valid values with its standard error, share of valid samples, means of the raw values."""
    values = torch.cat([result.values.detach().cpu() for result in results])
    valid = torch.cat([result.valid.cpu() for result in results])
    good = values[valid].double()
    found = {
        name: float(good.mean()) if len(good) else math.nan,
        f"{name}_error": float(good.std() / math.sqrt(len(good))) if len(good) > 1 else math.nan,
        "valid": (share := float(valid.double().mean())),
        "valid_error": math.sqrt(share * (1 - share) / len(valid)),
    }
    for part in results[0].parts:
        raw = torch.cat([result.parts[part].detach().cpu().double() for result in results])
        raw = raw[torch.isfinite(raw)]
        found[part] = float(raw.mean()) if len(raw) else math.nan
    return found
