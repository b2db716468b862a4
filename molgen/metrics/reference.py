"""A reference set, prepared once so that many sets of samples can be compared with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from molgen.chemistry.perception import flat_smiles, perceive
from molgen.data.molecules import MoleculeSet
from molgen.metrics.geometry import TypedValues, bonds_and_angles
from molgen.metrics.validity import edm_smiles

# More molecules add nothing to the distributions but time.
GEOMETRY_LIMIT = 5000


@dataclass(frozen=True)
class Reference:
    """What the metrics need of a reference set.

    Attributes:
        molecules: the set itself, for sizes and compositions.
        smiles: its molecules' SMILES without stereochemistry, for novelty.
        edm_smiles: the same by EDM's distance table, with explicit H, for novelty as EDM counts it.
        lengths, angles: bond lengths (Angstrom) and angles (degrees) of at most `GEOMETRY_LIMIT` molecules.
    """

    molecules: MoleculeSet
    smiles: frozenset[str]
    edm_smiles: frozenset[str]
    lengths: TypedValues
    angles: TypedValues

    @classmethod
    def from_molecules(
        cls, molecules: MoleculeSet, single_only: bool = False, workers: int | None = None, seed: int = 0
    ) -> Reference:
        """Perceive a set (about 2,500 molecules/s a core). Where it names SMILES, these count as known too."""
        perceived = perceive(molecules, workers)
        known = {one.flat_smiles for one in perceived if one.valid}
        if molecules.smiles is not None:
            known |= flat_smiles(set(molecules.smiles.tolist()))
        explicit, _ = edm_smiles(molecules, single_only)
        order = np.random.default_rng(seed).permutation(len(molecules))[:GEOMETRY_LIMIT]
        lengths, angles = bonds_and_angles([perceived[i] for i in order])
        return cls(molecules, frozenset(known), frozenset(text for text in explicit if text), lengths, angles)

    def with_smiles(self, smiles: Iterable[str]) -> Reference:
        """This reference with more molecules known to it by SMILES."""
        return replace(self, smiles=self.smiles | flat_smiles(smiles))
