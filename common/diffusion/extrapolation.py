"""`extrapolate`: weights moved on, away from those of a weaker model that came from them.

    theta + scale (theta - theta_weaker)

After a short training a network is nearly linear in what its weights moved by, so that this is autoguidance
(`common.guidance.autoguidance`) to first order, at all times, for one evaluation. The arithmetic of such differences:
arXiv 2212.04089; further along one of them than training went: arXiv 2404.16792.

Known bias: second order in the way that is gone. With a scale near 1 there is nothing left of a model, as a short
training with Muon moves weights by a tenth of their norm, much of it by chance: 0.2 to 0.3 is where it helps
(docs/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from common.errors import InputError


def extrapolate(weights: Mapping[str, Tensor], weaker: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights + scale (weights - weaker), in float32; what is not a floating-point number stays.

    Args:
        weights: name -> tensor.
        weaker: the same names and shapes.
        scale: above 0 away from the weaker ones, from -1 to 0 towards them.

    Raises:
        InputError: other names or shapes.
    """
    for name in sorted(weights.keys() | weaker.keys()):
        shapes = [tuple(side[name].shape) if name in side else None for side in (weights, weaker)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the weaker model is of another network: {name} is {_said(shapes[1])} there and {_said(shapes[0])} "
                "here; take one that was trained from these weights (train --init-from)"
            )
    return {
        name: torch.lerp(value.float(), weaker[name].to(value.device).float(), -scale)
        if value.is_floating_point()
        else value
        for name, value in weights.items()
    }


def relative_distance(weights: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """|other - weights| / |weights|, over all of the floating-point numbers of two models of one network."""
    names = [name for name, value in weights.items() if value.is_floating_point()]
    own = torch.cat([weights[name].double().flatten() for name in names])
    theirs = torch.cat([other[name].to(own.device).double().flatten() for name in names])
    return float((theirs - own).norm() / own.norm())


def _said(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"
