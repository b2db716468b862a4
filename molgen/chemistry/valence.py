"""Which valences an atom may have, with aromatic bonds counted apart.

An aromatic bond has no whole order (1.5), so a sum of orders that counts it as 1, as many published evaluations did,
accepts wrong molecules and refuses right ones. Here an atom is judged by the pair (number of aromatic bonds, sum of
its other bonds' orders with H), for its element and formal charge. The table is that of the "GEOM-Drugs Revisited"
benchmark (arXiv 2505.00169, `geom_drugs_h_tuple_valencies`), made from the cleaned GEOM-Drugs data.
"""

from __future__ import annotations

from rdkit import Chem

# (element, formal charge) -> allowed (aromatic bonds, valence of the other bonds).
ALLOWED = {
    ("H", 0): {(0, 1)},
    ("B", -1): {(0, 4)},
    ("B", 0): {(0, 3)},
    ("C", -1): {(0, 3), (2, 1), (3, 0)},
    ("C", 0): {(0, 4), (2, 1), (2, 2), (3, 0)},
    ("C", 1): {(0, 3), (2, 1), (3, 0)},
    ("N", -2): {(0, 1)},
    ("N", -1): {(0, 2), (2, 0)},
    ("N", 0): {(0, 3), (2, 0), (2, 1), (3, 0)},
    ("N", 1): {(0, 4), (2, 0), (2, 1), (2, 2), (3, 0)},
    ("O", -1): {(0, 1)},
    ("O", 0): {(0, 2), (2, 0)},
    ("O", 1): {(0, 3)},
    ("F", 0): {(0, 1)},
    ("Si", 0): {(0, 4)},
    ("Si", 1): {(0, 5)},
    ("P", 0): {(0, 3), (0, 5)},
    ("P", 1): {(0, 4)},
    ("S", -1): {(0, 1)},
    ("S", 0): {(0, 2), (0, 3), (0, 6), (2, 0)},
    ("S", 1): {(0, 3), (2, 0), (2, 1), (3, 0)},
    ("S", 2): {(0, 4), (2, 1), (2, 2)},
    ("S", 3): {(0, 2), (0, 5)},
    ("Cl", 0): {(0, 1)},
    ("Cl", 1): {(0, 2)},
    ("Br", 0): {(0, 1)},
    ("Br", 1): {(0, 2)},
    ("I", 0): {(0, 1)},
    ("I", 1): {(0, 2)},
    ("I", 2): {(0, 3)},
    ("Bi", 0): {(0, 3)},
    ("Bi", 2): {(0, 5)},
}
COVERED_ELEMENTS = frozenset(element for element, _ in ALLOWED)


def correct_atoms(mol: Chem.Mol) -> list[bool]:
    """For each atom of a sanitised molecule with explicit H, whether the table allows its valence.

    H that RDKit holds implicitly counts into the valence. Elements and charges that the table lacks are not allowed.
    """
    aromatic, other = [0] * mol.GetNumAtoms(), [0.0] * mol.GetNumAtoms()
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if bond.GetIsAromatic():
            for end in ends:
                aromatic[end] += 1
        else:
            order = bond.GetBondTypeAsDouble()
            for end in ends:
                other[end] += order
    return [
        (aromatic[i], other[i] + atom.GetTotalNumHs()) in ALLOWED.get((atom.GetSymbol(), atom.GetFormalCharge()), ())
        for i, atom in enumerate(mol.GetAtoms())
    ]


def is_covered(mol: Chem.Mol) -> bool:
    """Whether the table knows every element of the molecule."""
    return all(atom.GetSymbol() in COVERED_ELEMENTS for atom in mol.GetAtoms())
