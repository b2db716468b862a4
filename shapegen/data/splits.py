"""Deterministic splits into training, validation and test."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import numpy as np

from common.errors import InputError
from shapegen.data.records import PARTS

logger = logging.getLogger(__name__)

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
_HALF_SEED = 42


def split(
    class_index: np.ndarray, groups: np.ndarray, seed: int = 0, fractions: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Part -> sorted indices, each class split alike by the hash of its groups.

    A shape's place depends on the groups of its class alone: neither on the order of the files nor on which other
    classes are read. Groups that come later move others by a few ranks. Shapes of one group stay together. A class with
    fewer groups than parts is all training.

    Args:
        class_index: (M,) class of each shape.
        groups: (M,) name of each shape's group; a group lies in the class of its first shape.
        seed: the same seed gives the same split.
        fractions: part -> share, summing to 1, the training part first; `FRACTIONS` where None.

    Raises:
        InputError: shares that do not sum to 1, or no shapes.
    """
    fractions = dict(FRACTIONS if fractions is None else fractions)
    shares = np.array(list(fractions.values()), dtype=np.float64)
    if not len(shares) or np.any(shares < 0) or abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"fractions {fractions} must not be negative and must sum to 1")
    if not len(groups):
        raise InputError("got no shapes to split, expected at least one")
    names, first, member = np.unique(np.asarray(groups, dtype=np.str_), return_index=True, return_inverse=True)
    class_of_group = np.asarray(class_index)[first]
    order = np.array([_hash(name, seed) for name in names], dtype=np.uint64).argsort(kind="stable")
    part_of_group = np.zeros(len(names), dtype=np.int64)
    small = 0
    for k in np.unique(class_of_group):
        ranked = order[class_of_group[order] == k]
        if len(ranked) < (shares > 0).sum():
            small += 1
            continue
        part_of_group[ranked] = _cut(len(ranked), shares)
    if small:
        logger.warning("%d classes are too small to split: all of their shapes are for training", small)
    return {name: np.flatnonzero(part_of_group[member] == k) for k, name in enumerate(fractions)}


def halves(class_index: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Sorted indices of the halves of a training part: `a` for judges, `b` for generators and rewards."""
    return split(class_index, groups, _HALF_SEED, {"a": 0.5, "b": 0.5})


def published(parts: np.ndarray, class_index: np.ndarray, groups: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Part -> sorted indices from the published part (M,) of each shape.

    Where only training and test are published, a tenth of the training part becomes the validation part.
    """
    found = {name: np.flatnonzero(parts == name) for name in PARTS}
    if not len(found["val"]) and len(found["train"]):
        train = found["train"]
        inner = split(class_index[train], groups[train], seed, {"train": 0.9, "val": 0.1})
        found |= {name: train[indices] for name, indices in inner.items()}
    return found


def _hash(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")


def _cut(count: int, shares: np.ndarray) -> np.ndarray:
    """(count,) part of each rank; every part with a share gets at least one."""
    middle = (np.arange(count) + 0.5) / count
    part = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
    for k in np.flatnonzero(shares > 0):
        if not (part == k).any():
            donor = int(np.bincount(part, minlength=len(shares)).argmax())
            part[np.flatnonzero(part == donor)[-1]] = k
    return part
