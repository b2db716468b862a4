"""Properties that a network predicts from points: differentiable, on their device, and as good as its training.

A reward that is maximised finds the predictor's mistakes: judge by another one, or by the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from common.diffusion import State
from common.predictors import PropertyFunction, find_output, read_predictor
from common.predictors.predictor import Output
from common.rewards import PREDICTED
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import METRES
from shapegen.predictors import DEFAULT, PREDICTORS, load_predictor
from shapegen.rewards.cloud import Cloud


@dataclass(frozen=True)
class PredictedProperty:
    """The mean that a predictor gives for one property of a cloud, in its unit.

    Attributes:
        source: folder of the predictor.
        column: the property.
    """

    source: Path
    column: str
    _loaded: dict[tuple[torch.device, torch.dtype, str], PropertyFunction] = field(default_factory=dict, repr=False)

    def __call__(self, cloud: Cloud, argument: str) -> Tensor:
        """(B,) values.

        Raises:
            InputError: the clouds have a unit of length and the predictor's data had none, or the other way round.
        """
        x = cloud.points
        unit = "m" if cloud.unit in METRES else cloud.unit
        # Loaded once for each kind of cloud: a file that changes must not change a reward that is in use.
        kind = x.device, x.dtype, unit
        if kind not in self._loaded:
            predictor = load_predictor(self.source, ShapeCodec(unit=unit), x.device, x.dtype)
            self._loaded[kind] = predictor.for_property(self.column)
        function = self._loaded[kind]
        return function.predictor(State(x * cloud.mask[..., None], cloud.mask)).mean[:, function.index]


def find_predicted(name: str, argument: str | None) -> tuple[Output, str, PredictedProperty]:
    """What `predicted_NAME(FOLDER)` means, or `predicted_NAME` by the shipped predictor: the output, the name of the
    predictor, and its values.

    Raises:
        InputError: there is no such predictor, or it does not predict that number.
    """
    folder = PREDICTORS.find(DEFAULT if argument is None else argument)
    outputs, description = read_predictor(folder, "shapegen")
    columns = [output.name for output in outputs]
    output = outputs[find_output(outputs, name.removeprefix(PREDICTED), columns)]
    return output, description["name"], PredictedProperty(folder, output.name)
