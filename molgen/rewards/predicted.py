"""Properties that a network predicts from states: differentiable, on the state's device, and as good as its training.

A reward that is maximised finds the predictor's mistakes: judge by another one, or by xTB.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.diffusion import State
from common.predictors import PropertyFunction, find_output, read_predictor
from common.rewards import PREDICTED, Measured
from molgen.data.codec import MoleculeCodec
from molgen.predictors import DEFAULT, PREDICTORS, load_predictor

if TYPE_CHECKING:
    from molgen.rewards.table import Scorer


@dataclass(frozen=True)
class PredictedProperty:
    """The mean that a predictor gives for one property, in its unit; NaN for a molecule with an element that it was
    never shown.

    Attributes:
        codec: of the states.
        name: of the quantity.
        source: folder of the predictor.
        column: the property.
    """

    codec: MoleculeCodec
    name: str
    source: Path
    column: str
    differentiable: bool = True
    _loaded: dict[tuple[torch.device, torch.dtype], PropertyFunction] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """See `common.rewards.Measure`."""
        return (self.name,)

    def __call__(self, state: State) -> Measured:
        """See `common.rewards.Measure`."""
        # Loaded once for each device and precision: a file that changes must not change a reward that is in use.
        place = state.x.device, state.x.dtype
        if place not in self._loaded:
            self._loaded[place] = load_predictor(self.source, self.codec, *place).for_property(self.column)
        function = self._loaded[place]
        return Measured({self.name: function.predictor(state).mean[:, function.index]})


def shipped(name: str, codec: MoleculeCodec) -> PredictedProperty:
    """The measure `name`, PREDICTED and a column, by the predictor that ships with the package."""
    return PredictedProperty(codec, name, PREDICTORS.find(DEFAULT), name.removeprefix(PREDICTED))


def resolve(scorer: Scorer, argument: str | None) -> Scorer:
    """The row with the predictor that stood in parentheses, or the shipped one, and the range of its training data.

    Raises:
        InputError: no such predictor, or it does not predict that property.
    """
    folder = PREDICTORS.find(DEFAULT if argument is None else argument)
    outputs, description = read_predictor(folder, "molgen")
    wanted = scorer.name.removeprefix(PREDICTED)
    output = outputs[find_output(outputs, wanted, [output.name for output in outputs])]
    name = PREDICTED + output.name + ("" if argument is None else f"({argument})")
    return replace(
        scorer,
        name=name,
        argument=argument or "",
        unit=output.unit,
        description=f"{output.name}, predicted by {description['name']}",
        trained_on=(output.low, output.high),
        on_states=partial(PredictedProperty, name=name, source=folder, column=output.name),
    )
