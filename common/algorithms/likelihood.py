"""`Likelihood`: pre-training, the algorithm whose experience is the data set (arXiv 2006.11239, eq. 14)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import Denoiser, State


@dataclass(frozen=True)
class Likelihood:
    """The denoising loss of a batch, at one time a sample.

    Attributes:
        timesteps: draw times from the grid i / timesteps, i = 0 ... timesteps, as EDM does; None draws from [0, 1].
        max_weight: ceiling of a term's weight relative to the x0 error, against samples that are almost clean
            (in the manner of min-SNR, arXiv 2303.09556); None leaves the parameterisation's own weight.
    """

    timesteps: int | None = None
    max_weight: float | None = None

    def loss(self, denoiser: Denoiser, batch: State, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and the mean of each of its parts, for clean states.

        Times are stratified over the batch: sample i draws from its own i-th part of [0, 1], in random order,
        which lowers the variance of the loss at no cost (arXiv 2107.00630, appendix I).
        """
        count = len(batch)
        strata = torch.randperm(count, generator=generator)
        t = ((strata + torch.rand(count, generator=generator)) / count).to(batch.x.device)
        if self.timesteps is not None:
            t = (t * (self.timesteps + 1)).floor().clamp(max=self.timesteps) / self.timesteps
        noise = torch.randn(batch.x.shape, generator=generator).to(batch.x.device)
        return self.loss_at(denoiser, batch, t, noise)

    def loss_at(self, denoiser: Denoiser, batch: State, t: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As `loss`, at given times t (B,) and standard Gaussian noise (B, N, D)."""
        process = denoiser.process
        alpha, sigma = process.schedule.alpha_sigma(t)
        x_t = process.corrupt(batch.x, batch.mask, t, noise)
        x0_hat = denoiser(batch.replace(x=x_t), t)
        limit = float("inf") if self.max_weight is None else self.max_weight
        parts = denoiser.parameterisation.loss_parts(x0_hat, batch.x, batch.mask, alpha, sigma, limit)
        means = {name: value.mean() for name, value in parts.items()}
        return torch.stack(list(means.values())).sum(), {name: value.detach() for name, value in means.items()}
