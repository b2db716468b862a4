"""Learned predictors of molecular properties: two architectures, so that a reward and its judge never are the same
network. One file and one row each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from common.diffusion import State
from common.diffusion.model_file import WEIGHTS, model_directory
from common.diffusion.model_store import ModelStore
from common.named import build
from common.predictors import ModelPredictor
from molgen.data.codec import MoleculeCodec
from molgen.predictors.equivariant import E3Network
from molgen.predictors.invariant import InvariantEGNN

NETWORKS = {"egnn": InvariantEGNN, "e3nn": E3Network}
# The predictors that ship with the package, and the one that `predicted_gap` means.
PREDICTORS = ModelStore(Path(__file__).parents[1] / "pretrained" / "predictors")
DEFAULT = "gdb7-xtb-egnn"


@dataclass(frozen=True)
class Translation:
    """States of one codec -> states of another that has the same meaning; differentiable.

    A molecule with an element that the other codec lacks is unknown to it; so is one without atoms.

    Attributes:
        given: codec of the states that come in.
        wanted: codec of those that go out.
    """

    given: MoleculeCodec
    wanted: MoleculeCodec

    def __call__(self, state: State) -> tuple[State, Tensor]:
        """The states, and which of them (B,) are known."""
        types = state.x[..., 3 : 3 + len(self.given.elements)] / self.given.type_scale
        places = {element: k for k, element in enumerate(self.given.elements)}
        # A blank column stands for what the given codec lacks.
        types = torch.cat([types, torch.zeros_like(types[..., :1])], dim=-1)
        columns = [places.get(element, -1) for element in self.wanted.elements]
        strange = [k for k, element in enumerate(self.given.elements) if element not in self.wanted.elements]
        known = state.mask.any(dim=1)
        if strange:
            strongest = types[..., :-1].argmax(dim=-1, keepdim=True)
            known = known & ~((strongest == torch.tensor(strange, device=types.device)).any(-1) & state.mask).any(dim=1)
        coordinates = state.x[..., :3] * (self.wanted.coordinate_scale / self.given.coordinate_scale)
        x = torch.cat([coordinates, types[..., columns] * self.wanted.type_scale], dim=-1)
        return State(x, state.mask), known


def load_predictor(
    name: str | Path = DEFAULT,
    codec: MoleculeCodec | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModelPredictor:
    """The shipped predictor called `name`, or the one in a folder or a run.

    Args:
        name: of a shipped predictor, or a folder.
        codec: of the states that it will be given; None for its own (Angstrom and one-hot types).
        device: where it works.
        dtype: of its arithmetic.

    Raises:
        InputError: there is none such.
    """
    folder = model_directory(PREDICTORS.find(name).resolve())
    written = (folder / WEIGHTS).stat().st_mtime_ns if (folder / WEIGHTS).exists() else 0
    predictor = _load(folder, str(device), dtype, written)
    own = build(MoleculeCodec, predictor.description["codec"], "codec")
    return replace(predictor, translate=Translation(own if codec is None else codec, own))


@cache
def _load(folder: Path, device: str, dtype: torch.dtype, written: int) -> ModelPredictor:
    """Frozen, so that all who ask for it share one, until its file is `written` anew."""
    predictor = ModelPredictor.load(folder, "molgen", NETWORKS, device)
    predictor.network.to(dtype)
    return predictor
