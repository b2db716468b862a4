"""Learned predictors of properties and classes, with calibrated spread. Free of training: see `common.training`."""

from common.predictors.calibration import (
    coverage_error,
    expected_calibration_error,
    softmax_temperature,
    std_scale,
)
from common.predictors.predictor import (
    CLASS,
    ModelPredictor,
    Output,
    Prediction,
    Predictor,
    PropertyFunction,
    find_output,
    read_predictor,
)

__all__ = [
    "CLASS",
    "ModelPredictor",
    "Output",
    "Prediction",
    "Predictor",
    "PropertyFunction",
    "coverage_error",
    "expected_calibration_error",
    "find_output",
    "read_predictor",
    "softmax_temperature",
    "std_scale",
]
