"""A small network for tests of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pointwise(nn.Module):
    """x (B, N, 3) and t (B,) -> (B, N, 3), each point by itself."""

    edge_modules = ("out",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.out = nn.Linear(32, 3)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None) -> Tensor:
        return self.out(self.inner(torch.cat([x, t[:, None, None].expand(*x.shape[:2], 1)], dim=-1)))
