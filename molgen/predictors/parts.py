"""What both networks that predict molecular properties are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# How a property comes out of an equivariant network: an invariant number, the length of a vector, or a third of the
# trace of a symmetric tensor.
KINDS = ("scalar", "norm", "trace")

# Keeps the square root of a zero length differentiable.
_EPSILON = 1e-8
# Typical number of atoms: sums over atoms are divided by it.
TYPICAL_SIZE = 16.0


def safe_norm(vectors: Tensor) -> Tensor:
    """(...,) lengths of vectors (..., 3), with a gradient at zero too."""
    return (vectors.square().sum(dim=-1) + _EPSILON).sqrt()


def radial_functions(distance: Tensor, centres: Tensor) -> Tensor:
    """(..., R) Gaussians of distance (...) at evenly spaced centres (R,), as wide as they are apart."""
    centres = centres.to(distance.dtype)
    return torch.exp(-0.5 * ((distance.unsqueeze(-1) - centres) / (centres[1] - centres[0])) ** 2)


class Composition(nn.Module):
    """The share of each mean that the kinds and numbers of atoms explain: fixed, linear, fitted before training.

    Attributes:
        weight: (T, P) standardised property an atom of each type.
    """

    weight: Tensor

    def __init__(self, n_types: int, n_properties: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_types, n_properties))

    def forward(self, values: Tensor, types: Tensor) -> Tensor:
        """values (B, P, 2) with the means moved by the share of types (B, N, T), which are zero on padding."""
        share = types.sum(dim=1) @ self.weight.to(types.dtype)
        return values + torch.stack([share, torch.zeros_like(share)], dim=-1)
