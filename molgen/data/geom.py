"""GEOM-Drugs: the official msgpack file, or the array that EDM's preparation makes of it.

GEOM: Axelrod and Gomez-Bombarelli, Scientific Data 2022, 9, 185; conformers by CREST at GFN2-xTB.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from common.errors import InputError
from molgen.data.files import ReadReport, collect
from molgen.data.records import Record, Skipped, atomic_numbers

logger = logging.getLogger(__name__)

MSGPACK = "drugs_crude.msgpack"
ARRAYS = ("geom_drugs_30.npy", "geom_drugs_1.npy")
# EDM keeps this many conformers of a molecule, the lowest in energy.
NUM_CONFORMERS = 30
# Rows of the array that are in memory at a time.
_ROWS = 1 << 20
# One molecule of the msgpack file with all its conformers; the largest take about 100 MB.
_MAX_OBJECT_BYTES = 1 << 30


def load_geom(
    folder: str | Path,
    *,
    num_conformers: int = NUM_CONFORMERS,
    limit: int | None = None,
    max_atoms: int | None = None,
) -> ReadReport:
    """Read GEOM-Drugs from a folder (or from the file itself).

    Args:
        folder: holds `drugs_crude.msgpack` or EDM's `geom_drugs_30.npy`; the array is taken where both are there.
        num_conformers: of each molecule, the lowest in energy (msgpack only; the array holds what it holds).
        limit: conformers to read, from the start; None reads all (with 30 conformers about 6.9 million, 4 GB).
        max_atoms: larger molecules are skipped.

    Returns:
        The report. From the msgpack file: SMILES (canonical, without stereo marks), charges, and `energy_hartree`
        (GFN2-xTB). The array holds none of these.

    Raises:
        InputError: neither file is there, or it is not what its name says.
    """
    path = _find(Path(folder))
    if path.suffix == ".npy":
        return collect(_limited(read_rows(path), limit), path, max_atoms=max_atoms)
    return collect(_limited(read_msgpack(path, num_conformers), limit), path, max_atoms=max_atoms)


def _find(folder: Path) -> Path:
    if folder.is_file() and folder.suffix in (".npy", ".msgpack"):
        return folder
    for name in (*ARRAYS, MSGPACK):
        for place in (folder, folder / "raw"):
            if (place / name).is_file():
                return place / name
    if folder.is_dir() and any(folder.glob("**/*.pickle")):
        raise InputError(
            f"{folder}: holds pickles, which could run code when read; use {MSGPACK} instead (see data/README.md)"
        )
    raise InputError(f"{folder}: no GEOM-Drugs here; expected {MSGPACK} or {ARRAYS[0]} (see data/README.md)")


def _limited(records: Iterator[Record | Skipped], limit: int | None) -> Iterator[Record | Skipped]:
    return (record for _, record in zip(range(limit), records, strict=False)) if limit is not None else records


def read_rows(path: str | Path) -> Iterator[Record]:
    """Conformers from EDM's array: rows of conformer number, atomic number, x, y, z (Angstrom); one conformer's rows
    stand together. The file is memory-mapped.

    Raises:
        InputError: not such an array.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: is not a numpy array of numbers ({error})") from error
    if rows.ndim != 2 or rows.shape[1] != 5 or rows.dtype.kind != "f":
        raise InputError(
            f"{path}: array {rows.shape} of {rows.dtype}; expected (atoms, 5): conformer, atomic number, x, y, z"
        )
    index, held = 0, np.empty((0, 5))
    for start in range(0, len(rows), _ROWS):
        block = np.concatenate([held, rows[start : start + _ROWS]])
        cuts = np.flatnonzero(np.diff(block[:, 0])) + 1
        *whole, held = np.split(block, cuts)
        if start + _ROWS >= len(rows):
            whole.append(held)
        for conformer in whole:
            index += 1
            yield _from_row_block(index, conformer)


def _from_row_block(index: int, conformer: np.ndarray) -> Record:
    return Record(index, f"conformer {conformer[0, 0]:.0f}", atomic_numbers(conformer[:, 1]), conformer[:, 2:])


def read_msgpack(path: str | Path, num_conformers: int = NUM_CONFORMERS) -> Iterator[Record | Skipped]:
    """Conformers from `drugs_crude.msgpack`, one molecule in memory at a time.

    The file is a sequence of maps, SMILES -> {"conformers": [{"xyz": rows of Z, x, y, z in Angstrom, "totalenergy":
    Hartree, ...}, ...], ...}. Conformers come out in ascending energy; their record number counts all that come out.

    Raises:
        InputError: the package msgpack is missing, or the file is not such a sequence.
    """
    if importlib.util.find_spec("msgpack") is None:
        raise InputError(f"reading {path} needs the package msgpack: pip install msgpack")
    import msgpack

    index = 0
    with open(path, "rb") as file, rdBase.BlockLogs():
        unpacker = msgpack.Unpacker(file, max_buffer_size=_MAX_OBJECT_BYTES)
        while True:
            try:
                count = unpacker.read_map_header()
            except msgpack.OutOfData:
                return
            except (ValueError, msgpack.UnpackException) as error:
                raise InputError(f"{path}: is not GEOM's msgpack file ({error})") from error
            for _ in range(count):
                try:
                    text, entry = unpacker.unpack(), unpacker.unpack()
                except (ValueError, msgpack.UnpackException) as error:
                    raise InputError(f"{path}: is cut off or damaged after {index} conformers ({error})") from error
                for record in _conformers(text, entry, index + 1, num_conformers):
                    index = record.index
                    yield record


def _conformers(text: Any, entry: Any, first: int, num_conformers: int) -> Iterator[Record | Skipped]:
    """The lowest conformers of one molecule, numbered from `first`."""
    name = str(text)[:200]
    try:
        conformers = sorted(entry["conformers"], key=lambda conformer: conformer["totalenergy"])[:num_conformers]
    except (KeyError, TypeError) as error:
        yield Skipped(first, name, f"entry has no conformers with energies ({error})")
        return
    mol = Chem.MolFromSmiles(name)
    smiles = "" if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False)
    charge = 0 if mol is None else Chem.GetFormalCharge(mol)
    for index, conformer in enumerate(conformers, first):
        try:
            rows = np.array(conformer["xyz"], dtype=np.float64).reshape(-1, 4)
        except (KeyError, TypeError, ValueError) as error:
            yield Skipped(index, name, f"conformer without coordinates ({error})")
            continue
        numbers = atomic_numbers(rows[:, 0])
        energy = {"energy_hartree": conformer["totalenergy"]}
        yield Record(index, name, numbers, rows[:, 1:], energy, smiles, charge)
