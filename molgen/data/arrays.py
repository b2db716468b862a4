"""Molecules in numpy archives: our own, and the padded arrays that EDM's data preparation writes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from common.errors import InputError
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import HARTREE_EV
from molgen.data.records import atomic_numbers, canonical_smiles, column_name

MAX_UNPACKED_BYTES = 64 << 30

# Keys of EDM's QM9 arrays (Hoogeboom et al., arXiv 2203.17003): column and factor. Energies there are in Hartree.
EDM_COLUMNS = {
    "mu": ("mu_d", 1.0),
    "alpha": ("alpha_bohr3", 1.0),
    "homo": ("homo_ev", HARTREE_EV),
    "lumo": ("lumo_ev", HARTREE_EV),
    "gap": ("gap_ev", HARTREE_EV),
    "energy": ("energy_hartree", 1.0),
    "r2": ("r2_bohr2", 1.0),
    "zpve": ("zpve_ev", HARTREE_EV),
    "U0": ("u0_hartree", 1.0),
    "U": ("u_hartree", 1.0),
    "H": ("h_hartree", 1.0),
    "G": ("g_hartree", 1.0),
    "Cv": ("cv_cal_mol_k", 1.0),
}
# A median orbital energy beyond this many Hartree (55 eV) cannot be a frontier orbital's.
_MAX_ORBITAL_HARTREE = 2.0


def read_npz(path: str | Path) -> tuple[MoleculeSet, np.ndarray]:
    """A molecule set of this program, or EDM-style arrays, told apart by their keys.

    EDM-style: `num_atoms` (M,), `charges` (M, N) atomic numbers padded with 0, `positions` (M, N, 3) Angstrom, and one
    array (M,) for each property: mu in D, alpha in Bohr^3, r2 in Bohr^2, Cv in cal/mol/K, all energies in **Hartree**.
    homo, lumo, gap and zpve are converted to eV (`homo_ev` ...); a missing gap is taken as LUMO minus HOMO. Other
    numeric arrays (M,) become columns under their own names, `smiles` (M,) is kept, `index` (M,) numbers the molecules.

    Returns:
        The set, and (M,) int64 record numbers (`index`, else 1 ... M).

    Raises:
        InputError: any other file.
    """
    path = Path(path)
    keys = _keys(path)
    if {"numbers", "positions", "num_atoms"} <= keys:
        molecules = MoleculeSet.load(path)
        return molecules, np.arange(1, len(molecules) + 1)
    if {"charges", "positions", "num_atoms"} <= keys:
        with np.load(path, allow_pickle=False) as file:
            try:
                return _from_padded(path, {key: file[key] for key in file.files})
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise InputError(f"{path}: {error}") from error
    found = ", ".join(sorted(keys)[:12]) or "nothing"
    raise InputError(
        f"{path}: holds {found}; expected numbers, positions, num_atoms (this program's) "
        "or charges, positions, num_atoms (EDM's)"
    )


def _keys(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise InputError(f"{path}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            if broken := archive.testzip():
                raise InputError(f"{path}: its array {broken} is damaged; fetch the file again")
            return {entry.removesuffix(".npy") for entry in archive.namelist()}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InputError(f"{path}: is not a numpy archive ({error})") from error


def _from_padded(path: Path, arrays: dict[str, np.ndarray]) -> tuple[MoleculeSet, np.ndarray]:
    sizes = arrays["num_atoms"].astype(np.int64)
    charges, positions = arrays["charges"], arrays["positions"]
    n_molecules = len(sizes)
    shape = (n_molecules, charges.shape[1] if charges.ndim == 2 else -1)
    if sizes.ndim != 1 or charges.shape != shape or positions.shape != (*shape, 3):
        raise InputError(
            f"{path}: num_atoms {sizes.shape}, charges {charges.shape}, positions {positions.shape} do not fit; "
            "expected (M,), (M, N), (M, N, 3)"
        )
    real = np.arange(shape[1]) < sizes[:, None]
    if np.any(sizes < 0) or np.any(sizes > shape[1]) or np.any((charges != 0) != real):
        raise InputError(f"{path}: num_atoms does not agree with the number of non-zero charges")
    smiles = arrays.get("smiles")
    if smiles is not None and (smiles.shape != (n_molecules,) or smiles.dtype.kind not in "US"):
        raise InputError(f"{path}: smiles must be an array of {n_molecules} texts")
    molecules = MoleculeSet(
        numbers=atomic_numbers(charges[real]),
        positions=positions[real].astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        properties=_padded_properties(path, arrays, n_molecules),
        smiles=None if smiles is None else np.array([canonical_smiles(s) for s in smiles.astype(np.str_)], np.str_),
    )
    index = arrays.get("index")
    if index is None or index.shape != (n_molecules,):
        return molecules, np.arange(1, n_molecules + 1)
    return molecules, index.astype(np.int64)


def _padded_properties(path: Path, arrays: dict[str, np.ndarray], n_molecules: int) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for key, values in arrays.items():
        if key in ("num_atoms", "index") or values.shape != (n_molecules,) or values.dtype.kind not in "fiu":
            continue
        name, factor = EDM_COLUMNS.get(key, (column_name(key), 1.0))
        if values.dtype == np.float32:
            # The shortest decimals, so that 25.11 stays 25.11 and does not become 25.110000610351562.
            values = values.astype(np.str_)
        values = values.astype(np.float64)
        if key in ("homo", "lumo") and n_molecules and np.nanmedian(np.abs(values)) > _MAX_ORBITAL_HARTREE:
            raise InputError(f"{path}: '{key}' cannot be in Hartree; call it '{key}_ev' if it is in eV")
        columns[name] = values * factor
    if "gap_ev" not in columns and {"homo_ev", "lumo_ev"} <= columns.keys():
        columns["gap_ev"] = columns["lumo_ev"] - columns["homo_ev"]
    return columns
