"""`Readout`: what is known of each point -> what is said of the whole sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Readout(nn.Module):
    """Points (B, N, H) -> (mean and spread (B, P, 2), logits (B, C)), through sums and means over real points.

    Args:
        width: H.
        n_properties: P.
        n_classes: C.
        typical_size: points of a typical sample, by which sums are divided.
    """

    def __init__(self, width: int, n_properties: int, n_classes: int, typical_size: float) -> None:
        super().__init__()
        self.n_properties, self.typical_size = n_properties, typical_size
        # Of each point; called so in the weights of the shipped predictors.
        self.atom = nn.Linear(width, width)
        self.hidden = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 2 * n_properties + n_classes)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, N, H), mask (B, N)."""
        points = F.silu(self.atom(h)) * mask[..., None].to(h.dtype)
        total = points.sum(dim=1)
        mean = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = torch.cat([total / self.typical_size, mean], dim=-1)
        out = self.out(F.silu(self.hidden(pooled)))
        return out[:, : 2 * self.n_properties].unflatten(1, (self.n_properties, 2)), out[:, 2 * self.n_properties :]
