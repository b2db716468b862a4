"""`bonded_order`: the order in which an order-aware network sees the atoms of a molecule.

Heavy atoms stand in the order of the canonical SMILES of the molecule's skeleton, each followed by its hydrogens, so
that neighbours in the sequence are neighbours in space and a hydrogen belongs to the heavy atom before it. A network
that knows the place of an atom in this sequence decides what the atom is long before coordinates settle; without it
all atoms are alike until the noise is almost gone (the effect is measured in docs/results.md). Only distances are
used, so that any set with coordinates has this order.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem

from molgen.chemistry.bonds import connected_pairs
from molgen.data.molecules import MoleculeSet

# Skeletons are for counting neighbours: the order of a bond plays no part.
_BOND = Chem.BondType.SINGLE
_HYDROGEN = 1


def bonded_order(molecules: MoleculeSet) -> np.ndarray:
    """(A,) int64: atom k of the ordered set is atom `order[k]` of `molecules`; molecules keep their places.

    A hydrogen follows the nearest heavy atom of its molecule, whatever the distance. Molecules without heavy atoms
    stay as they are.
    """
    numbers, offsets = molecules.numbers, molecules.offsets
    first, second = connected_pairs(molecules)
    heavy = (numbers[first] != _HYDROGEN) & (numbers[second] != _HYDROGEN)
    first, second = first[heavy], second[heavy]
    sorting = np.argsort(first, kind="stable")
    first, second = first[sorting], second[sorting]
    bond_offsets = np.searchsorted(first, offsets)
    parts = [np.empty(0, np.int64)]
    for i in range(len(molecules)):
        start, stop = int(offsets[i]), int(offsets[i + 1])
        bonds = slice(bond_offsets[i], bond_offsets[i + 1])
        local = _molecule_order(
            numbers[start:stop], molecules.positions[start:stop], first[bonds] - start, second[bonds] - start
        )
        parts.append(start + local)
    return np.concatenate(parts)


def _molecule_order(numbers: np.ndarray, positions: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) order of one molecule from its bonds of heavy atoms."""
    heavy = np.flatnonzero(numbers != _HYDROGEN)
    if len(heavy) == 0:
        return np.arange(len(numbers))
    hydrogens = np.flatnonzero(numbers == _HYDROGEN)
    distances = np.linalg.norm(positions[hydrogens, None] - positions[None, heavy], axis=-1)
    parents = distances.argmin(axis=1)
    place = _skeleton_order(
        numbers[heavy],
        np.bincount(parents, minlength=len(heavy)),
        np.searchsorted(heavy, first),
        np.searchsorted(heavy, second),
    )
    # Rank of each heavy atom in the sequence; a hydrogen sorts right behind its parent.
    rank = np.empty(len(heavy), np.int64)
    rank[place] = np.arange(len(heavy))
    keys = np.empty(len(numbers), np.int64)
    keys[heavy] = 2 * rank
    keys[hydrogens] = 2 * rank[parents] + 1
    return np.argsort(keys, kind="stable")


def _skeleton_order(numbers: np.ndarray, hydrogens: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[int]:
    """Heavy atoms in the order in which RDKit writes them into the canonical SMILES."""
    skeleton = Chem.RWMol()
    for number, count in zip(numbers.tolist(), hydrogens.tolist(), strict=True):
        atom = Chem.Atom(number)
        # Explicit counts only: RDKit shall add no hydrogens of its own and judge no valence.
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(count)
        skeleton.AddAtom(atom)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        skeleton.AddBond(a, b, _BOND)
    skeleton.UpdatePropertyCache(strict=False)
    Chem.MolToSmiles(skeleton)
    return [int(i) for i in skeleton.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]]
