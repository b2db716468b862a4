"""`shapegen models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.cli.models import models_verb

if TYPE_CHECKING:
    from common.diffusion.model_store import ModelStore


def store() -> ModelStore:
    """The shipped models."""
    from shapegen.pretrained import STORE

    return STORE


VERB = models_verb(store)
