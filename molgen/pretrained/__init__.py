"""The models that ship with the package: a folder each, with weights, description and card."""

from __future__ import annotations

from pathlib import Path

import torch

from common.diffusion.model_file import DESCRIPTION
from common.errors import InputError
from common.named import nearest
from molgen.model import MoleculeModel
from molgen.pretrained.edm import is_edm_checkpoint, load_edm_model

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.parent.name for path in _HERE.glob(f"*/{DESCRIPTION}"))


def find_model(name: str | Path) -> Path:
    """The folder of a shipped model, of a model folder, or of a run directory; an `InputError` otherwise."""
    if str(name) in names():
        return _HERE / str(name)
    path = Path(name)
    if path.is_dir():
        return path
    shipped = names()
    raise InputError(
        f"no model '{name}'{nearest(str(name), shipped)}; expected a model folder, a run directory, or one of: "
        f"{', '.join(shipped) or 'none'}"
    )


def load_pretrained(name: str | Path, device: torch.device | str = "cpu") -> MoleculeModel:
    """The shipped model called `name`, or the one in a folder: ours, a run's, or a published checkpoint of EDM."""
    folder = find_model(name)
    return load_edm_model(folder, device) if is_edm_checkpoint(folder) else MoleculeModel.load(folder, device)
