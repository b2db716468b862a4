"""Scorers of a molecule's graph by RDKit, for worker processes. Each takes a sanitised molecule with implicit H."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from rdkit import Chem, DataStructs, RDConfig, rdBase
from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator, rdMolDescriptors

from common.errors import InputError

_FINGERPRINT_RADIUS, _FINGERPRINT_BITS = 2, 2048
_STRAINED_RING_SIZES = (3, 4)


def qed(mol: Chem.Mol, _argument: str) -> float:
    """Quantitative estimate of drug-likeness, 0 to 1 (Bickerton et al., Nat. Chem. 2012, 4, 90)."""
    return QED.qed(mol)


def logp(mol: Chem.Mol, _argument: str) -> float:
    """Octanol-water partition, logarithm (Wildman and Crippen, J. Chem. Inf. Comput. Sci. 1999, 39, 868)."""
    return Crippen.MolLogP(mol)  # type: ignore[attr-defined]


def tpsa(mol: Chem.Mol, _argument: str) -> float:
    """Topological polar surface area, Angstrom^2 (Ertl et al., J. Med. Chem. 2000, 43, 3714)."""
    return rdMolDescriptors.CalcTPSA(mol)


def synthetic_accessibility(mol: Chem.Mol, _argument: str) -> float:
    """From 1, easy, to 10, hard (Ertl and Schuffenhauer, J. Cheminform. 2009, 1, 8), by RDKit's contributed code."""
    return _sascorer().calculateScore(mol)


def rings(mol: Chem.Mol, _argument: str) -> float:
    """Number of rings of the smallest set."""
    return mol.GetRingInfo().NumRings()


def strained_rings(mol: Chem.Mol, _argument: str) -> float:
    """Number of rings of three or four atoms in the smallest set."""
    return sum(len(ring) in _STRAINED_RING_SIZES for ring in mol.GetRingInfo().AtomRings())


def mol_weight(mol: Chem.Mol, _argument: str) -> float:
    """Average molecular weight, g/mol."""
    return Descriptors.MolWt(mol)  # type: ignore[attr-defined]


def heavy_atoms(mol: Chem.Mol, _argument: str) -> float:
    """Number of atoms other than H."""
    return mol.GetNumHeavyAtoms()


def similarity(mol: Chem.Mol, smiles: str) -> float:
    """Tanimoto similarity, 0 to 1, of Morgan fingerprints (radius 2, 2048 bits, no stereochemistry) to a molecule."""
    return DataStructs.TanimotoSimilarity(_fingerprints().GetFingerprint(mol), _reference_fingerprint(smiles))


def substructure(mol: Chem.Mol, smarts: str) -> float:
    """1 if the molecule holds the SMARTS pattern, else 0."""
    return float(mol.HasSubstructMatch(_pattern(smarts)))


FUNCTIONS: dict[str, Callable[[Chem.Mol, str], float]] = {
    "qed": qed,
    "logp": logp,
    "tpsa_angstrom2": tpsa,
    "sa_score": synthetic_accessibility,
    "rings": rings,
    "strained_rings": strained_rings,
    "mol_weight_g_mol": mol_weight,
    "heavy_atoms": heavy_atoms,
    "similarity": similarity,
    "substructure": substructure,
}


def check_smiles(text: str) -> str:
    """The canonical SMILES; raises `InputError` where RDKit cannot read it."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text) if text.strip() else None
    if mol is None:
        raise InputError(f"got '{text}', expected a SMILES such as CC(=O)O")
    return Chem.MolToSmiles(mol)


def check_smarts(text: str) -> str:
    """`text` if it is a SMARTS that can match anything; raises `InputError` otherwise.

    A ring of alternating bonds is the trap: as a pattern it never matches, because molecules carry aromatic bonds.
    """
    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(text) if text.strip() else None
        itself = Chem.MolFromSmiles(text) if text.strip() else None
    if pattern is None:
        raise InputError(f"got '{text}', expected a SMARTS such as c1ccccc1 or [OX2H]")
    if itself is not None and not itself.HasSubstructMatch(pattern):
        raise InputError(f"'{text}' as a pattern does not even match itself; write aromatic rings in lower case: "
                         f"{Chem.MolToSmiles(itself)}")  # fmt: skip
    return text


@cache
def _fingerprints() -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=_FINGERPRINT_RADIUS, fpSize=_FINGERPRINT_BITS)


@cache
def _reference_fingerprint(smiles: str) -> Any:
    return _fingerprints().GetFingerprint(Chem.MolFromSmiles(smiles))


@cache
def _pattern(smarts: str) -> Chem.Mol:
    return Chem.MolFromSmarts(smarts)


@cache
def _sascorer() -> Any:
    """RDKit ships it as a file beside the package, not as a part of it."""
    path = os.path.join(RDConfig.RDContribDir, "SA_Score", "sascorer.py")
    spec = importlib.util.spec_from_file_location("rdkit_contrib_sascorer", path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise InputError(f"this RDKit lacks its contributed SA score ({path}); install rdkit from the package registry")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
