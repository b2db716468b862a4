"""From SMILES to 3D: ETKDG embedding and MMFF94 relaxation with RDKit, seeded, with a reason where it fails.

ETKDG: Riniker and Landrum, J. Chem. Inf. Model. 2015, 55, 2562; MMFF94: Halgren, J. Comput. Chem. 1996, 17, 490.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from common.errors import InputError
from common.workers import Failure, WorkerPool, available_cores

_MAX_MMFF_STEPS = 2000


class ConformerError(InputError):
    """No conformer. `reason` is one of a few short texts, fit to be counted."""

    def __init__(self, reason: str, smiles: str):
        super().__init__(f"no 3D structure for '{smiles}': {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Conformer:
    """A molecule in 3D.

    Attributes:
        smiles: canonical SMILES.
        numbers: (n,) uint8 atomic numbers: heavy atoms in the canonical SMILES' order, then hydrogens.
        positions: (n, 3) float64, Angstrom, centred on their mean.
        bonds: (b, 2) int64, atom pairs with the smaller index first, sorted.
        charge: total charge.
    """

    smiles: str
    numbers: np.ndarray
    positions: np.ndarray
    bonds: np.ndarray
    charge: int


def seed_of(smiles: str, seed: int = 0) -> int:
    """A seed in [0, 2^31) that depends on nothing but the text and `seed` (the same on every machine)."""
    digest = hashlib.sha256(f"{seed}:{smiles}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def embed(smiles: str, seed: int = 0, num_conformers: int = 1) -> Conformer:
    """A conformer of the molecule; of several, the one with the lowest MMFF94 energy.

    The result depends on the canonical SMILES and `seed` only, not on how the SMILES was written.

    Args:
        smiles: one molecule; unmarked stereo centres come out as ETKDG happens to choose them.
        seed: combined with the canonical SMILES.
        num_conformers: how many are embedded.

    Raises:
        ConformerError: with the reason "unreadable SMILES", "several fragments", "no embedding", "no MMFF94
            parameters" or "MMFF94 did not converge".
    """
    with rdBase.BlockLogs():  # the reason is in the exception
        flat = Chem.MolFromSmiles(smiles)
        if flat is None or flat.GetNumAtoms() == 0:
            raise ConformerError("unreadable SMILES", smiles)
        canonical = Chem.MolToSmiles(flat)
        if "." in canonical:
            raise ConformerError("several fragments", smiles)
        molecule = Chem.AddHs(Chem.MolFromSmiles(canonical))
        parameters = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed_of(canonical, seed)
        conformers = list(rdDistGeom.EmbedMultipleConfs(molecule, num_conformers, parameters))
        if not conformers:
            # Random starting coordinates save some strained and some highly symmetric molecules.
            parameters.useRandomCoords = True
            conformers = list(rdDistGeom.EmbedMultipleConfs(molecule, num_conformers, parameters))
        if not conformers:
            raise ConformerError("no embedding", smiles)
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            raise ConformerError("no MMFF94 parameters", smiles)
        relaxed = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, numThreads=1, maxIters=_MAX_MMFF_STEPS)
    energies = {i: energy for i, (status, energy) in zip(conformers, relaxed, strict=True) if status == 0}
    if not energies:
        raise ConformerError("MMFF94 did not converge", smiles)
    positions = molecule.GetConformer(min(energies, key=energies.__getitem__)).GetPositions()
    return Conformer(
        smiles=canonical,
        numbers=np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8),
        positions=positions - positions.mean(axis=0),
        bonds=np.array(
            sorted(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in molecule.GetBonds()),
            dtype=np.int64,
        ).reshape(-1, 2),
        charge=Chem.GetFormalCharge(molecule),
    )


def embed_many(
    smiles: Sequence[str],
    seed: int = 0,
    num_conformers: int = 1,
    workers: int | None = None,
    timeout_s: float = 30.0,
) -> list[Conformer | Failure]:
    """`embed` over a pool of processes, in the order given.

    A molecule that fails gives a `Failure` with the reasons of `embed`, "time limit" or "worker died".
    """
    if not smiles:
        return []
    results: list[Conformer | Failure] = [Failure("not run")] * len(smiles)
    with WorkerPool(_embed_item, min(workers or available_cores(), len(smiles)), timeout_s) as pool:
        for index, result in pool.map((text, seed, num_conformers) for text in smiles):
            results[index] = result
    return results


def _embed_item(item: tuple[str, int, int]) -> Conformer | Failure:
    try:
        return embed(*item)
    except ConformerError as error:
        return Failure(error.reason, str(error))
