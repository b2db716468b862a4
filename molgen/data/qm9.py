"""QM9 as its official files, as torch-geometric's processed file or as EDM's arrays, in the project's units.

QM9: Ramakrishnan, Dral, Rupp, von Lilienfeld, Scientific Data 2014, 1, 140022; 133,885 molecules at
B3LYP/6-31G(2df,p), of which 3,054 failed the authors' consistency check (`uncharacterized.txt`).
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from common.errors import InputError
from molgen.data.arrays import EDM_COLUMNS
from molgen.data.files import ReadReport, collect, read_molecules
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import HARTREE_EV
from molgen.data.records import Graph, Record, Skipped
from molgen.data.sdf import read_sdf
from molgen.data.streams import read_lines

logger = logging.getLogger(__name__)

NUM_RAW = 133_885
NUM_UNCHARACTERISED = 3_054
NUM_MOLECULES = NUM_RAW - NUM_UNCHARACTERISED
NUM_TRAIN = 100_000
# The test part of EDM's split, and how it is split itself where it is used as a small data set.
NUM_TEST, TEST_SPLIT = NUM_MOLECULES // 10, (10_000, 1_500, 1_583)

SDF, TABLE, UNCHARACTERISED = "gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt"
PROCESSED = "processed/data_v3.pt"
EDM_FILES = ("train.npz", "valid.npz", "test.npz")

# Column of gdb9.sdf.csv -> key of EDM_COLUMNS, which holds our name and the factor; both files are in Hartree.
_TABLE_KEYS = {key.lower(): key for key in EDM_COLUMNS if key != "energy"} | {
    "u298": "U",
    "h298": "H",
    "g298": "G",
}
# The numbers of a dsgdb9nsd file's second line, after "gdb" and the id.
_XYZ_KEYS = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
# The first twelve targets of torch_geometric.datasets.QM9; every energy there is in eV.
_PYG_KEYS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
_XYZ_NAME = re.compile(r"dsgdb9nsd_(\d{6})\.xyz")


def load_qm9(folder: str | Path) -> ReadReport:
    """Read QM9 from a folder, in ascending gdb id, without the uncharacterised molecules.

    Looked for in `folder` and in `folder/raw`, the first found is read:
      1. `gdb9.sdf`, `gdb9.sdf.csv`, `uncharacterized.txt` (DeepChem's and torch-geometric's raw files);
      2. `dsgdb9nsd_*.xyz` and `uncharacterized.txt` (the authors' archive, unpacked);
      3. `train.npz`, `valid.npz`, `test.npz` (EDM's arrays);
      4. `processed/data_v3.pt` (torch-geometric's `QM9(root)`): total energies there are float32 in eV, which leaves
         them 0.0005 eV of rounding.

    Returns:
        The report; `indices` are gdb ids. Columns as in `molgen.data.properties`: orbital energies and zero-point
        energy in eV, total energies in Hartree.

    Raises:
        InputError: none of these is there, or a file does not fit the others.
    """
    folder = Path(folder)
    places = [folder, folder / "raw"]
    for place in places:
        if (place / SDF).is_file():
            return _load_raw(place)
        if place.is_dir() and any(_XYZ_NAME.fullmatch(entry.name) for entry in os.scandir(place)):
            return _load_xyz(place)
        if all((place / name).is_file() for name in EDM_FILES):
            return _load_edm(place)
    if (folder / PROCESSED).is_file():
        return _load_pyg(folder / PROCESSED)
    raise InputError(
        f"{folder}: no QM9 here; expected {SDF} with {TABLE} and {UNCHARACTERISED}, or dsgdb9nsd_*.xyz with "
        f"{UNCHARACTERISED}, or {', '.join(EDM_FILES)}, or {PROCESSED} (see data/README.md)"
    )


def load_qm9_test(folder: str | Path) -> ReadReport:
    """Read the 13,083 molecules of EDM's test part, in the order of the file or in ascending gdb id.

    Looked for as `folder/test.npz` (EDM's arrays), else taken from the whole of QM9 in the folder `qm9` beside it.

    Raises:
        InputError: neither is there, or the file holds another number of molecules.
    """
    folder = Path(folder)
    path = folder / EDM_FILES[-1]
    if not path.is_file():
        whole_folder = folder.parent / "qm9"
        try:
            whole = load_qm9(whole_folder)
        except InputError as error:
            raise InputError(f"expected {path} (EDM's arrays) or QM9 in {whole_folder}: {error}") from error
        part = edm_split(len(whole.molecules))["test"]
        identifiers = [whole.identifiers[i] for i in part]
        return ReadReport(whole.molecules.select(part), whole.skipped, whole.indices[part], identifiers)
    report = read_molecules(path)
    if len(report.molecules) != NUM_TEST:
        raise InputError(f"{path}: got {len(report.molecules)} molecules, expected the {NUM_TEST} of EDM's test part")
    return report


def split_of_test_part() -> dict[str, np.ndarray]:
    """Part -> sorted indices of the 13,083 molecules of EDM's test part: 10,000 / 1,500 / 1,583."""
    order = np.random.default_rng(0).permutation(NUM_TEST)
    parts = np.split(order, np.cumsum(TEST_SPLIT)[:-1])
    return {name: np.sort(part) for name, part in zip(("train", "val", "test"), parts, strict=True)}


def edm_split(n_molecules: int = NUM_MOLECULES) -> dict[str, np.ndarray]:
    """EDM's split of QM9 (Hoogeboom et al., arXiv 2203.17003), part -> sorted indices.

    The indices count the 130,831 characterised molecules in ascending gdb id: 100,000 / 17,748 / 13,083, from
    `np.random.seed(0)` and `np.random.permutation`.

    Raises:
        InputError: any other number of molecules, for which the split is not defined.
    """
    if n_molecules != NUM_MOLECULES:
        raise InputError(
            f"EDM's split is for the {NUM_MOLECULES} molecules of QM9, got {n_molecules}; use a split by seed"
        )
    # The legacy generator is the protocol.
    order = np.random.RandomState(0).permutation(NUM_MOLECULES)
    train, valid, test = np.split(order, [NUM_TRAIN, NUM_MOLECULES - NUM_TEST])
    return {"train": np.sort(train), "val": np.sort(valid), "test": np.sort(test)}


def edm_halves(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The halves of EDM's training part for conditional generation: (for the judge, for the generator).

    Args:
        train: (n,) sorted indices of the training part, from `edm_split`.
    """
    order = np.random.RandomState(42).permutation(len(train))
    return train[order[: len(train) // 2]], train[order[len(train) // 2 :]]


def read_uncharacterised(path: str | Path) -> set[int]:
    """The gdb ids in `uncharacterized.txt`: the lines that start with a number, among headings and rulers.

    Raises:
        InputError: the file is missing, holds no id or one beyond QM9.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; it lists the {NUM_UNCHARACTERISED} molecules to leave out and comes with QM9 "
            "(see data/README.md)"
        )
    words = (line.split(None, 1)[0] for line in read_lines(path) if line.strip())
    ids = {int(word) for word in words if word.isascii() and word.isdigit()}
    if not ids or max(ids) > NUM_RAW:
        raise InputError(f"{path}: does not list gdb ids; fetch the file again")
    return ids


def _load_raw(place: Path) -> ReadReport:
    """DeepChem's files: geometries in an SDF, properties in a table, row by row the same molecules."""
    excluded = read_uncharacterised(place / UNCHARACTERISED)
    table = _read_table(place / TABLE)
    count = 0

    def records() -> Iterator[Record | Graph | Skipped]:
        nonlocal count
        for record in read_sdf(read_lines(place / SDF)):
            count += 1
            if record.index in excluded:
                continue
            values = table.get(record.index)
            if values is None:
                raise InputError(f"{place / TABLE}: has no row gdb_{record.index}, which {SDF} has; fetch both again")
            if isinstance(record, Record):
                name = record.identifier
                if name.startswith("gdb_") and name != f"gdb_{record.index}":
                    raise InputError(f"{place / SDF}: record {record.index} is {name}; the file must be complete")
                record = dataclasses.replace(record, identifier=f"gdb_{record.index}", values=values)
            yield record

    report = collect(records(), place / SDF)
    return _account(report, count, len(excluded), place)


def _read_table(path: Path) -> dict[int, dict[str, float]]:
    """gdb id -> column -> value, in our units."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; it holds the properties and comes with {SDF} (see data/README.md)")
    rows = csv.reader(read_lines(path))
    heading = [name.strip().lower() for name in next(rows)]
    columns = {i: EDM_COLUMNS[_TABLE_KEYS[name]] for i, name in enumerate(heading) if name in _TABLE_KEYS}
    if len(columns) != len(_PYG_KEYS) or heading[0] != "mol_id":
        raise InputError(f"{path}: columns {', '.join(heading[:20])}; expected mol_id, A, B, C, mu, alpha, ... cv")
    table = {}
    for row in rows:
        try:
            gdb = int(row[0].removeprefix("gdb_"))
            table[gdb] = {name: float(row[i]) * factor for i, (name, factor) in columns.items()}
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}: unreadable row '{','.join(row)[:60]}' ({error})") from error
    return table


def _load_xyz(place: Path) -> ReadReport:
    """The authors' files, one a molecule."""
    named = {int(m[1]): e.path for e in os.scandir(place) if (m := _XYZ_NAME.fullmatch(e.name))}
    beside = place / UNCHARACTERISED
    excluded = read_uncharacterised(beside if beside.is_file() else place.parent / UNCHARACTERISED)
    ids = [gdb for gdb in sorted(named) if gdb not in excluded]
    with rdBase.BlockLogs():
        report = collect((_read_xyz_file(gdb, named[gdb]) for gdb in ids), place)
    return _account(report, len(named), len(excluded), place)


def _read_xyz_file(gdb: int, path: str) -> Record | Skipped:
    """One dsgdb9nsd file: count, properties, atoms with Mulliken charges, frequencies, two SMILES, two InChI.

    Some coordinates are written with Mathematica's exponent, `1.5*^-6`. Of the two SMILES the second is that of the
    relaxed geometry.
    """
    lines = list(read_lines(path))
    try:
        n_atoms = int(lines[0])
        tag, index, *numbers = lines[1].split()
        if tag != "gdb" or int(index) != gdb or len(numbers) != len(_XYZ_KEYS):
            raise ValueError(f"second line is '{lines[1][:40]}'")
        raw = dict(zip(_XYZ_KEYS, numbers, strict=True))
        values = {name: float(raw[key]) * factor for key, (name, factor) in EDM_COLUMNS.items() if key in raw}
        rows = [line.replace("*^", "e").split() for line in lines[2 : 2 + n_atoms]]
        elements = np.array([_NUMBERS[row[0]] for row in rows], dtype=np.uint8)
        positions = np.array([row[1:4] for row in rows], dtype=np.float64)
        smiles = _flat_smiles(lines[3 + n_atoms].split()[-1])
    except (ValueError, IndexError, KeyError) as error:
        return Skipped(gdb, f"gdb_{gdb}", f"{Path(path).name} is malformed ({error})")
    return Record(gdb, f"gdb_{gdb}", elements, positions, values, smiles)


def _load_edm(place: Path) -> ReadReport:
    """EDM's three archives as one set in ascending gdb id."""
    reports = [read_molecules(place / name) for name in EDM_FILES]
    molecules = MoleculeSet.concatenate([report.molecules for report in reports])
    indices = np.concatenate([report.indices for report in reports])
    if len(np.unique(indices)) != len(indices):
        raise InputError(f"{place}: {', '.join(EDM_FILES)} share molecules or lack the array 'index'")
    order = np.argsort(indices)
    return ReadReport(
        molecules.select(order),
        [item for report in reports for item in report.skipped],
        indices[order],
        [f"gdb_{gdb}" for gdb in indices[order]],
    )


def _load_pyg(path: Path) -> ReadReport:
    """torch-geometric's processed file, read without running code from it."""
    # Here, because the readers are used in worker processes that must stay free of torch.
    import pickle
    import struct
    import zipfile

    import torch
    import torch_geometric.data  # noqa: F401  (declares its classes safe for torch.load)

    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a torch archive")
        # Not QM9(root): that falls back to unrestricted unpickling, and downloads what it misses.
        data, slices, *_ = torch.load(path, weights_only=True, map_location="cpu")
        y = data["y"].numpy().astype(np.float64)
        offsets = slices["pos"].numpy().astype(np.int64)
        numbers, positions, idx = data["z"].numpy(), data["pos"].numpy(), data["idx"].numpy()
        smiles = data.get("smiles")
    except (
        pickle.UnpicklingError,
        struct.error,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: not the file that torch_geometric.datasets.QM9 writes ({reason}); make it again from raw/"
        ) from error
    columns = {}
    for k, key in enumerate(_PYG_KEYS):
        name = EDM_COLUMNS[key][0]
        # Its total energies are in eV; ours in Hartree.
        columns[name] = y[:, k] / HARTREE_EV if name.endswith("_hartree") else y[:, k]
    flat = None
    if smiles is not None:
        with rdBase.BlockLogs():
            flat = np.array([_flat_smiles(text) for text in smiles], dtype=np.str_)
    molecules = MoleculeSet(numbers.astype(np.uint8), positions.astype(np.float32), offsets, columns, flat)
    return ReadReport(molecules, [], idx.astype(np.int64) + 1, [f"gdb_{i + 1}" for i in idx])


def _flat_smiles(text: str) -> str:
    """Canonical SMILES without explicit hydrogen and stereo marks; empty where RDKit refuses the molecule."""
    mol = Chem.MolFromSmiles(text)
    return "" if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False)


def _account(report: ReadReport, n_read: int, n_excluded: int, place: Path) -> ReadReport:
    """The report with a remark where this is not the whole of QM9."""
    if n_read == NUM_RAW and n_excluded != NUM_UNCHARACTERISED:
        raise InputError(
            f"{place}: {UNCHARACTERISED} lists {n_excluded} molecules, expected {NUM_UNCHARACTERISED}; fetch it again"
        )
    if n_read != NUM_RAW:
        remark = f"{n_read} records instead of QM9's {NUM_RAW}: results do not compare with published ones"
        logger.warning("%s: %s", place, remark)
        report.warnings.append(remark)
    return report
