"""`Transition`: one Gaussian step of a reverse chain, in a subspace."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from common.diffusion.space import Space


@dataclass(frozen=True)
class Transition:
    """N(mean, std^2 I) on a subspace, for each sample.

    Attributes:
        mean: (B, N, D), in the subspace.
        std: (B,) standard deviation; 0 marks a deterministic step.
        space: the subspace.
        mask: (B, N) bool, True = real.
    """

    mean: Tensor
    std: Tensor
    space: Space
    mask: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """(B, N, D) draw, from standard Gaussian noise (B, N, D); the projection is done here."""
        return self.mean + self.std[:, None, None] * self.space.project(noise, self.mask)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,) log density at x (B, N, D), summed over the subspace's dimensions.

        Raises:
            ValueError: the step is deterministic, so that it has no density.
        """
        self._require_noise("log_prob")
        dof = self.space.dof(self.mask, self.mean.shape[-1]).to(self.mean.dtype)
        squared = self._squared_distance(x)
        return -squared / (2 * self.std**2) - dof * (self.std.log() + 0.5 * math.log(2 * math.pi))

    def kl(self, other: Transition) -> Tensor:
        """(B,) KL(self || other), summed over the subspace's dimensions. Both steps need noise."""
        self._require_noise("kl")
        other._require_noise("kl")
        dof = self.space.dof(self.mask, self.mean.shape[-1]).to(self.mean.dtype)
        ratio = self.std / other.std
        return dof * (0.5 * ratio**2 - 0.5 - ratio.log()) + self._squared_distance(other.mean) / (2 * other.std**2)

    def _squared_distance(self, x: Tensor) -> Tensor:
        return self.space.project(x - self.mean, self.mask).square().sum(dim=(1, 2))

    def _require_noise(self, what: str) -> None:
        if bool((self.std <= 0).any()):
            raise ValueError(f"{what} of a deterministic step (std 0) is undefined; sample with eta > 0")
