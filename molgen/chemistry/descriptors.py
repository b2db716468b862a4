"""Descriptors of a molecule's graph for tables of samples; the unit stands in the column's name."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

# The columns of `describe`, in order.
COLUMNS = ("formula", "mol_weight_g_mol", "n_heavy_atoms", "qed", "logp", "tpsa_angstrom2")


def describe(mol: Chem.Mol | None) -> dict[str, str | float | None]:
    """Hill formula, molecular weight (g/mol), heavy atoms, QED (0-1), Crippen logP and topological polar surface area
    (Angstrom^2) of a sanitised molecule. Every value is None where there is no molecule."""
    if mol is None:
        return dict.fromkeys(COLUMNS)
    return {
        "formula": rdMolDescriptors.CalcMolFormula(mol),
        "mol_weight_g_mol": Descriptors.MolWt(mol),  # type: ignore[attr-defined]
        "n_heavy_atoms": mol.GetNumHeavyAtoms(),
        # The fragments that QED and Crippen count are written for molecules with implicit H.
        "qed": QED.qed(Chem.RemoveHs(mol)),
        "logp": Crippen.MolLogP(mol),  # type: ignore[attr-defined]
        "tpsa_angstrom2": rdMolDescriptors.CalcTPSA(mol),
    }
