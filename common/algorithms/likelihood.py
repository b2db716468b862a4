"""`Likelihood`: pre-training, the algorithm whose experience is the data set (arXiv 2006.11239, eq. 14)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.algorithms.algorithm import Policy
from common.algorithms.experience import Experience
from common.diffusion import State
from common.errors import InputError

# The quantile function is infinite at 0 and 1.
_EDGE = 1e-4


@dataclass(frozen=True)
class Likelihood:
    """The denoising loss of a batch, at one time a sample.

    Attributes:
        timesteps: draw times from the grid i / timesteps, i = 0 ... timesteps, as EDM does; None draws from [0, 1].
        max_weight: ceiling of a term's weight relative to the x0 error, against samples that are almost clean
            (in the manner of min-SNR, arXiv 2303.09556); None leaves the parameterisation's own weight.
        focus: (share, location, scale): this share of the times comes from the logit-normal law
            sigmoid(location + scale z), z ~ N(0, 1) (arXiv 2403.03206, section 3.1), the rest from [0, 1] evenly;
            None for evenly throughout. It puts the effort where the data's structure is decided.
        earliest: all times are moved from [0, 1] to [earliest, 1]: where a policy acts, see `ControlledDenoiser`.
    """

    timesteps: int | None = None
    max_weight: float | None = None
    focus: tuple[float, float, float] | None = None
    earliest: float = 0.0

    def __post_init__(self) -> None:
        if self.focus is not None and not (0 <= self.focus[0] <= 1 and self.focus[2] > 0):
            raise InputError(f"got focus {self.focus}, expected (share in [0, 1], location, scale above 0)")
        if not 0 <= self.earliest < 1:
            raise InputError(f"got earliest {self.earliest}, expected a time from 0 to below 1")

    @property
    def weight_limit(self) -> float:
        """`max_weight` as a number."""
        return math.inf if self.max_weight is None else self.max_weight

    def loss(self, denoiser: Policy, batch: State, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and the mean of each of its parts, for clean states.

        Times are stratified over the batch: sample i draws from its own i-th part of [0, 1], in random order,
        which lowers the variance of the loss at no cost (arXiv 2107.00630, appendix I).
        """
        return self.loss_at(denoiser, batch, *self._draws(batch, generator))

    def experience(self, batch: State, generator: torch.Generator) -> Experience:
        """Clean states with a time and noise each, so that their loss can be taken again: `replayed`."""
        t, noise = self._draws(batch, generator)
        steps = torch.empty(len(batch), 0, dtype=torch.long, device=batch.x.device)
        return Experience(batch.x[:, None], steps, batch.mask, batch.condition, extra={"t": t, "noise": noise})

    def replayed(
        self, denoiser: Policy, experience: Experience, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `loss`, at the times and noise of an `experience`; weights (M,) multiply the samples' losses."""
        t, noise = experience.extra["t"], experience.extra["noise"]
        return self.loss_at(denoiser, experience.state(-1), t, noise, weights)

    def _draws(self, batch: State, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Times (B,) and standard Gaussian noise (B, N, D)."""
        t = self._focused(_stratified(len(batch), generator), generator).to(batch.x.device)
        t = self.earliest + (1 - self.earliest) * t
        if self.timesteps is not None:
            first = math.ceil(self.earliest * self.timesteps)
            t = (t * (self.timesteps + 1)).floor().clamp(min=first, max=self.timesteps) / self.timesteps
        return t, torch.randn(batch.x.shape, generator=generator).to(batch.x.device)

    def _focused(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Each even time t (B,) mapped to its law; the law of a sample is drawn apart from its time."""
        if self.focus is None:
            return t
        share, location, scale = self.focus
        focused = torch.sigmoid(location + scale * torch.special.ndtri(t.clamp(_EDGE, 1 - _EDGE)))
        return torch.where(_stratified(len(t), generator) < share, focused, t)

    def loss_at(
        self, denoiser: Policy, batch: State, t: Tensor, noise: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `loss`, at given times t (B,) and standard Gaussian noise (B, N, D), samples weighted by weights (B,)."""
        process = denoiser.process
        alpha, sigma = process.schedule.alpha_sigma(t)
        x_t = process.corrupt(batch.x, batch.mask, t, noise)
        x0_hat = denoiser(batch.replace(x=x_t), t)
        parts = denoiser.parameterisation.loss_parts(x0_hat, batch.x, batch.mask, alpha, sigma, self.weight_limit)
        if weights is not None:
            parts = {name: weights * value for name, value in parts.items()}
        means = {name: value.mean() for name, value in parts.items()}
        return torch.stack(list(means.values())).sum(), {name: value.detach() for name, value in means.items()}


def _stratified(count: int, generator: torch.Generator) -> Tensor:
    """(count,) uniform draws, one from each of `count` equal parts of [0, 1], in random order."""
    strata = torch.randperm(count, generator=generator)
    return (strata + torch.rand(count, generator=generator)) / count
