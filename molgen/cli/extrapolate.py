"""`molgen extrapolate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from common.cli.extrapolation import extrapolation_verb

if TYPE_CHECKING:
    from molgen.model import MoleculeModel


def load() -> Callable[[str], MoleculeModel]:
    """How models are found."""
    from molgen.pretrained import load_pretrained

    return load_pretrained


VERB = extrapolation_verb("molgen", load)
