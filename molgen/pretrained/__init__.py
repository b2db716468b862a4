"""The models that ship with the package: a folder each, with weights, description and card."""

from __future__ import annotations

from pathlib import Path

import torch

from common.diffusion.model_store import ModelStore
from molgen.model import MoleculeModel
from molgen.pretrained.edm import is_edm_checkpoint, load_edm_model

STORE = ModelStore(Path(__file__).parent)


def load_pretrained(name: str | Path, device: torch.device | str = "cpu") -> MoleculeModel:
    """The shipped model called `name`, or the one in a folder: ours, a run's, or a published checkpoint of EDM."""
    folder = STORE.find(name)
    return load_edm_model(folder, device) if is_edm_checkpoint(folder) else MoleculeModel.load(folder, device)
