"""`ModelPredictor`: a trained network that predicts properties, whole, with units, ranges and calibration.

On disk it is a folder like any model's (`common.diffusion.model_file`), of the domain `DOMAIN-predictor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion import State
from common.diffusion.model_file import load_weights, model_directory, read_description, read_model, save_model
from common.errors import InputError
from common.named import build, build_named, nearest

# Clean states -> (mean (B,), std (B,)) of a continuous y, or logits (B, C) of a class.
Predictor = Callable[[State], "tuple[Tensor, Tensor] | Tensor"]

# States -> the network's own states, and which samples (B,) it can say something about.
Translate = Callable[[State], "tuple[State, Tensor]"]

# The name under which a predictor's class is asked for.
CLASS = "class"

# No claim is sharper than this share of the training data's spread.
_SHARPEST = 1e-3
# Samples that go through the network at a time.
_CHUNK = 256


@dataclass(frozen=True)
class Output:
    """One predicted property.

    Attributes:
        name: its column, with the unit (`gap_ev`).
        unit: for people; "" for a pure number, None where nobody stated it.
        centre, scale: of what the network learns: property = centre + scale * value.
        low, high: the range of the training data.
        std_scale: calibration, see `common.predictors.calibration.std_scale`.
    """

    name: str
    unit: str | None
    centre: float
    scale: float
    low: float
    high: float
    std_scale: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of B samples.

    Attributes:
        mean: (B, P) in the properties' units; NaN for a sample about which it can say nothing.
        std: (B, P) calibrated standard deviations, likewise.
        logits: (B, C) of the classes, calibrated; NaN likewise.
    """

    mean: Tensor
    std: Tensor
    logits: Tensor


def _untranslated(state: State) -> tuple[State, Tensor]:
    return state, torch.ones(len(state), dtype=torch.bool, device=state.x.device)


@dataclass
class ModelPredictor:
    """Predicts P properties, and the class if it was trained to.

    Attributes:
        network: (x (B, N, D), mask (B, N)) -> (standardised means and raw spreads (B, P, 2), logits (B, C)).
        outputs: the P properties.
        classes: names of the C classes.
        temperature: calibration of the logits, see `softmax_temperature`.
        description: everything else that `model.json` holds.
        translate: from the states that it is given to the network's own.
    """

    network: nn.Module
    outputs: tuple[Output, ...]
    classes: tuple[str, ...] = ()
    temperature: float = 1.0
    description: Mapping[str, Any] = field(default_factory=dict)
    translate: Translate = _untranslated

    @classmethod
    def create(cls, description: Mapping[str, Any], networks: Mapping[str, Callable[..., nn.Module]]) -> ModelPredictor:
        """An untrained predictor from a description as `model.json` holds it."""
        return cls(
            network=build_named(description["network"], networks, "architecture"),
            outputs=tuple(build(Output, output, "output") for output in description["outputs"]),
            classes=tuple(description["classes"]),
            temperature=description["temperature"],
            description=description,
        )

    @classmethod
    def load(
        cls, directory: Path, domain: str, networks: Mapping[str, Callable[..., nn.Module]], device: torch.device | str
    ) -> ModelPredictor:
        """The predictor in a folder, or in the `model` folder of a run, frozen, on `device`.

        Raises:
            InputError: there is none, one of another domain, or weights that do not fit.
        """
        description, weights = read_model(directory, predictor_domain(domain))
        predictor = cls.create(description, networks)
        load_weights(predictor.network, weights, str(directory))
        predictor.network.eval().requires_grad_(False).to(device)
        return predictor

    def save(self, directory: str | Path, stored: Callable[[str, Tensor], Tensor] = lambda _, value: value) -> None:
        """Write the model folder; `stored` says how each named tensor is stored."""
        description = {
            **self.description,
            "outputs": [asdict(output) for output in self.outputs],
            "classes": list(self.classes),
            "temperature": self.temperature,
        }
        weights = {name: stored(name, value) for name, value in self.network.state_dict().items()}
        save_model(Path(directory), weights, description)

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for: columns, and `class` where there are classes."""
        return (*(output.name for output in self.outputs), *([CLASS] if self.classes else []))

    def __call__(self, state: State) -> Prediction:
        """Predictions for clean states, differentiable with respect to `state.x`."""
        parts = [
            self._predict(state.index(slice(start, start + _CHUNK))) for start in range(0, max(1, len(state)), _CHUNK)
        ]
        return Prediction(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.std for part in parts]),
            torch.cat([part.logits for part in parts]),
        )

    def _predict(self, state: State) -> Prediction:
        own, known = self.translate(state)
        values, logits = self.network(own.x.to(next(self.network.parameters()).dtype), own.mask)
        values, logits = values.to(state.x.dtype), logits.to(state.x.dtype)
        z, z_std = standardised(values)
        row = {"dtype": z.dtype, "device": z.device}
        centre, scale, std_scale = (
            torch.tensor([getattr(output, name) for output in self.outputs], **row)
            for name in ("centre", "scale", "std_scale")
        )
        blank = torch.full((), torch.nan, **row)
        known = known[:, None]
        return Prediction(
            torch.where(known, centre + scale * z, blank),
            torch.where(known, scale * std_scale * z_std, blank),
            torch.where(known, logits / self.temperature, blank),
        )

    def knows(self, column: str) -> bool:
        """Whether it predicts the property of this column."""
        return any(output.name.lower() == column.lower() for output in self.outputs)

    def for_property(self, name: str) -> PropertyFunction:
        """The predictor of one property (column, or name without the unit), or of the class (`class`).

        Raises:
            InputError: it does not predict that; the nearest is named.
        """
        if name.lower() == CLASS and self.classes:
            return PropertyFunction(self, CLASS, None)
        index = find_output(self.outputs, name, self.names)
        return PropertyFunction(self, self.outputs[index].name, index)


@dataclass(frozen=True)
class PropertyFunction:
    """A `Predictor` of one quantity.

    Attributes:
        predictor: all of them.
        name: the column, or `class`.
        index: among the predictor's outputs; None for the class.
    """

    predictor: ModelPredictor
    name: str
    index: int | None

    @property
    def output(self) -> Output | None:
        """Unit, range and calibration; None for the class."""
        return None if self.index is None else self.predictor.outputs[self.index]

    def __call__(self, state: State) -> tuple[Tensor, Tensor] | Tensor:
        """See `Predictor`."""
        found = self.predictor(state)
        if self.index is None:
            return found.logits
        return found.mean[:, self.index], found.std[:, self.index]


def predictor_domain(domain: str) -> str:
    """What `model.json` of a predictor says in `domain`, so that no generator is taken for one."""
    return f"{domain}-predictor"


def standardised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, P) and positive standard deviations (B, P), standardised, from a network's values (B, P, 2)."""
    return values[..., 0], F.softplus(values[..., 1]) + _SHARPEST


def find_output(outputs: Sequence[Output], name: str, known: Sequence[str]) -> int:
    """The place of the output whose column is called `name`, as it stands or without its unit (`gap` for `gap_ev`).

    Raises:
        InputError: there is none such, or several; the nearest of `known` is named.
    """
    columns = [output.name.lower() for output in outputs]
    wanted = name.lower()
    found = [columns.index(wanted)] if wanted in columns else []
    found = found or [k for k, column in enumerate(columns) if column.startswith(f"{wanted}_")]
    if len(found) != 1:
        raise InputError(f"this predictor knows no '{name}'{nearest(name, known)}; it predicts {', '.join(known)}")
    return found[0]


def read_predictor(directory: Path, domain: str) -> tuple[tuple[Output, ...], Mapping[str, Any]]:
    """The outputs and the description of a predictor, without its weights.

    Raises:
        InputError: there is none, or one of another domain.
    """
    directory = model_directory(directory)
    description = read_description(directory)
    if description.get("domain") != predictor_domain(domain):
        raise InputError(
            f"{directory} is a model of {description.get('domain')!r}, expected a predictor ('{domain}-predictor')"
        )
    return tuple(build(Output, output, "output") for output in description["outputs"]), description


def calibrated(predictor: ModelPredictor, std_scales: Sequence[float], temperature: float) -> ModelPredictor:
    """The predictor with another calibration."""
    outputs = tuple(replace(o, std_scale=s) for o, s in zip(predictor.outputs, std_scales, strict=True))
    return replace(predictor, outputs=outputs, temperature=temperature)
