"""The models that ship with the package: a folder each, with weights, description and card."""

from __future__ import annotations

from pathlib import Path

import torch

from common.diffusion.model_store import ModelStore
from shapegen.model import ShapeModel

STORE = ModelStore(Path(__file__).parent)


def load_pretrained(name: str | Path, device: torch.device | str = "cpu") -> ShapeModel:
    """The shipped model called `name`, or the one in a folder or a run directory."""
    return ShapeModel.load(STORE.find(name), device)
