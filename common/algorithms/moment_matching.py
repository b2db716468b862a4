"""`MomentMatching`: a denoiser whose chains need few steps (arXiv 2406.04103, algorithm 2).

The student's answer x_tilde at t is to be a sample rather than a mean: drawn on to a time s < t by
q(x_s | x_t, x_tilde), states should be such that the mean clean state behind each is the one that the teacher expects,
E[x_tilde | x_s] = E[x_0 | x_s]. An auxiliary denoiser learns the left side while the student is trained, and the
student's gradient is the difference of the two.

The paper alternates the updates of the two; here both happen in one step, each by a loss of its own, on the same
states. The auxiliary is held near the teacher as in the paper. The student's error is weighed as one of v at t, where
its answer is made: with the auxiliary's weight, at s, its gradient would grow without bound towards the data. Known
bias: the states at t are noised data, not those of the student's own chains.

In the last step, to t = 0, the student learns the teacher's answer instead, as in `Distillation`: no noise follows that
would hide what two networks that chase each other leave of error (ours; measured in docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.algorithms.algorithm import FromData, Policy
from common.algorithms.experience import Experience
from common.algorithms.likelihood import Likelihood
from common.diffusion import DenoiserFunction, State, V
from common.diffusion.sampler import NoiseSource
from common.rewards import Reward

_ERROR = V()


@dataclass(frozen=True, kw_only=True)
class MomentMatching(FromData):
    """Distillation to chains of `steps` steps.

    Attributes:
        teacher: (state_t, t) -> x0_hat.
        auxiliary: begins as a copy of the student; the trainer owns its optimiser.
        steps: how many the student's chains shall have.
        exponent: they are even in t ** (1 / exponent), see `Sampler`.
        likelihood: the law of s ** (1 / exponent), even by default so that no step is learnt less than another, and the
            ceiling of the weights.
    """

    teacher: DenoiserFunction
    auxiliary: nn.Module
    steps: int
    exponent: float = 1.0
    likelihood: Likelihood = field(default_factory=Likelihood)

    @property
    def trained(self) -> tuple[nn.Module, ...]:
        """See `Algorithm`."""
        return (self.auxiliary,)

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward | None,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: the batch with two times, s < t or in the last step s = t, and noise for each."""
        experience = self.likelihood.experience(batch, generator)
        place = experience.extra["t"]
        length = torch.rand(len(batch), generator=generator).to(place.device, place.dtype) / self.steps
        s, t = place**self.exponent, (place + length).clamp(max=1) ** self.exponent
        last = t <= (1 / self.steps) ** self.exponent
        s = torch.where(last, t, s)
        second = torch.randn(batch.x.shape, generator=generator).to(batch.x.device)
        return experience.with_extra(s=s, t=t, last=last, second_noise=second)

    def loss(
        self, policy: Policy, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`; the parts are `moments`, by which student and teacher differ, and `auxiliary`."""
        process, clean, extra = policy.process, experience.state(-1), experience.extra
        s, t = extra["s"], extra["t"]

        def error(estimate: Tensor, target: Tensor, time: Tensor) -> Tensor:
            levels = process.schedule.alpha_sigma(time)
            return _ERROR.loss_parts(estimate, target, clean.mask, *levels, self.likelihood.weight_limit)["v"]

        before = clean.replace(x=process.corrupt(clean.x, clean.mask, t, extra["noise"]))
        sample = policy(before, t)
        with torch.no_grad():
            step = process.posterior(before.x, sample, clean.mask, t, s)
            after = clean.replace(x=step.sample(extra["second_noise"]))
            answer = self.teacher(after, s)
        found = self.auxiliary(after, s)
        auxiliary = (error(found, sample.detach(), s) + error(found, answer, s)).mean()
        # Its gradient with respect to the sample is that of the squared difference of moments.
        towards = torch.where(extra["last"][:, None, None], answer, (sample + answer - found).detach())
        student = error(sample, towards, t).mean()
        return student + auxiliary, {"moments": student.detach(), "auxiliary": auxiliary.detach()}
