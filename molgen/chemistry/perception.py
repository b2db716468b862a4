"""Bonds, bond orders and formal charges from atoms in space: molecules as numbers become RDKit molecules.

RDKit's `DetermineBonds` (the xyz2mol algorithm of Kim and Kim, Bull. Korean Chem. Soc. 2015, 36, 1769) can search for
hours, so it runs with a bounded search inside killable workers (`common.workers`).

Connectivity is tried strictly first: atoms bonded below 1.15 times the sum of their covalent radii. Only where that
yields no connected, neutral molecule, RDKit's own default (1.3, closest atoms first) gets a try. On relaxed geometries
the strict try is right almost always (QM9's 13,083 test molecules: 13,081 against 12,385 by the default alone, which
joins 1,3-neighbours in small rings); on noisy samples, with their stretched bonds, the default is.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem, RDLogger, rdBase
from rdkit.Chem import rdDetermineBonds

from common.errors import InputError
from common.workers import TIME_LIMIT, Failure, WorkerPool, available_cores
from molgen.chemistry import elements
from molgen.chemistry.bonds import Bonds, edm_bonds, nearest_distances, per_molecule
from molgen.data.molecules import MoleculeSet

# The reasons why a molecule has no perceived form.
EMPTY = "no atoms"
NOT_FINITE = "coordinates not finite"
UNKNOWN_ELEMENT = "unknown element"
OVERLAP = "atoms overlap"
DISCONNECTED = "disconnected"
CHARGE_MISMATCH = "charge mismatch"
VALENCE = "valence"
SANITISE = "sanitise"
SEARCH_LIMIT = "bond search limit"
TIME_OUT = "time-out"
CRASHED = "crashed"

# No two atoms come this close (Angstrom); the shortest bond, that of H2, has 0.74.
OVERLAP_ANGSTROM = 0.4
STRICT_FACTOR = 1.15
# About half a second of bond-order search; a molecule that can be perceived needs far less.
MAX_ITERATIONS = 50_000

# A molecule takes a third of a millisecond, so workers get them by the chunk; a chunk whose worker dies is done again
# one by one, which finds the culprit. A second worker pays only from about this many molecules on.
_CHUNK = 64
_MOLECULES_PER_WORKER = 500
_MEMORY_LIMIT_BYTES = 4 * 2**30
# Wall seconds that the pool waits for a chunk, the worker's start included; the workers themselves limit a molecule.
_CHUNK_LIMIT = 300.0

_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


# What travels to a worker (numbers, positions, charge) and back (binary molecule, reason, SMILES, flat SMILES).
Item = tuple[np.ndarray, np.ndarray, int]
Answer = tuple[bytes | None, str | None, str, str]


@dataclass(frozen=True)
class Perceived:
    """What perception made of one molecule.

    Attributes:
        mol: sanitised molecule with explicit H, bond orders, formal charges and the 3D conformer (Angstrom), its
            atoms in the order of the input; None if perception failed. A disconnected molecule is kept.
        reason: None for a sound molecule in one piece, else one of this module's reasons.
        smiles: canonical, H implicit, with the stereochemistry of the conformer; "" without a molecule.
        flat_smiles: canonical, H implicit, without stereochemistry: the identity that uniqueness and novelty use,
            because an E(3)-equivariant model cannot tell enantiomers apart.
    """

    mol: Chem.Mol | None
    reason: str | None
    smiles: str = ""
    flat_smiles: str = ""

    @property
    def valid(self) -> bool:
        """One connected, sanitised molecule of the expected charge."""
        return self.reason is None


def perceive(
    molecules: MoleculeSet, workers: int | None = None, time_limit: float = 2.0, pool: WorkerPool | None = None
) -> list[Perceived]:
    """Perceive every molecule; failures are reported in place, never dropped.

    Args:
        molecules: the set; total charges are taken from it.
        workers: processes at most; all cores by default, fewer for few molecules. They stay for later calls.
        time_limit: seconds of processor time for one molecule, after which its worker is killed and its reason is
            "time-out". Not wall time, so that a busy machine changes no result.
        pool: a pool of `perceive_chunk` (or its like) to use instead of the shared one.
    """
    if not time_limit > 0:
        raise InputError(f"time limit is {time_limit} s, expected more than 0")
    reasons = _obstacles(molecules)
    todo = [i for i, reason in enumerate(reasons) if reason is None]
    perceived = [Perceived(None, reason) for reason in reasons]
    if todo:
        useful = -(-len(todo) // _MOLECULES_PER_WORKER)
        pool = pool or _shared_pool(os.getpid(), min(workers or available_cores(), useful))
        suspects: list[int] = []
        for chunk, result in _map_chunks(pool, molecules, todo, _CHUNK, time_limit):
            if isinstance(result, Failure):
                suspects += chunk
            else:
                for i, answer in zip(chunk, result, strict=True):
                    perceived[i] = _from_answer(answer)
        for chunk, result in _map_chunks(pool, molecules, suspects, 1, time_limit):
            failed = isinstance(result, Failure)
            perceived[chunk[0]] = Perceived(None, _cause_of_death(result)) if failed else _from_answer(result[0])
    return perceived


def perceive_chunk(chunk: tuple[float, list[Item]]) -> list[Answer]:
    """A worker's task: (processor seconds for one molecule, molecules) -> answers. The kernel kills an overdue worker,
    even where its parent has gone."""
    time_limit, items = chunk
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    answers = []
    for item in items:
        signal.setitimer(signal.ITIMER_PROF, time_limit)
        answers.append(perceive_one(item))
        signal.setitimer(signal.ITIMER_PROF, 0)
    return answers


def perceive_one(item: Item) -> Answer:
    """(numbers (n,), positions (n, 3) Angstrom, charge) -> (molecule, reason, SMILES, flat SMILES).

    May hang, crash or exhaust memory: call it through `perceive`.
    """
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    numbers, positions, charge = item
    bare = _atoms_in_space(numbers, positions, implicit_h=False)
    mol, reason = _determine(bare, charge, useVdw=True, covFactor=STRICT_FACTOR)
    if reason is not None:
        second, second_reason = _determine(bare, charge)
        # The default's word counts where it is better: a sound molecule, or pieces instead of nothing.
        if second_reason is None or (mol is None and second is not None):
            mol, reason = second, second_reason
    if mol is None:
        return None, reason, "", ""
    return mol.ToBinary(), reason, Chem.MolToSmiles(Chem.RemoveHs(mol)), graph_smiles(mol)


def edm_molecules(
    molecules: MoleculeSet, single_only: bool = False, bonds: Bonds | None = None
) -> list[Chem.Mol | None]:
    """Molecules with EDM's distance-table bonds, sanitised; None where RDKit refuses (EDM's test of validity).

    As in EDM, no total charge is imposed and RDKit may fill a valence with implicit H. Atoms keep their order, and
    the 3D conformer is set. `single_only` makes every bond single, as EDM does for GEOM-Drugs.
    """
    bonds = edm_bonds(molecules) if bonds is None else bonds
    known = _known_elements(molecules)
    mols: list[Chem.Mol | None] = []
    for k, (numbers, positions) in enumerate(molecules):
        if not known[k] or not len(numbers):
            mols.append(None)
            continue
        mol = _atoms_in_space(numbers, positions, implicit_h=True)
        here = slice(bonds.offsets[k], bonds.offsets[k + 1])
        first = (bonds.first[here] - molecules.offsets[k]).tolist()
        second = (bonds.second[here] - molecules.offsets[k]).tolist()
        for i, j, order in zip(first, second, bonds.order[here].tolist(), strict=True):
            mol.AddBond(i, j, Chem.BondType.SINGLE if single_only else _BOND_TYPES[order])
        with rdBase.BlockLogs():
            mols.append(mol.GetMol() if _sanitises(mol) else None)
    return mols


def graph_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES of a sanitised molecule, H implicit, without stereochemistry (`Perceived.flat_smiles`)."""
    flat = Chem.Mol(mol)
    # First, because RDKit keeps an H that defines the geometry of a double bond.
    Chem.RemoveStereochemistry(flat)
    return Chem.MolToSmiles(Chem.RemoveHs(flat))


def flat_smiles(smiles: Iterable[str]) -> frozenset[str]:
    """The identities (see `Perceived.flat_smiles`) of SMILES; those that RDKit cannot read are left out."""
    with rdBase.BlockLogs():
        mols = (Chem.MolFromSmiles(text) for text in smiles if text)
        return frozenset(graph_smiles(mol) for mol in mols if mol is not None)


def _obstacles(molecules: MoleculeSet) -> list[str | None]:
    """For each molecule, why it need not be tried, or None."""
    finite = per_molecule(~np.isfinite(molecules.positions.sum(axis=1)), molecules.offsets) == 0
    sizes = molecules.num_atoms
    causes = np.select(
        [sizes == 0, ~_known_elements(molecules), ~finite, nearest_distances(molecules) < OVERLAP_ANGSTROM],
        [EMPTY, UNKNOWN_ELEMENT, NOT_FINITE, OVERLAP],
        default="",
    )
    return [cause or None for cause in causes.tolist()]


def _known_elements(molecules: MoleculeSet) -> np.ndarray:
    """(M,) bool: every atomic number of the molecule is an element's."""
    unknown = (molecules.numbers < 1) | (molecules.numbers > elements.MAX_NUMBER)
    return per_molecule(unknown, molecules.offsets) == 0


def _atoms_in_space(numbers: np.ndarray, positions: np.ndarray, implicit_h: bool) -> Chem.RWMol:
    mol = Chem.RWMol()
    for number in numbers.tolist():
        atom = Chem.Atom(number)
        atom.SetNoImplicit(not implicit_h)
        mol.AddAtom(atom)
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.asarray(positions, dtype=np.float64))
    mol.AddConformer(conformer)
    return mol


def _determine(bare: Chem.RWMol, charge: int, **connectivity: Any) -> tuple[Chem.Mol | None, str | None]:
    """One try of `DetermineBonds`: the molecule (None on failure) and the reason (None for a sound molecule)."""
    mol = Chem.RWMol(bare)
    if mol.GetNumAtoms() == 1:
        # RDKit returns such a molecule as it is, whatever its charge: a closed shell is what makes it sound.
        (atom,) = mol.GetAtoms()
        atom.SetFormalCharge(charge)
        sound = _sanitises(mol) and not atom.GetNumRadicalElectrons()
        return (mol.GetMol(), None) if sound else (None, CHARGE_MISMATCH)
    try:
        rdDetermineBonds.DetermineBonds(mol, charge=charge, maxIterations=MAX_ITERATIONS, **connectivity)
    except (ValueError, RuntimeError) as error:
        return None, _reason(str(error))
    if not _sanitises(mol):
        return None, SANITISE
    return mol.GetMol(), None if len(Chem.GetMolFrags(mol)) == 1 else DISCONNECTED


def _reason(message: str) -> str:
    """RDKit raises one class for all causes, so they are told apart by their text."""
    lowered = message.lower()
    if "does not match input" in lowered:
        return CHARGE_MISMATCH
    if "max iterations" in lowered:
        return SEARCH_LIMIT
    return VALENCE if "valence" in lowered else SANITISE


def _sanitises(mol: Chem.Mol) -> bool:
    return Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE


def _from_answer(answer: Answer) -> Perceived:
    binary, reason, smiles, flat = answer
    mol = None if binary is None else Chem.Mol(binary)  # type: ignore[call-overload]
    return Perceived(mol, reason, smiles, flat)


def _map_chunks(
    pool: WorkerPool, molecules: MoleculeSet, indices: list[int], size: int, time_limit: float
) -> Iterator[tuple[list[int], Any]]:
    """Pairs of (indices of a chunk, its answers or the pool's `Failure`)."""
    chunks = [indices[begin : begin + size] for begin in range(0, len(indices), size)]
    items = ((time_limit, [(*molecules[i], molecules.charge(i)) for i in chunk]) for chunk in chunks)
    for index, result in pool.map(items):
        yield chunks[index], result


def _cause_of_death(failure: Failure) -> str:
    if failure.reason == TIME_LIMIT or failure.detail.endswith(f"exit status {-signal.SIGPROF}"):
        return TIME_OUT
    return f"{CRASHED} ({failure.reason} {failure.detail})"


@cache
def _shared_pool(_process_id: int, workers: int) -> WorkerPool:
    """Workers that stay for later calls. By process id, so that a fork never speaks into its parent's sockets."""
    pool = WorkerPool(perceive_chunk, workers, timeout_s=_CHUNK_LIMIT)
    atexit.register(pool.close)
    return pool


def _limit_memory() -> None:
    """On disconnected molecules the bond-order search has been seen to eat all memory (RDKit issue 5902)."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_LIMIT_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
