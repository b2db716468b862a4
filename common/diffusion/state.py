"""`State`: the only batch type. A padded batch of point sets with features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """A batch of B point sets, padded to N points with D channels each.

    Attributes:
        x: (B, N, D) values; zero on padding. For molecules the first 3 channels are coordinates.
        mask: (B, N) bool, True = real.
        condition: name -> (B, ...) tensors that steer the denoiser (targets, controls).
    """

    x: Tensor
    mask: Tensor
    condition: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.mask.shape != self.x.shape[:2]:
            raise ValueError(
                f"got x of shape {tuple(self.x.shape)} and mask of shape {tuple(self.mask.shape)}, "
                "expected (B, N, D) and (B, N)"
            )

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def sizes(self) -> Tensor:
        """(B,) number of real points."""
        return self.mask.sum(dim=1)

    def replace(self, **changes: Any) -> State:
        """A copy with the named fields changed."""
        return replace(self, **changes)

    def index(self, indices: Tensor | slice) -> State:
        """The samples at `indices` (K,), in that order."""
        return State(
            x=self.x[indices],
            mask=self.mask[indices],
            condition={name: value[indices] for name, value in self.condition.items()},
        )

    def to(self, device: torch.device | str) -> State:
        """A copy on `device`; nothing is copied that is there already."""
        return State(
            x=self.x.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            condition={name: value.to(device, non_blocking=True) for name, value in self.condition.items()},
        )


def size_mask(sizes: Tensor, n_points: int | None = None) -> Tensor:
    """(B, N) bool mask whose first `sizes[b]` (B,) entries are True; N defaults to the largest size."""
    n_points = int(sizes.max()) if n_points is None else n_points
    return torch.arange(n_points, device=sizes.device)[None, :] < sizes[:, None]
