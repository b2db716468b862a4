"""Bonds from distances: EDM's table and rule, and connectivity by covalent radii, over whole sets at once.

EDM (Hoogeboom et al. 2022, arXiv 2203.17003, appendix on bond distances) reads a bond order from the distance of
two atoms and the pair of elements: single below the typical single-bond length plus 10 pm; of these, double below
the double-bond length plus 5 pm; of these, triple below the triple-bond length plus 3 pm. A pair that the table
lacks has no bond. An atom is stable if its bond orders add up to a valence that the rule allows for its element,
a molecule if all its atoms are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from molgen.chemistry import elements
from molgen.data.molecules import MoleculeSet

# Typical bond lengths in pm (EDM's tables; pairs are symmetric).
SINGLE_PM = {
    "H": {"H": 74, "B": 119, "C": 109, "N": 101, "O": 96, "F": 92, "Si": 148, "P": 144, "S": 134, "Cl": 127,
          "As": 152, "Br": 141, "I": 161},
    "B": {"Cl": 175},
    "C": {"C": 154, "N": 147, "O": 143, "F": 135, "Si": 185, "P": 184, "S": 182, "Cl": 177, "Br": 194, "I": 214},
    "N": {"N": 145, "O": 140, "F": 136, "P": 177, "S": 168, "Cl": 175, "Br": 214, "I": 222},
    "O": {"O": 148, "F": 142, "Si": 163, "P": 163, "S": 151, "Cl": 164, "Br": 172, "I": 194},
    "F": {"F": 142, "Si": 160, "P": 156, "S": 158, "Cl": 166, "Br": 178, "I": 187},
    "Si": {"Si": 233, "S": 200, "Cl": 202, "Br": 215, "I": 243},
    "P": {"P": 221, "S": 210, "Cl": 203, "Br": 222},
    "S": {"S": 204, "Cl": 207, "Br": 225, "I": 234},
    "Cl": {"Cl": 199, "Br": 214},
    "Br": {"Br": 228},
    "I": {"I": 266},
}  # fmt: skip
DOUBLE_PM = {
    "C": {"C": 134, "N": 129, "O": 120, "S": 160},
    "N": {"N": 125, "O": 121},
    "O": {"O": 121, "P": 150},
    "P": {"S": 186},
}
TRIPLE_PM = {"C": {"C": 120, "N": 116, "O": 113}, "N": {"N": 110}}
MARGINS_PM = (10, 5, 3)

# The sums of bond orders at which an atom counts as stable. S is 4 there; Al, Hg and Bi have no bond length in the
# table, so they can never be stable.
ALLOWED_VALENCES = {
    "H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,), "P": (3, 5), "S": (4,),
    "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5),
}  # fmt: skip

# Two atoms are taken as connected below this factor times the sum of their covalent radii (RDKit's default).
CONNECTED_FACTOR = 1.3

_PAIRS_PER_BLOCK = 2_000_000
_MAX_VALENCE = 15


@dataclass(frozen=True)
class Bonds:
    """The bonds of a `MoleculeSet`, sorted by first, then second atom, so a molecule's bonds are contiguous.

    Attributes:
        first, second: (B,) int64, atom indices into the set's flat arrays, first < second.
        order: (B,) int8, 1, 2 or 3.
        offsets: (M + 1,) int64; molecule k owns the bonds `offsets[k]:offsets[k + 1]`.
    """

    first: np.ndarray
    second: np.ndarray
    order: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Stability:
    """EDM's stability of every atom and molecule of a set.

    Attributes:
        atoms: (A,) bool, the atom's bond orders add up to an allowed valence.
        molecules: (M,) bool, all atoms are stable; False for a molecule without atoms.
        covered: (M,) bool, EDM's rule names a valence for every element of the molecule.
    """

    atoms: np.ndarray
    molecules: np.ndarray
    covered: np.ndarray


def edm_bonds(molecules: MoleculeSet) -> Bonds:
    """Bonds by EDM's distance table. NaN coordinates and pairs that the table lacks have no bond."""
    single, double, triple = _thresholds_pm()
    firsts, seconds, orders = [], [], []
    for first, second, distance in _pair_blocks(molecules):
        # EDM scales a float32 distance in double precision, so the comparison is made there.
        distance_pm = 100.0 * distance.astype(np.float64)
        pair = molecules.numbers[first], molecules.numbers[second]
        bonded = distance_pm < single[pair]
        first, second, distance_pm = first[bonded], second[bonded], distance_pm[bonded]
        pair = molecules.numbers[first], molecules.numbers[second]
        is_double = distance_pm < double[pair]
        is_triple = is_double & (distance_pm < triple[pair])
        firsts.append(first)
        seconds.append(second)
        orders.append(1 + is_double.astype(np.int8) + is_triple)
    return _sorted_bonds(molecules, firsts, seconds, orders)


def edm_stability(molecules: MoleculeSet, bonds: Bonds | None = None) -> Stability:
    """EDM's atom and molecule stability (arXiv 2203.17003). `bonds` saves their second computation."""
    bonds = edm_bonds(molecules) if bonds is None else bonds
    n_atoms = len(molecules.numbers)
    valence = np.bincount(bonds.first, bonds.order, n_atoms) + np.bincount(bonds.second, bonds.order, n_atoms)
    allowed = _allowed_valences()
    known = molecules.numbers <= elements.MAX_NUMBER
    numbers = np.where(known, molecules.numbers, 0)
    atoms = allowed[numbers, np.minimum(valence, _MAX_VALENCE).astype(np.int64)]
    sizes = molecules.num_atoms
    return Stability(
        atoms=atoms,
        molecules=(per_molecule(atoms, molecules.offsets) == sizes) & (sizes > 0),
        covered=per_molecule((allowed.sum(axis=1) > 0)[numbers], molecules.offsets) == sizes,
    )


def uncovered_numbers(molecules: MoleculeSet) -> list[int]:
    """The atomic numbers in the set for which EDM's rule names no valence."""
    numbers = np.unique(molecules.numbers)
    covered = set(np.flatnonzero(_allowed_valences().sum(axis=1)).tolist())
    return [z for z in numbers.tolist() if z not in covered]


def connected_pairs(molecules: MoleculeSet, factor: float = CONNECTED_FACTOR) -> tuple[np.ndarray, np.ndarray]:
    """Atom indices (C,), (C,), first < second, of all pairs closer than `factor` times the sum of their covalent
    radii. An atom of an unknown element has radius 0."""
    radii = np.zeros(256)
    radii[: elements.MAX_NUMBER + 1] = np.nan_to_num(elements.covalent_radii())
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, second, distance in _pair_blocks(molecules):
        near = distance < factor * (radii[molecules.numbers[first]] + radii[molecules.numbers[second]])
        firsts.append(first[near])
        seconds.append(second[near])
    return np.concatenate(firsts), np.concatenate(seconds)


def count_fragments(molecules: MoleculeSet, factor: float = CONNECTED_FACTOR) -> np.ndarray:
    """(M,) number of connected pieces of each molecule, atoms closer than `factor` times the sum of their covalent
    radii being connected. 0 for a molecule without atoms; an atom at a NaN position is a piece of its own."""
    # Here, because scipy would take most of the time in which a perception worker starts.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = connected_pairs(molecules, factor)
    n_atoms = len(molecules.numbers)
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(n_atoms, n_atoms))
    _, labels = connected_components(graph, directed=False) if n_atoms else (0, np.empty(0, np.int32))
    _, representatives = np.unique(labels, return_index=True)
    owner = np.searchsorted(molecules.offsets, representatives, side="right") - 1
    return np.bincount(owner, minlength=len(molecules))


def nearest_distances(molecules: MoleculeSet) -> np.ndarray:
    """(M,) float32, the smallest distance of two atoms of each molecule in Angstrom; inf with fewer than two."""
    nearest = np.full(len(molecules), np.inf, np.float32)
    for first, _, distance in _pair_blocks(molecules):
        owner = np.searchsorted(molecules.offsets, first, side="right") - 1
        np.fmin.at(nearest, owner, distance)
    return nearest


def per_molecule(atom_values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(M,) sums of (A,) atom values over molecules, empty molecules giving 0."""
    return np.diff(np.concatenate([[0], np.cumsum(atom_values)])[offsets])


def _pair_blocks(molecules: MoleculeSet) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of atoms of one molecule, as blocks of (first, second) atom indices and float32 distances.

    Molecules of one size share their pattern of pairs, so each size is one broadcast; large sizes come in parts.
    """
    sizes = molecules.num_atoms
    positions = molecules.positions.astype(np.float32, copy=False)
    for size in np.unique(sizes):
        if size < 2:
            continue
        starts = molecules.offsets[:-1][sizes == size]
        left, right = np.triu_indices(size, k=1)
        step = max(1, _PAIRS_PER_BLOCK // len(left))
        for begin in range(0, len(starts), step):
            base = starts[begin : begin + step, None]
            first, second = (base + left).ravel(), (base + right).ravel()
            with np.errstate(invalid="ignore", over="ignore"):
                squared = (positions[first] - positions[second]) ** 2
                distance = np.sqrt(squared[:, 0] + squared[:, 1] + squared[:, 2])
            yield first, second, distance


def _sorted_bonds(
    molecules: MoleculeSet, firsts: list[np.ndarray], seconds: list[np.ndarray], orders: list[np.ndarray]
) -> Bonds:
    first = np.concatenate([*firsts, np.empty(0, np.int64)])
    second = np.concatenate([*seconds, np.empty(0, np.int64)])
    order = np.concatenate([*orders, np.empty(0, np.int8)])
    by_atom = np.lexsort((second, first))
    first = first[by_atom]
    return Bonds(first, second[by_atom], order[by_atom], np.searchsorted(first, molecules.offsets))


@cache
def _thresholds_pm() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (256, 256) tables over pairs of atomic numbers: length plus margin in pm, -inf where there is none."""
    tables = []
    for lengths, margin in zip((SINGLE_PM, DOUBLE_PM, TRIPLE_PM), MARGINS_PM, strict=True):
        table = np.full((256, 256), -np.inf)
        for a, partners in lengths.items():
            for b, length in partners.items():
                i, j = elements.number(a), elements.number(b)
                table[i, j] = table[j, i] = length + margin
        table.flags.writeable = False
        tables.append(table)
    return tables[0], tables[1], tables[2]


@cache
def _allowed_valences() -> np.ndarray:
    """(119, 16) bool by atomic number and sum of bond orders; sums above 15 count as 15, which none allows."""
    allowed = np.zeros((elements.MAX_NUMBER + 1, _MAX_VALENCE + 1), bool)
    for name, valences in ALLOWED_VALENCES.items():
        allowed[elements.number(name), list(valences)] = True
    allowed.flags.writeable = False
    return allowed
