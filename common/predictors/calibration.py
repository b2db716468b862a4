"""Calibration of predictors on a validation split: one number each, and how far off they are then.

A predictor that trains a generator has to mean what it says: log p(y | x) of an overconfident one is a reward out of
all proportion (arXiv 2406.12120 scales its classifier's temperature for that).
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from common.errors import InputError

# Temperatures that the search covers, as natural logarithms.
_LOG_TEMPERATURES = (math.log(0.02), math.log(50.0))


def std_scale(mean: Tensor, std: Tensor, values: Tensor) -> float:
    """The factor of std (M,) at which N(mean, (factor std)^2) makes values (M,) most likely: rms of their z-scores."""
    _require_split(len(values))
    return float(((values - mean) / std).double().square().mean().sqrt())


def softmax_temperature(logits: Tensor, labels: Tensor) -> float:
    """T at which softmax(logits (M, C) / T) makes labels (M,) most likely (arXiv 1706.04599, section 4.2)."""
    _require_split(len(labels))
    logits = logits.detach().double()

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    best = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
    return math.exp(float(best.x))  # type: ignore[attr-defined]


def coverage_error(mean: Tensor, std: Tensor, values: Tensor) -> float:
    """Mean over levels 10 % ... 90 % of |share of values (M,) in the central interval - level| (arXiv 1807.00263)."""
    z = ((values - mean) / std).abs().double()
    levels = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    widths = torch.special.ndtri(0.5 + levels / 2)
    return float(((z[None] <= widths[:, None]).double().mean(dim=1) - levels).abs().mean())


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Mean |confidence - accuracy| over bins of equal confidence, by their share (arXiv 1706.04599, eq. 3)."""
    confidence, predicted = logits.detach().double().softmax(dim=1).max(dim=1)
    right = (predicted == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place.cpu(), (confidence - right).cpu())
    return float(gap.abs().sum() / len(labels))


def _require_split(count: int) -> None:
    if count < 10:
        raise InputError(f"got {count} samples to calibrate on, expected at least 10, apart from those trained on")
