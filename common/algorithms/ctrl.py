"""`Ctrl`: conditions added to a trained model by reinforcement learning (arXiv 2406.12120).

From a pre-trained p_pre(x) and offline sets {(x, y_i)}, one for each control, to

    p(x | y) ~ p_pre(x) prod_i p_i(y_i | x)^gamma_i:

calibrated predictors p_i(y_i | x) of *clean* samples; a denoiser with zero-initialised inputs for y
(`common.diffusion.control`); then KL-regularised training with the reward sum_i gamma_i log p_i(y_i | x_0), at tau = 1;
then plain sampling. If y_i is independent of what the base was conditioned on, given x, pairs (x, y_i) are all that is
needed, and the sets need share no sample.

Our choices: the divergence is the *sum* over real degrees of freedom and steps, so that gamma = 1 means the Bayes
posterior (the authors' code averages it over 16,384 dimensions: its effective gamma is huge). Targets are drawn from
the offline sets, control by control; a share of them is spread evenly over the set's range instead, for the law of y
changes nothing about p(x | y) and values that few samples have are the hardest to learn; each is left out with
probability `null_share`, so that controls also work alone.
The training itself is `Backprop`, the paper's, or any other algorithm here; with `Rgdm` what a state's candidates are
worth is asked for several values at once, for p(y | x) of samples that have been scored costs nothing.

With `RewardWeighted` on samples of the base, or on data like those that it was trained on, there is nothing to search
for: in hindsight (arXiv 1707.01495; with a predictor as the simulator, arXiv 1605.06376) each x is an example of what
it might have been asked for. With y drawn from q(y | x) = prod_i p_i(y_i | x)^gamma_i / Z(x), and weights
exp(r(x, y)) / q(y | x), which for the reward of the controls alone are Z(x), the pairs have the law
p_pre(x) prod_i p_i(y_i | x)^gamma_i, and the denoising loss on them is smallest where the denoiser is that of the
p(x | y) above, for every y. No label is needed but those that the predictor has learnt.

Known biases: those of the inner method; and the predictor's, which the policy will find: judge by another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.algorithms.algorithm import Algorithm, Policy
from common.algorithms.experience import Experience
from common.algorithms.reward_weighted import Relabel, RewardWeighted
from common.algorithms.rgdm import Rgdm
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.control import Control
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.predictors import Predictor
from common.rewards import Measure, Remembering, Reward, RewardResult

# Quantiles of the outcomes between which targets are spread evenly: no outlier stretches the range.
_EVEN_RANGE = (0.01, 0.99)
# Times that a rare outcome counts, at most, and one that `draw` never asks for.
_RAREST, _LEAST = 10.0, 1e-6


@dataclass(frozen=True)
class ControlTerm:
    """One control with its calibrated predictor: gamma log p(y | x).

    Attributes:
        control: which condition holds y.
        predictor: of clean samples; differentiable with respect to `state.x`.
        outcomes: (M,) the y of the offline set, from which training draws what to ask for.
        gamma: how strongly; 1 is the Bayes posterior.
        scale: calibration: factor of the std (`std_scale`), or temperature of the logits (`softmax_temperature`).
        tolerance: how far off still counts as right, in the unit of a continuous y, or as a share of it where the
            control is logarithmic: a std that is added, in squares, to the predictor's. A sure one says -5,000 nats of
            a value that is a std of the data off, and more where it is surer: noise, to anything that learns from
            rewards.
    """

    control: Control
    predictor: Predictor
    outcomes: Tensor
    gamma: float = 1.0
    scale: float = 1.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma > 0 or not self.scale > 0 or self.outcomes.ndim != 1 or not len(self.outcomes):
            raise InputError(
                f"control '{self.control.name}': got gamma {self.gamma}, scale {self.scale} and outcomes of shape "
                f"{tuple(self.outcomes.shape)}, expected both above 0 and (M,) with M above 0"
            )
        if not self.tolerance >= 0 or (self.tolerance and self.control.classes):
            raise InputError(
                f"control '{self.control.name}': got tolerance {self.tolerance}, expected 0 or more, and 0 of a class"
            )

    def log_prob(self, state: State) -> Tensor:
        """(B,) log p(y | x) for y in the state's condition; 0 where nothing is asked."""
        if not self.control.asked(state).any():
            return state.x.new_zeros(len(state))
        return self.control.log_prob(state, self.predictor(state), self.scale, self.tolerance)

    def relabel(
        self, state: State, generator: torch.Generator, null_share: float = 0.0, even_share: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """What B clean states might have been asked for: outcomes (B,) drawn from p(y | x)^gamma, some of them NULL.

        And their log densities (B,), less by how much `draw` asks for such an outcome more often than the offline set
        has it: what divides these out leaves the law of `draw`.
        """
        with torch.no_grad():
            predicted = self.predictor(state)
        y, log_density = self.control.draw(predicted, generator, self.scale, self.tolerance, self.gamma)
        if even_share > 0 and not self.control.classes:
            log_density = log_density - self._rarity(y, even_share)
        left_out = (torch.rand(len(y), generator=generator) < null_share).to(y.device)
        nothing = self.control.nothing(len(y), y.device).to(y.dtype)
        return torch.where(left_out, nothing, y), torch.where(left_out, torch.zeros_like(log_density), log_density)

    def _rarity(self, y: Tensor, even_share: float) -> Tensor:
        """(B,) log of the density of `draw` over that of the outcomes, at values (B,) that may be NaN."""
        outcomes = self.outcomes.to(y)
        z, points = self.control.standardised(y), self.control.standardised(outcomes)
        low, high = torch.quantile(points, points.new_tensor(_EVEN_RANGE))
        # A Gaussian kernel estimate with Silverman's width.
        points = points[torch.linspace(0, len(points) - 1, min(len(points), 1000), device=points.device).long()]
        width = 1.06 * points.std().clamp(min=1e-6) * len(points) ** -0.2
        logs = -0.5 * ((z[:, None] - points) / width) ** 2 - (width * math.sqrt(2 * math.pi)).log()
        density = logs.logsumexp(dim=1) - math.log(len(points))
        inside = (z >= low) & (z <= high)
        ratio = torch.where(inside, even_share / (high - low) * (-density).exp(), torch.zeros_like(z)) + 1 - even_share
        return ratio.clamp(min=_LEAST, max=_RAREST).log()

    def draw(
        self, count: int, generator: torch.Generator, null_share: float = 0.0, even_share: float = 0.0
    ) -> Tensor:  # fmt: skip
        """(count,) outcomes of the offline set, some of them spread evenly, some of them NULL; on the CPU."""
        outcomes = self.outcomes.cpu()
        drawn = outcomes[torch.randint(len(outcomes), (count,), generator=generator)]
        left_out = torch.rand(count, generator=generator) < null_share
        if even_share > 0 and not self.control.classes:
            ends = torch.quantile(outcomes, torch.tensor(_EVEN_RANGE, dtype=outcomes.dtype))
            low, high = ends.log() if self.control.log else ends
            even = torch.rand(count, generator=generator) < even_share
            spread = low + (high - low) * torch.rand(count, generator=generator).to(outcomes)
            spread = spread.exp() if self.control.log else spread
            drawn = torch.where(even, spread, drawn)
        return torch.where(left_out, self.control.nothing(count).to(drawn.dtype), drawn)


class MeasuredPredictor:
    """A scorer as a predictor: y is what it measures, and nothing but a `ControlTerm`'s tolerance makes it uncertain.

    Args:
        measure: gives the quantity; see `common.rewards.Measure`.
        name: of the quantity.
    """

    def __init__(self, measure: Measure, name: str) -> None:
        self._measure, self._name = measure, name
        self.differentiable = measure.differentiable

    def __deepcopy__(self, memo: dict[int, Any]) -> MeasuredPredictor:
        """Itself: an average of weights is a copy of the module, and workers that measure cannot be copied."""
        return self

    def __call__(self, state: State) -> tuple[Tensor, Tensor]:
        """Mean (B,), NaN where it could not be measured, and std (B,), which is 0."""
        mean = self._measure(state).values[self._name].to(state.x.device, state.x.dtype)
        return mean, torch.zeros_like(mean)


class ControlReward:
    """sum_i gamma_i log p_i(y_i | x) of the conditions that a state carries: a `Reward`."""

    def __init__(self, terms: Sequence[ControlTerm]) -> None:
        names = [term.control.name for term in terms]
        if not terms or len(set(names)) < len(names):
            raise InputError(f"got terms for {names}, expected at least one, each for a control of its own")
        self.terms = _remembering(terms)

    @property
    def differentiable(self) -> bool:
        """See `Reward`: unless a predictor says that it is not."""
        return all(getattr(term.predictor, "differentiable", True) for term in self.terms)

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`; `parts` has log p of each control."""
        parts = {f"log p({term.control.name})": term.log_prob(state) for term in self.terms}
        total = torch.stack([term.gamma * part for term, part in zip(self.terms, parts.values(), strict=True)]).sum(0)
        valid = torch.isfinite(total)
        failed = int((~valid).sum())
        values = torch.where(valid, total, torch.full_like(total, torch.nan))
        raw = {name: torch.where(torch.isfinite(part), part, torch.nan).detach() for name, part in parts.items()}
        return RewardResult(values, valid, raw, {"log p: not finite": failed} if failed else {})


@dataclass(frozen=True)
class Ctrl:
    """Training of a `ControlledDenoiser` with the reward of its controls.

    Attributes:
        inner: `Backprop` (the paper's) or any other that takes a reward; its tau has to be 1, for gamma is the knob.
        terms: the controls.
        null_share: how often a control is left out; matters for several.
        even_share: how often a target is drawn evenly from the range of the outcomes.
        values_each: values asked for that the candidates of one state are weighed for, under `Rgdm`; all but one cost
            neither chains nor look-aheads.
    """

    inner: Algorithm
    terms: tuple[ControlTerm, ...]
    null_share: float = 0.0
    even_share: float = 0.0
    values_each: int = 1

    def __post_init__(self) -> None:
        # What a sample is, is looked at once: for what it is asked for, and for its reward.
        object.__setattr__(self, "terms", _remembering(self.terms))
        tau = getattr(self.inner, "tau", None)
        if self.values_each < 1 or (self.values_each > 1 and not isinstance(self.inner, Rgdm)):
            raise InputError(
                f"got values_each {self.values_each} with {type(self.inner).__name__}, expected 1, or more with Rgdm: "
                "no other method draws candidates"
            )
        if tau != 1.0 or not 0 <= self.null_share < 1 or not 0 <= self.even_share <= 1:
            raise InputError(
                f"got tau {tau}, null_share {self.null_share} and even_share {self.even_share}, expected 1 (set gamma "
                "instead), 0 to below 1, and 0 to 1"
            )

    @property
    def reward(self) -> ControlReward:
        """The reward that `collect` wants."""
        return ControlReward(self.terms)

    @property
    def sampler(self) -> Sampler | None:
        """See `Algorithm`."""
        return self.inner.sampler

    @property
    def needs_gradient(self) -> bool:
        """See `Algorithm`."""
        return self.inner.needs_gradient

    @property
    def needs_data(self) -> bool:
        """See `Algorithm`."""
        return self.inner.needs_data

    @property
    def epochs(self) -> int:
        """See `Algorithm`."""
        return self.inner.epochs

    @property
    def rows_together(self) -> int:
        """See `Algorithm`."""
        return self.inner.rows_together

    @property
    def trained(self) -> Sequence[nn.Module]:
        """See `Algorithm`: what the inner method learns; predictors stay as they are."""
        return self.inner.trained

    def collect(
        self,
        policy: Policy,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`, with targets drawn for the batch; its own conditions stay. `reward` is `self.reward`, or one
        that contains it."""
        if isinstance(self.inner, RewardWeighted) and self.inner.source != "policy":
            return self.inner.collect(policy, reference, reward, batch, noise, generator, self._relabel(generator))
        asked = self.draw(len(batch), generator)
        batch = batch.replace(condition={**batch.condition, **_on(batch.x.device, asked)})
        if isinstance(self.inner, Rgdm):
            others = [_on(batch.x.device, self.draw(len(batch), generator)) for _ in range(self.values_each - 1)]
            return self.inner.collect(policy, reference, reward, batch, noise, generator, others)
        return self.inner.collect(policy, reference, reward, batch, noise, generator)

    def _relabel(self, generator: torch.Generator) -> Relabel:
        def relabel(clean: State) -> tuple[State, Tensor]:
            drawn = {
                term.control.name: term.relabel(clean, generator, self.null_share, self.even_share)
                for term in self.terms
            }
            condition = {**clean.condition, **{name: y for name, (y, _) in drawn.items()}}
            total = torch.stack([log_density for _, log_density in drawn.values()]).sum(dim=0)
            return clean.replace(condition=condition), total

        return relabel

    def draw(self, count: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """name -> (count,) what to ask for; the same throughout a group of the inner method."""
        group = getattr(self.inner, "group_size", 0) or 1
        return {
            term.control.name: term.draw(
                -(-count // group), generator, self.null_share, self.even_share
            ).repeat_interleave(group)[:count]
            for term in self.terms
        }

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`."""
        return self.inner.loss(policy, reference, experience)


def _remembering(terms: Sequence[ControlTerm]) -> tuple[ControlTerm, ...]:
    return tuple(
        term if isinstance(term.predictor, Remembering) else replace(term, predictor=Remembering(term.predictor))
        for term in terms
    )


def _on(device: torch.device, asked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.to(device) for name, values in asked.items()}
