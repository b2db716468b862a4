"""`Conditional`: control inputs learned from labelled data by maximum likelihood: the baseline of `Ctrl`.

    loss = E ||x0_hat(x_t, t, y) - x_0||^2,    (x_0, y) from the offline set,

the usual way to a conditional diffusion model (EDM's conditional protocol, arXiv 2203.17003, section 5.2, and
classifier-free guidance, arXiv 2207.12598), on the same policy as `Ctrl`: the frozen base with inputs for y and
adapters. Its optimum is p(x | y) of the *offline set*, where `Ctrl` keeps the base's p(x).

Our choices: what asks for nothing is the base itself (`common.diffusion.control`), so guidance by the difference to
"nothing asked" needs no share of the training; with several controls, `null_share` leaves each out now and then, so
that they also work alone.

Known bias: with few labels it learns the labelled samples by heart, rather than what their labels mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from common.algorithms.algorithm import FromData, Policy
from common.algorithms.ctrl import ControlReward, ControlTerm
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.diffusion import DenoiserFunction, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.rewards import Reward


@dataclass(frozen=True)
class Conditional(FromData):
    """The denoising loss of labelled data.

    Attributes:
        terms: the controls; the data carry their values as conditions. Their predictors only measure.
        likelihood: the loss.
        null_share: how often a control is left out; matters for several.
    """

    terms: tuple[ControlTerm, ...]
    likelihood: Likelihood = field(default_factory=Likelihood)
    null_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.null_share < 1:
            raise InputError(f"got null_share {self.null_share}, expected 0 to below 1")

    @property
    def reward(self) -> ControlReward:
        """What is measured on the way; training does not see it."""
        return ControlReward(self.terms)

    def collect(
        self,
        policy: Policy,
        reference: DenoiserFunction,
        reward: Reward | None,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: the labelled batch, with times and noise, some labels left out.

        Raises:
            InputError: the batch has no values of a control.
        """
        condition = dict(batch.condition)
        for term in self.terms:
            name = term.control.name
            if name not in condition:
                raise InputError(f"the data has no labels '{name}' to learn a control from")
            left_out = (torch.rand(len(batch), generator=generator) < self.null_share).to(batch.x.device)
            nothing = term.control.nothing(len(batch), batch.x.device).to(condition[name].dtype)
            condition[name] = torch.where(left_out, nothing, condition[name])
        return self.likelihood.experience(replace(batch, condition=condition), generator)

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`."""
        return self.likelihood.replayed(policy, experience)
