"""`Distillation`: a denoiser that answers as a teacher does, in one evaluation (arXiv 2210.03142, section 3.1).

The teacher is any function from noisy states to clean estimates, such as a model under guidance, which takes two
evaluations or more. The student sees noised data and learns the teacher's answer, by the squared error of v unless told
otherwise, whatever its own network predicts. Near the data, where guidance does not act, a teacher has nothing to add
but its errors: below `teacher_from` the student learns from the data themselves, which is ours.

Known bias: a guided chain leaves the noised data, on which alone the student learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.algorithms.algorithm import Policy
from common.algorithms.experience import Experience
from common.algorithms.latent_pretraining import has_latent
from common.algorithms.pretraining import Pretraining
from common.diffusion import DenoiserFunction, State, V
from common.diffusion.denoiser import Parameterisation
from common.errors import InputError


def check_latents(*denoisers: object) -> None:
    """Raise `InputError` for a student or a teacher that is told a latent of each sample."""
    for denoiser in denoisers:
        network = getattr(denoiser, "network", None)
        if has_latent(network):
            raise InputError(f"{type(network).__name__} has latents of its own, which cannot be taught; take another")


@dataclass(frozen=True, kw_only=True)
class Distillation(Pretraining):
    """`Pretraining` by a teacher's answers in the place of the data's own.

    Attributes:
        teacher: (state_t, t) -> x0_hat.
        likelihood: the law of the times, and the ceiling of the weights.
        error: whose loss of the student's x0_hat against the teacher's is taken.
        teacher_from: time from which, towards noise, the teacher's answers are learnt; below it, the clean data.
    """

    teacher: DenoiserFunction
    error: Parameterisation = field(default_factory=V)
    teacher_from: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_from < 1:
            raise InputError(f"got teacher_from {self.teacher_from}, expected a time from 0 to below 1, which is noise")

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`."""
        t, process, clean = experience.extra["t"], policy.process, experience.state(-1)
        state = clean.replace(x=process.corrupt(clean.x, clean.mask, t, experience.extra["noise"]))
        answer = self._answer(state, t, clean.x)
        alpha, sigma = process.schedule.alpha_sigma(t)
        parts = self.error.loss_parts(policy(state, t), answer, state.mask, alpha, sigma, self.likelihood.weight_limit)
        means = {name: value.mean() for name, value in parts.items()}
        return torch.stack(list(means.values())).sum(), {name: value.detach() for name, value in means.items()}

    @torch.no_grad()
    def _answer(self, state: State, t: Tensor, clean: Tensor) -> Tensor:
        """(B, N, D) what is to be answered: the teacher is asked only where it is learnt from."""
        rows = torch.nonzero(t >= self.teacher_from)[:, 0]
        if len(rows) == len(t):
            return self.teacher(state, t)
        answer = clean.clone()
        if len(rows):
            answer[rows] = self.teacher(state.index(rows), t[rows])
        return answer
