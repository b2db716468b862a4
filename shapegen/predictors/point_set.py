"""`PointSet`: properties and the class of a shape from its points, by two rounds of looking at all of them.

Each round maps every point by itself, then pools: the mean tells how much surface lies where, the largest value how far
it reaches (arXiv 1703.06114, arXiv 1612.00593). The second round knows what the first one found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PointSet(nn.Module):
    """(x (B, N, 3), mask (B, N)) -> (mean and spread (B, P, 2), logits (B, C)).

    The order of the points changes nothing, nor does a shift of all of them; a turn does, for shapes stand upright and
    face the viewer.

    Args:
        kinds: of each of the P properties; this network treats all alike.
        n_classes: C.
        width: channels of a point.
        n_frequencies: octaves of the Fourier features of a coordinate.
    """

    # Inputs and outputs: Muon leaves them to AdamW.
    edge_modules = ("embed", "out")

    frequencies: Tensor

    def __init__(
        self,
        *,
        kinds: Sequence[str],
        n_classes: int = 0,
        width: int = 128,
        n_frequencies: int = 3,
    ) -> None:
        super().__init__()
        self.n_properties = len(kinds)
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(n_frequencies), persistent=False)
        self.embed = nn.Linear(3 + 6 * n_frequencies, width)
        self.first = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.context = nn.Linear(2 * width, width)
        self.second = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, 2 * width)])
        self.hidden = nn.Linear(4 * width, 2 * width)
        self.out = nn.Linear(2 * width, 2 * len(kinds) + n_classes)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; means are standardised, spreads raw."""
        x = _box_centred(x, mask)
        angles = (x.unsqueeze(-1) * self.frequencies.to(x.dtype)).flatten(2)
        h = F.silu(self.embed(torch.cat([x, angles.sin(), angles.cos()], dim=-1)))
        for layer in self.first:
            h = F.silu(layer(h))
        h = h + self.context(_pooled(h, mask)).unsqueeze(1)
        for layer in self.second:
            h = F.silu(layer(h))
        out = self.out(F.silu(self.hidden(_pooled(h, mask))))
        n = 2 * self.n_properties
        return out[:, :n].unflatten(1, (self.n_properties, 2)), out[:, n:]


def _pooled(h: Tensor, mask: Tensor) -> Tensor:
    """(B, 2 W) mean and largest value of h (B, N, W) over real points; zeros for a shape without any."""
    real = mask.unsqueeze(-1)
    mean = (h * real).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    # The activations that are pooled have no value below -1.
    return torch.cat([mean, h.masked_fill(~real, -1.0).amax(dim=1) * mask.any(dim=1, keepdim=True)], dim=-1)


def _box_centred(x: Tensor, mask: Tensor) -> Tensor:
    """x with the middle of each shape's bounding box at the origin; zero on padding."""
    real = mask.unsqueeze(-1)
    low = x.masked_fill(~real, torch.inf).amin(dim=1, keepdim=True)
    high = x.masked_fill(~real, -torch.inf).amax(dim=1, keepdim=True)
    middle = torch.where(mask.any(dim=1)[:, None, None], (low + high) / 2, torch.zeros_like(low))
    return (x - middle) * real
