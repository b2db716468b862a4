"""Measures of states themselves, in torch, differentiable and on the state's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common.diffusion import State
from common.rewards import Measured
from molgen.data.codec import MoleculeCodec

GYRATION = "gyration_radius_angstrom"


@dataclass(frozen=True)
class GyrationRadius:
    """Root of the mean squared distance of the atoms, hydrogens included, from their centre, Angstrom; each atom counts
    the same. NaN for a molecule without atoms."""

    codec: MoleculeCodec
    names: tuple[str, ...] = (GYRATION,)
    differentiable: bool = True

    def __call__(self, state: State) -> Measured:
        """See `common.rewards.Measure`."""
        real = state.mask.unsqueeze(-1).to(state.x.dtype)
        positions = state.x[..., :3] / self.codec.coordinate_scale
        count = real.sum(dim=1, keepdim=True).clamp(min=1)
        centred = (positions - (positions * real).sum(dim=1, keepdim=True) / count) * real
        square = (centred**2).sum(dim=(1, 2)) / count[:, 0, 0]
        # The root has no derivative at 0, where a lone atom is.
        radius = torch.where(square > 0, square.clamp(min=1e-12).sqrt(), square)
        return Measured({GYRATION: torch.where(state.sizes > 0, radius, torch.full_like(radius, torch.nan))})
