"""Time as a network sees it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def time_features(t: Tensor, size: int) -> Tensor:
    """(B, size) sines and cosines of t (B,) in [0, 1], at `size` / 2 frequencies from 1 to 1000."""
    frequency = torch.exp(torch.linspace(0, math.log(1000.0), size // 2, device=t.device))
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
