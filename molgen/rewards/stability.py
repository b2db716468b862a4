"""Yes-or-no scorers of whole sets: EDM's stability rule, perception, repetition; without workers of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molgen.chemistry.bonds import edm_stability, per_molecule
from molgen.chemistry.perception import Perceived
from molgen.data.molecules import MoleculeSet


def valid(_molecules: MoleculeSet, perceived: Sequence[Perceived]) -> np.ndarray:
    """(M,) 1 where RDKit perceives one connected, sanitised molecule of the right charge, else 0; never NaN."""
    return np.array([one.valid for one in perceived], dtype=np.float64)


def stable(molecules: MoleculeSet, _perceived: Sequence[Perceived]) -> np.ndarray:
    """(M,) 1 where every atom has an allowed valence by EDM's distance table (arXiv 2203.17003), else 0; NaN where the
    rule has no valence for an element."""
    stability = edm_stability(molecules)
    return np.where(stability.covered, stability.molecules.astype(np.float64), np.nan)


def atom_stability(molecules: MoleculeSet, _perceived: Sequence[Perceived]) -> np.ndarray:
    """(M,) share of the atoms with an allowed valence by the same rule, 0 to 1; 0 for a molecule without atoms."""
    stability = edm_stability(molecules)
    share = per_molecule(stability.atoms, molecules.offsets) / np.maximum(molecules.num_atoms, 1)
    return np.where(stability.covered, share, np.nan)


def unique(_molecules: MoleculeSet, perceived: Sequence[Perceived]) -> np.ndarray:
    """(M,) 1 the first time that a valid molecule occurs in the set, stereochemistry aside, else 0; never NaN."""
    seen: set[str] = set()
    first = np.zeros(len(perceived))
    for place, one in enumerate(perceived):
        if one.valid and one.flat_smiles not in seen:
            seen.add(one.flat_smiles)
            first[place] = 1.0
    return first
