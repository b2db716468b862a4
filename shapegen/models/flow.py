"""`CouplingFlow`: an invertible map between Gaussian noise and the latents of shapes, by affine couplings.

Half of the channels move by a scale and a shift that the other half decides, then the halves change places
(arXiv 1605.08803, eq. 7 and 8). As the prior of a latent: arXiv 2103.01458, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CouplingFlow(nn.Module):
    """Standard Gaussian w (B, L) <-> latent z (B, L), under a context; at first the identity.

    Args:
        n_latent: L, even.
        depth: couplings.
        width: hidden channels of a coupling.
        n_context: channels of an optional context (B, n_context); zeros are "no condition".
    """

    def __init__(self, n_latent: int, depth: int, width: int, n_context: int = 0) -> None:
        super().__init__()
        if n_latent < 2 or n_latent % 2:
            raise ValueError(f"got {n_latent} channels of a latent, expected an even number: couplings halve them")
        self.couplings = nn.ModuleList(_Coupling(n_latent // 2, width, n_context) for _ in range(depth))

    def to_base(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """w (B, L) of latents z (B, L), and log |det dw/dz| (B,)."""
        kept, moved = z.chunk(2, dim=-1)
        log_det = z.new_zeros(len(z))
        for coupling in self.couplings:
            log_scale, shift = coupling(kept, context)
            kept, moved = (moved - shift) * torch.exp(-log_scale), kept
            log_det = log_det - log_scale.sum(dim=-1)
        return torch.cat([kept, moved], dim=-1), log_det

    def from_base(self, w: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents z (B, L) of standard Gaussian w (B, L): the inverse of `to_base`."""
        kept, moved = w.chunk(2, dim=-1)
        for coupling in reversed(self.couplings):
            log_scale, shift = coupling(moved, context)
            kept, moved = moved, kept * torch.exp(log_scale) + shift
        return torch.cat([kept, moved], dim=-1)


class _Coupling(nn.Module):
    """The half that stays (B, H) -> log scale and shift (B, H) of the half that moves."""

    def __init__(self, half: int, width: int, n_context: int) -> None:
        super().__init__()
        self.first = nn.Linear(half, width)
        # Zero at first, and without bias: a condition starts as no condition, and zeros stay none.
        self.embed_context = nn.Linear(n_context, width, bias=False) if n_context else None
        self.inner = nn.Linear(width, width)
        self.last = nn.Linear(width, 2 * half)
        if self.embed_context is not None:
            nn.init.zeros_(self.embed_context.weight)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, half: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.first(half)
        if self.embed_context is not None and context is not None:
            h = h + self.embed_context(context)
        h = torch.relu(self.inner(torch.relu(h)))
        log_scale, shift = self.last(h).chunk(2, dim=-1)
        # Bounded, so that the inverse stays well conditioned.
        return torch.tanh(log_scale), shift
