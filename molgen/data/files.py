"""`read_molecules`: any molecule file in, a `MoleculeSet` and an account of what was left out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rdkit import Chem

from common.errors import InputError
from molgen.chemistry.conformers import Conformer, embed_many
from molgen.data.arrays import read_npz
from molgen.data.molecules import MoleculeSet
from molgen.data.records import Graph, PropertyTable, Record, Skipped, find_tag, geometry_problem, record_problem
from molgen.data.sdf import read_sdf
from molgen.data.streams import MAX_UNPACKED_BYTES, read_lines
from molgen.data.tables import read_csv, read_smiles
from molgen.data.xyz import read_xyz

logger = logging.getLogger(__name__)

# One sentence of what each suffix means to a user.
FORMATS = {
    ".sdf": "SDF, V2000 or V3000",
    ".sd": "SDF",
    ".mol": "molfile",
    ".xyz": "XYZ or extended XYZ, many frames",
    ".extxyz": "extended XYZ",
    ".smi": "SMILES list",
    ".smiles": "SMILES list",
    ".txt": "SMILES list",
    ".csv": "table with a SMILES column",
    ".tsv": "table with a SMILES column, tabs",
    ".npz": "molecule set of this program, or EDM-style arrays",
}
_ARCHIVES = {".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst", ".tbz2", ".txz"}
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"}
# Records between two calls of the embedder and between two compactions of memory.
_CHUNK = 8192
_SHOWN = 5
# Wall time, a worker's start included: generous, so that a busy machine does not cost molecules.
_EMBED_TIMEOUT_S = 120.0

Embedder = Callable[[list[str]], list[tuple[np.ndarray, np.ndarray, str, int] | str]]


@dataclass(frozen=True)
class ReadReport:
    """What a reader made of a file.

    Attributes:
        molecules: M molecules.
        skipped: records left out, in the order of the file.
        indices: (M,) int64, the record number of each molecule in its file; the first record is 1 (for QM9: gdb id).
        identifiers: M names as the file gives them, empty where it gives none.
        warnings: one line for each thing that the user should know.
    """

    molecules: MoleculeSet
    skipped: list[Skipped] = field(default_factory=list)
    indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    identifiers: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, int]:
        """Column -> number of molecules without a value there, for the columns that lack some."""
        counts = {name: int(np.isnan(v).sum()) for name, v in self.molecules.properties.items()}
        return {name: count for name, count in counts.items() if count}

    def lines(self) -> list[str]:
        """The account for the user, a few lines."""
        total = len(self.molecules) + len(self.skipped)
        lines = [f"read {len(self.molecules)} of {total} molecules"]
        lines += [f"skipped {_describe(item)}" for item in self.skipped[:_SHOWN]]
        if len(self.skipped) > _SHOWN:
            lines.append(f"... and {len(self.skipped) - _SHOWN} more")
        lines += [f"{name}: {count} values missing" for name, count in self.missing.items()]
        return lines + self.warnings


def _describe(item: Skipped) -> str:
    name = f" ({item.identifier[:60]})" if item.identifier else ""
    return f"record {item.index}{name}: {item.reason}"


def read_molecules(
    path: str | Path,
    *,
    seed: int = 0,
    properties: Sequence[str] | None = None,
    max_atoms: int | None = None,
    embed_2d: bool = False,
    workers: int | None = None,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
) -> ReadReport:
    """Read molecules from a file of any known format (`FORMATS`, text also as `.gz`), chosen by its suffix.

    A broken record is skipped and accounted for; the rest is read. Text is streamed, so memory holds the molecules and
    one record. Property tags become columns as `records.column_name` says; missing values are NaN. SMILES lists and
    tables get 3D by ETKDG and MMFF94; records whose embedding fails are skipped with the reason.

    Args:
        path: the file.
        seed: of the embedding.
        properties: tags, columns (`gap_ev`) or names (`gap`) to keep; None keeps every numeric one.
        max_atoms: larger molecules are skipped.
        embed_2d: make 3D for two-dimensional SDF records too.
        workers: processes for the embedding; None takes all cores.
        max_unpacked_bytes: limit for gzip files.

    Raises:
        InputError: the file cannot be read as molecules at all, every record is broken, or a property is not there.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix == ".npz":
        return _check_set(path, *read_npz(path), properties, max_atoms)
    lines = read_lines(path, max_unpacked_bytes)
    records: Iterator[Record | Graph | Skipped]
    if suffix in (".sdf", ".sd", ".mol"):
        records = read_sdf(lines, embed_2d)
    elif suffix in (".xyz", ".extxyz"):
        records = read_xyz(lines)
    elif suffix in (".csv", ".tsv"):
        records = read_csv(lines, path, "\t" if suffix == ".tsv" else None)
    else:
        records = read_smiles(lines)
    return collect(records, path, properties=properties, max_atoms=max_atoms, embed=lambda s: _embed(s, seed, workers))


def collect(
    records: Iterable[Record | Graph | Skipped],
    source: str | Path,
    *,
    properties: Sequence[str] | None = None,
    max_atoms: int | None = None,
    embed: Embedder | None = None,
) -> ReadReport:
    """Check records and gather them into one set.

    Args:
        records: from a reader.
        source: what to call the file in messages.
        properties, max_atoms: as in `read_molecules`.
        embed: SMILES -> (numbers (n,), positions (n, 3) Angstrom, canonical SMILES, charge), or the reason why not,
            for records without 3D.

    Raises:
        InputError: no record is left, or a property is not there.
    """
    table, notes = PropertyTable(), Counter[str]()
    skipped: list[Skipped] = []
    sets: list[MoleculeSet] = []
    indices: list[int] = []
    identifiers: list[str] = []
    records = iter(records)
    while chunk := list(itertools.islice(records, _CHUNK)):
        kept: list[Record] = []
        for item in _embed_records(chunk, embed):
            if isinstance(item, Record):
                problem = record_problem(item, max_atoms)
                if problem is None:
                    kept.append(item)
                    continue
                item = Skipped(item.index, item.identifier, problem)
            skipped.append(item)
        for record in kept:
            table.append(record.values)
            notes.update(record.notes)
        indices += [record.index for record in kept]
        identifiers += [record.identifier for record in kept]
        sets.append(_to_set(kept))
    if not indices:
        if not skipped:
            raise InputError(f"{source}: holds no molecules")
        raise InputError(f"{source}: none of its {len(skipped)} records can be used; {_describe(skipped[0])}")
    columns, remarks = table.finish(properties)
    molecules = MoleculeSet.concatenate(sets)
    molecules = dataclasses.replace(molecules, properties=columns)
    remarks += [f"{count} {note}" for note, count in notes.items()]
    report = ReadReport(molecules, skipped, np.array(indices, dtype=np.int64), identifiers, remarks)
    if skipped or remarks:
        logger.warning("%s: %s", source, "; ".join(report.lines()))
    return report


def _suffix(path: Path) -> str:
    """The suffix that names the format; an `InputError` for anything that is not one of `FORMATS`."""
    known = ", ".join(FORMATS)
    if "://" in str(path) or str(path).startswith(("http:", "https:", "ftp:")):
        raise InputError(f"{path}: is an address; download the file first and name it here")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name one file in it ({known}) or a named data set")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if last == ".gz":
        last = suffixes[0] if len(suffixes) == 2 else ""
        if last not in FORMATS or last == ".npz":
            raise InputError(f"{path}: .gz is read for single text files only, such as .sdf.gz or .xyz.gz")
    if last in _ARCHIVES:
        raise InputError(f"{path}: archives are not read; unpack it and name a file in it ({known})")
    if last in _PICKLES:
        raise InputError(
            f"{path}: is a pickle, weights or a bare array, which are not read as molecules; "
            f"export it to one of {known}"
        )
    if last not in FORMATS:
        raise InputError(f"{path}: unknown format '{last}'; known: {known} (text also as .gz)")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return last


def _check_set(
    path: Path,
    molecules: MoleculeSet,
    indices: np.ndarray,
    properties: Sequence[str] | None,
    max_atoms: int | None,
) -> ReadReport:
    """The checks of `collect` for a set that came whole."""
    if not len(molecules):
        raise InputError(f"{path}: holds no molecules")
    problems = {i: geometry_problem(*molecules[i], max_atoms) for i in range(len(molecules))}
    skipped = [Skipped(int(indices[i]), "", problem) for i, problem in problems.items() if problem]
    kept = np.array([i for i, problem in problems.items() if not problem], dtype=np.int64)
    if not len(kept):
        raise InputError(f"{path}: none of its {len(skipped)} molecules can be used; {_describe(skipped[0])}")
    if len(skipped):
        molecules = molecules.select(kept)
    if properties is not None:
        molecules = select_properties(molecules, properties, path)
    report = ReadReport(molecules, skipped, indices[kept], [""] * len(kept))
    if skipped:
        logger.warning("%s: %s", path, "; ".join(report.lines()))
    return report


def select_properties(molecules: MoleculeSet, wanted: Sequence[str], source: str | Path) -> MoleculeSet:
    """The set with only the named property columns (`gap` or `gap_ev`); an `InputError` where one is not there."""
    names = {name: name for name in molecules.properties}
    try:
        kept = {name: molecules.properties[name] for name in (find_tag(want, names) for want in wanted)}
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return dataclasses.replace(molecules, properties=kept)


def _to_set(records: Sequence[Record]) -> MoleculeSet:
    smiles = [record.smiles for record in records]
    charges = [record.charge for record in records]
    return MoleculeSet.from_molecules(
        [(record.numbers, record.positions) for record in records],
        smiles=smiles if any(smiles) else None,
        charges=charges if any(charges) else None,
    )


def _embed_records(items: Sequence[Record | Graph | Skipped], embed: Embedder | None) -> Iterator[Record | Skipped]:
    """Make 3D for the records that have none; a record whose embedding fails becomes a skipped one."""
    flat = [item.smiles for item in items if isinstance(item, Graph)]
    made = iter(embed(flat) if flat and embed is not None else [])
    for item in items:
        if not isinstance(item, Graph):
            yield item
            continue
        result = next(made, "no 3D coordinates")
        if isinstance(result, str):
            yield Skipped(item.index, item.identifier, f"{result}: {item.smiles[:80]}")
        else:
            numbers, positions, smiles, charge = result
            yield Record(item.index, item.identifier, numbers, positions, item.values, smiles, charge)


def _embed(smiles: list[str], seed: int, workers: int | None) -> list[tuple[np.ndarray, np.ndarray, str, int] | str]:
    """3D for SMILES, in their order, or the reason why not."""
    results = []
    for item in embed_many(smiles, seed=seed, workers=workers, timeout_s=_EMBED_TIMEOUT_S):
        if isinstance(item, Conformer):
            flat = Chem.MolToSmiles(Chem.MolFromSmiles(item.smiles), isomericSmiles=False)
            results.append((item.numbers, item.positions, flat, item.charge))
        else:
            results.append(item.reason)
    return results
