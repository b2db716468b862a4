"""Deterministic splits into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.errors import InputError
from molgen.data.molecules import MoleculeSet

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
_HALF_SEED = 42


def split(molecules: MoleculeSet, seed: int = 0, fractions: Mapping[str, float] | None = None) -> dict[str, np.ndarray]:
    """Part -> sorted indices. Molecules with the same SMILES stay together, so that no part leaks into another.

    Args:
        molecules: M molecules. SMILES are compared as text (the readers make them canonical); a molecule without
            one is on its own.
        seed: the same seed gives the same split.
        fractions: part -> share of the molecules, summing to 1; `FRACTIONS` where None. A part with a share gets at
            least one group.

    Raises:
        InputError: shares that do not sum to 1, or fewer different molecules than parts.
    """
    fractions = dict(FRACTIONS if fractions is None else fractions)
    shares = np.array(list(fractions.values()), dtype=np.float64)
    if not len(shares) or np.any(shares < 0) or abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"fractions {fractions} must not be negative and must sum to 1")
    groups = _groups(molecules)
    n_groups, n_parts = int(groups.max(initial=-1)) + 1, int((shares > 0).sum())
    if n_groups < n_parts:
        raise InputError(f"{n_groups} different molecules cannot be split into {n_parts} parts")
    order = np.random.default_rng(seed).permutation(n_groups)
    sizes = np.bincount(groups, minlength=n_groups)[order]
    # A group goes to the part in whose share its middle falls.
    middle = (np.cumsum(sizes) - 0.5 * sizes) / len(molecules)
    part_of_rank = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
    _fill_empty(part_of_rank, shares)
    part = np.empty(n_groups, dtype=np.int64)
    part[order] = part_of_rank
    return {name: np.flatnonzero(part[groups] == k) for k, name in enumerate(fractions)}


def halves(molecules: MoleculeSet) -> dict[str, np.ndarray]:
    """Sorted indices of the halves of a training part: `a` for judges, `b` for generators and rewards."""
    return split(molecules, _HALF_SEED, {"a": 0.5, "b": 0.5})


def _groups(molecules: MoleculeSet) -> np.ndarray:
    """(M,) number of the group of each molecule."""
    if molecules.smiles is None:
        return np.arange(len(molecules))
    labels = np.array([s or f" {i}" for i, s in enumerate(molecules.smiles)], dtype=np.str_)
    return np.unique(labels, return_inverse=True)[1]


def _fill_empty(part_of_rank: np.ndarray, shares: np.ndarray) -> None:
    """Give every part with a share one group, taken from the largest part (in place)."""
    for k in np.flatnonzero(shares > 0):
        counts = np.bincount(part_of_rank, minlength=len(shares))
        if counts[k] == 0:
            donor = int(counts.argmax())
            part_of_rank[np.flatnonzero(part_of_rank == donor)[-1]] = k
