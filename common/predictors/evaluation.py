"""How good a predictor is on samples that it was not trained on, and its calibration on others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.diffusion import State
from common.errors import InputError
from common.predictors.calibration import (
    coverage_error,
    expected_calibration_error,
    softmax_temperature,
    std_scale,
)
from common.predictors.predictor import ModelPredictor, Output, Prediction, calibrated

# Shares of a Gaussian within one and within 1.96 standard deviations.
_LEVELS = {"coverage_68": 1.0, "coverage_95": 1.959964}


@dataclass(frozen=True)
class Labels:
    """What is known of M samples.

    Attributes:
        values: (M, P) float64 in the properties' units; NaN where missing.
        classes: (M,) int64 index of the class, or None where none is predicted.
    """

    values: np.ndarray
    classes: np.ndarray | None = None

    def select(self, indices: np.ndarray) -> Labels:
        """The labels of some samples."""
        return Labels(self.values[indices], None if self.classes is None else self.classes[indices])


def fit_outputs(
    names: Sequence[str],
    units: Sequence[str | None],
    values: np.ndarray,
    explained: np.ndarray,
    centred: Sequence[bool],
) -> tuple[Output, ...]:
    """Outputs for training values (M, P): the centre and the scale of what is left of them, and their range.

    Args:
        names, units: of the properties.
        values: NaN where missing.
        explained: (M, P) the share that the network adds by itself.
        centred: of each property, whether its mean is taken off; no vector's length has one taken off.

    Raises:
        InputError: a property with fewer than 10 values, or with one value throughout.
    """
    outputs = []
    for k, name in enumerate(names):
        known = np.isfinite(values[:, k])
        rest = (values - explained)[known, k]
        if known.sum() < 10 or values[known, k].std() == 0:
            raise InputError(
                f"{name} has {known.sum()} training values"
                f"{', all of them the same' if known.any() else ''}; expected at least 10 that differ"
            )
        centre = float(rest.mean()) if centred[k] else 0.0
        low, high = float(values[known, k].min()), float(values[known, k].max())
        outputs.append(Output(name, units[k], centre, max(float(rest.std()), 1e-12), low, high))
    return tuple(outputs)


def require_enough(names: Sequence[str], parts: Mapping[str, Labels]) -> None:
    """Raise `InputError` where a property lacks the values to calibrate (part `val`) or to measure (part `test`)."""
    for part, least in (("val", 10), ("test", 1)):
        for k, name in enumerate(names):
            known = int(np.isfinite(parts[part].values[:, k]).sum())
            if known < least:
                raise InputError(
                    f"{name} has {known} values in the {part} part (a tenth of the data), expected at least {least}: "
                    "more labelled data are needed"
                )


def predict_all(predictor: ModelPredictor, states: Iterable[State], device: torch.device | str) -> Prediction:
    """Predictions of all samples, on the CPU, without gradients."""
    with torch.no_grad():
        parts = [predictor(state.to(device)) for state in states]
    return Prediction(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in ("mean", "std", "logits")))


def calibrate(predictor: ModelPredictor, states: Iterable[State], labels: Labels) -> ModelPredictor:
    """The predictor calibrated on samples apart from those it was trained on.

    Raises:
        InputError: fewer than 10 samples of a property.
    """
    raw = calibrated(predictor, [1.0] * len(predictor.outputs), 1.0)
    found = predict_all(raw, states, next(predictor.network.parameters()).device)
    scales = []
    for k in range(len(predictor.outputs)):
        mean, std, values = _known(found, labels, k)
        scales.append(std_scale(mean, std, values))
    temperature = 1.0
    if labels.classes is not None:
        temperature = softmax_temperature(found.logits, torch.from_numpy(labels.classes))
    return calibrated(predictor, scales, temperature)


def quality(
    predictor: ModelPredictor, states: Iterable[State], labels: Labels, training: Labels
) -> dict[str, dict[str, float]]:
    """Output -> numbers on held-out samples.

    For a property: `mae` and `constant_mae`, that of always saying the training data's median, both in its unit;
    `std`, the mean of the standard deviations that were claimed; `coverage_error`, `coverage_68`, `coverage_95` of the
    Gaussian intervals; `n`. For the class: `accuracy`, `constant_accuracy`, that of always saying the most frequent,
    `calibration_error`, `n`.
    """
    found = predict_all(predictor, states, next(predictor.network.parameters()).device)
    result: dict[str, dict[str, float]] = {}
    for k, output in enumerate(predictor.outputs):
        mean, std, values = _known(found, labels, k)
        z = ((values - mean) / std).abs()
        result[output.name] = {
            "mae": float((values - mean).abs().mean()),
            "constant_mae": float((values - float(np.nanmedian(training.values[:, k]))).abs().mean()),
            "std": float(std.mean()),
            "coverage_error": coverage_error(mean, std, values),
            **{name: float((z <= width).double().mean()) for name, width in _LEVELS.items()},
            "n": len(values),
        }
    if labels.classes is not None and training.classes is not None:
        true = torch.from_numpy(labels.classes)
        commonest = int(np.bincount(training.classes).argmax())
        result["class"] = {
            "accuracy": float((found.logits.argmax(dim=1) == true).double().mean()),
            "constant_accuracy": float((true == commonest).double().mean()),
            "calibration_error": expected_calibration_error(found.logits, true),
            "n": len(true),
        }
    return result


def validation_errors(predictor: ModelPredictor, states: Iterable[State], labels: Labels) -> Mapping[str, float]:
    """What is watched while training: mean absolute errors, and the share of right classes."""
    found = predict_all(predictor, states, next(predictor.network.parameters()).device)
    errors = {}
    for k, output in enumerate(predictor.outputs):
        mean, _, values = _known(found, labels, k)
        errors[f"mae_{output.name}"] = float((values - mean).abs().mean())
    if labels.classes is not None:
        errors["accuracy"] = float((found.logits.argmax(dim=1) == torch.from_numpy(labels.classes)).double().mean())
    return errors


def _known(found: Prediction, labels: Labels, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means, standard deviations and true values, float64, of the samples that have a value of property k."""
    values = torch.from_numpy(labels.values[:, k])
    known = torch.isfinite(values)
    return found.mean[known, k].double(), found.std[known, k].double(), values[known]
