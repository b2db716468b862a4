"""A small network and a model of it, for tests of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.diffusion import Denoiser, Process, V


class Pointwise(nn.Module):
    """x (B, N, 3) and t (B,) -> (B, N, 3), each point by itself."""

    edge_modules = ("out",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.out = nn.Linear(32, 3)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None) -> Tensor:
        return self.out(self.inner(torch.cat([x, t[:, None, None].expand(*x.shape[:2], 1)], dim=-1)))


class PointwiseModel:
    """The least that `pretrain` needs, with the same weights each time."""

    def __init__(self, process: Process) -> None:
        torch.manual_seed(0)
        self.denoiser = Denoiser(Pointwise(), process, V())
        self.description: Mapping[str, Any] = {"sampler": {"steps": 3, "solver": "ancestral"}}

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
