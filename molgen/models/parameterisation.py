"""How a molecule network's raw output becomes x0_hat: coordinates and atom types each in their own way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import PARAMETERISATIONS, V

_VELOCITY = V()


@dataclass(frozen=True)
class CategoricalTypes:
    """Coordinates by v, atom types by the posterior mean of a categorical law.

    The type channels of x0_hat are `type_scale` times the softmax of the raw output: the best guess of a one-hot
    under squared error, learnt by cross-entropy (as in arXiv 2211.15089). It stays inside the simplex.

    Attributes:
        type_scale: value of the hot channel (see `MoleculeCodec`).
        type_weight: weight of the cross-entropy (in nats) against the squared error of v.
    """

    type_scale: float = 1.0
    type_weight: float = 0.3

    def x0_hat(self, raw: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Parameterisation.x0_hat`."""
        coordinates = _VELOCITY.x0_hat(raw[..., :3], x_t[..., :3], alpha, sigma)
        return torch.cat([coordinates, self.type_scale * raw[..., 3:].softmax(dim=-1)], dim=-1)

    def loss_parts(
        self, x0_hat: Tensor, x0: Tensor, mask: Tensor, alpha: Tensor, sigma: Tensor, max_weight: float
    ) -> dict[str, Tensor]:
        """See `Parameterisation.loss_parts`: `v` of the coordinates and `types`, the weighted cross-entropy."""
        parts = _VELOCITY.loss_parts(x0_hat[..., :3], x0[..., :3], mask, alpha, sigma, max_weight)
        log_likelihood = (x0_hat[..., 3:] / self.type_scale).clamp(min=1e-6).log() * (x0[..., 3:] / self.type_scale)
        entropy = -(log_likelihood.sum(dim=-1) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return {**parts, "types": self.type_weight * entropy}


MOLECULE_PARAMETERISATIONS = {**PARAMETERISATIONS, "categorical_types": CategoricalTypes}
