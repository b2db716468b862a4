"""`Space`: the linear subspace in which the noise lives.

A diffusion process in a subspace is the ordinary one after an orthogonal projection: noise is a projected
standard Gaussian, densities count the subspace's dimensions only. This is the only file that knows about
centres of mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Space(Protocol):
    """A linear subspace of (N, D) matrices, for each sample of a padded batch."""

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        """Orthogonal projection of x (B, N, D) onto the subspace; zero where mask (B, N) is False."""
        ...

    def dof(self, mask: Tensor, n_channels: int) -> Tensor:
        """(B,) dimension of the subspace, for states of `n_channels` channels."""
        ...


@dataclass(frozen=True)
class Euclidean:
    """All of R^(N x D): only padding is removed."""

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        """See `Space.project`."""
        return x * mask.unsqueeze(-1).to(x.dtype)

    def dof(self, mask: Tensor, n_channels: int) -> Tensor:
        """See `Space.dof`."""
        return mask.sum(dim=1) * n_channels


@dataclass(frozen=True)
class Centered:
    """Centre of mass zero on the first `n_coordinates` channels, all of R on the others (arXiv 2203.17003, 3.1)."""

    n_coordinates: int = 3

    def project(self, x: Tensor, mask: Tensor) -> Tensor:
        """See `Space.project`."""
        real = mask.unsqueeze(-1).to(x.dtype)
        x = x * real
        coordinates, features = x[..., : self.n_coordinates], x[..., self.n_coordinates :]
        # A sample without points has no centre; the clamp keeps it zero.
        centre = coordinates.sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([(coordinates - centre) * real, features], dim=-1)

    def dof(self, mask: Tensor, n_channels: int) -> Tensor:
        """See `Space.dof`: (N - 1) * n_coordinates + N * (D - n_coordinates)."""
        size = mask.sum(dim=1)
        return (size - 1).clamp(min=0) * self.n_coordinates + size * (n_channels - self.n_coordinates)


SPACES = {"euclidean": Euclidean, "centered": Centered}
