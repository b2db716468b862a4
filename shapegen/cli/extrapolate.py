"""`shapegen extrapolate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from common.cli.extrapolation import extrapolation_verb

if TYPE_CHECKING:
    from shapegen.model import ShapeModel


def load() -> Callable[[str], ShapeModel]:
    """How models are found."""
    from shapegen.pretrained import load_pretrained

    return load_pretrained


VERB = extrapolation_verb("shapegen", load)
