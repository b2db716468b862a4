"""Learned predictors of a shape's properties and class from its points. One file and one row each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from common.diffusion import State
from common.diffusion.model_file import WEIGHTS, model_directory
from common.diffusion.model_store import ModelStore
from common.errors import InputError
from common.named import build
from common.predictors import ModelPredictor
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import METRES
from shapegen.predictors.point_set import PointSet

NETWORKS = {"point_set": PointSet}
# The predictors that ship with the package, and the one that `predicted_volume` means.
PREDICTORS = ModelStore(Path(__file__).parents[1] / "pretrained" / "predictors")
DEFAULT = "procedural-point_set"


@dataclass(frozen=True)
class Translation:
    """States of one codec -> states of the same size in another's scale; differentiable. Places are not kept: the
    networks do not look at them.

    Attributes:
        given: codec of the states that come in.
        wanted: codec of those that go out.

    Raises:
        InputError: the first has lost the size that the second speaks of, or their units cannot be converted.
    """

    given: ShapeCodec
    wanted: ShapeCodec

    def __post_init__(self) -> None:
        if self.given.mode == "per_shape" and self.wanted.mode != "per_shape":
            raise InputError("the states have no size (normalised per_shape), but the predictor learned from sizes")
        if self.given.unit != self.wanted.unit and not {self.given.unit, self.wanted.unit} <= METRES.keys():
            raise InputError(
                f"the states are in '{self.given.unit}', but the predictor learned from '{self.wanted.unit}': "
                "these cannot be converted"
            )

    def __call__(self, state: State) -> tuple[State, Tensor]:
        """The states, and which of them (B,) are known: those with points."""
        factor = self.given.scale / self.wanted.scale
        if self.given.unit != self.wanted.unit:
            factor *= METRES[self.given.unit] / METRES[self.wanted.unit]
        return State(state.x * factor, state.mask), state.mask.any(dim=1)


def load_predictor(
    name: str | Path,
    codec: ShapeCodec | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModelPredictor:
    """The shipped predictor called `name`, or the one in a folder or a run.

    Args:
        name: of a shipped predictor, or a folder.
        codec: of the states that it will be given; None for its own.
        device: where it works.
        dtype: of its arithmetic.

    Raises:
        InputError: there is none such, or it does not fit the codec.
    """
    folder = model_directory(PREDICTORS.find(name).resolve())
    written = (folder / WEIGHTS).stat().st_mtime_ns if (folder / WEIGHTS).exists() else 0
    predictor = _load(folder, str(device), dtype, written)
    own = build(ShapeCodec, predictor.description["codec"], "codec")
    return replace(predictor, translate=Translation(own if codec is None else codec, own))


@cache
def _load(folder: Path, device: str, dtype: torch.dtype, written: int) -> ModelPredictor:
    """Frozen, so that all who ask for it share one, until its file is `written` anew."""
    predictor = ModelPredictor.load(folder, "shapegen", NETWORKS, device)
    predictor.network.to(dtype)
    return predictor
