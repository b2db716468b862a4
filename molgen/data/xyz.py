"""XYZ and extended XYZ with many frames. ASE reads and writes a frame; finding the frames again after a broken one
is ours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import read_xyz as ase_read_xyz
from ase.io.extxyz import write_xyz as ase_write_xyz

from common.atomic import atomic_writer
from common.errors import InputError
from molgen.data.molecules import MoleculeSet
from molgen.data.records import Record, Skipped, atomic_numbers, canonical_smiles
from molgen.data.streams import is_text

MAX_FRAME_ATOMS = 100_000
PERIODIC = "frames have a periodic cell, which is ignored"

_NAME_KEYS = ("name", "id", "identifier", "label")


def read_xyz(lines: Iterable[str]) -> Iterator[Record | Skipped]:
    """The frames of an XYZ file; positions in Angstrom.

    In extended XYZ the numbers of the comment line become property values, `smiles` and `charge` keep their meaning.
    A plain comment line is the frame's name.
    """
    index = 0
    source = _Lines(lines)
    for line in source:
        if not line.strip():
            continue
        index += 1
        n_atoms = _atom_count(line)
        if n_atoms is None:
            yield Skipped(index, "", f"expected a number of atoms, got '{line.strip()[:40]}'")
            source.skip_to(lambda text: _atom_count(text) is not None)
            continue
        frame = source.take(n_atoms + 1)
        result = _parse(index, n_atoms, frame)
        if isinstance(result, Skipped):
            # The count may be wrong: the next frame starts at the next lone integer, maybe inside these lines.
            starts = [k for k in range(1, len(frame)) if _atom_count(frame[k]) is not None]
            if starts:
                source.put_back(frame[starts[0] :])
        yield result


class _Lines:
    """Lines that can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._source = iter(lines)
        self._back: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self._back.pop() if self._back else next(self._source)

    def take(self, n: int) -> list[str]:
        """At most n lines."""
        return [line for _, line in zip(range(n), self, strict=False)]

    def put_back(self, lines: Sequence[str]) -> None:
        self._back.extend(reversed(lines))

    def skip_to(self, found: Callable[[str], bool]) -> None:
        """Go on to the first line for which `found` holds; it comes next."""
        for line in self:
            if found(line):
                self.put_back([line])
                return


def _atom_count(line: str) -> int | None:
    text = line.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _parse(index: int, n_atoms: int, frame: list[str]) -> Record | Skipped:
    comment = frame[0].strip() if frame else ""
    if not all(is_text(line) for line in frame):
        return Skipped(index, "", "frame holds bytes that are not UTF-8; convert the file to UTF-8")
    extended = "=" in comment
    name = "" if extended else comment[:80]
    if n_atoms > MAX_FRAME_ATOMS:
        return Skipped(index, name, f"{n_atoms} atoms; at most {MAX_FRAME_ATOMS} are read")
    if len(frame) < n_atoms + 1:
        return Skipped(index, name, f"file ends after {max(len(frame) - 1, 0)} of {n_atoms} atoms")
    if n_atoms == 0:
        return Skipped(index, name, "no atoms")
    rows = frame[1:]
    if "Properties=" not in comment:
        rows = [_with_symbol(row) for row in rows]
    text = "\n".join([str(n_atoms), comment if extended else "", *rows, ""])
    try:
        atoms = next(iter(ase_read_xyz(io.StringIO(text), index=0)))
    except KeyError as error:
        return Skipped(index, name, f"unknown element {error}")
    except (ValueError, IndexError, TypeError, AttributeError, OSError) as error:
        return Skipped(index, name, f"malformed frame ({_one_line(error)})")
    if len(atoms) != n_atoms:
        return Skipped(index, name, "malformed frame (its Properties name neither species nor Z)")
    info = dict(atoms.info) | (atoms.calc.results if atoms.calc is not None else {})
    # As text: ASE would take the SMILES `F` for "false" and the name `007` for a number.
    name = name or next((text for key in _NAME_KEYS if (text := _text_of(key, comment))), "")
    charge = info.pop("charge", 0)
    if not _is_number(charge) or not float(charge).is_integer():
        return Skipped(index, name, f"charge {charge} is not a whole number")
    texts = ("name", "smiles")
    values = {key: float(value) for key, value in info.items() if _is_number(value) and key not in texts}
    return Record(
        index,
        name,
        atomic_numbers(atoms.numbers),
        atoms.positions,
        values,
        smiles=canonical_smiles(_text_of("smiles", comment)),
        charge=int(charge),
        notes=(PERIODIC,) if atoms.pbc.any() else (),
    )


def _text_of(key: str, comment: str) -> str:
    """The value of a key of an extended comment as it stands there, without quotes; "" where there is none."""
    found = re.search(rf"(?:^|\s){key}=(?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|(\S+))", comment)
    if found is None:
        return ""
    quoted = found[1]
    return re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found[2] or found[3] or ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _with_symbol(row: str) -> str:
    """A row that gives the atomic number gets the symbol."""
    fields = row.split(None, 1)
    if len(fields) == 2 and fields[0].isdecimal() and 0 < int(fields[0]) < len(chemical_symbols):
        return f"{chemical_symbols[int(fields[0])]} {fields[1]}"
    return row


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def write_xyz(
    path: str | Path,
    molecules: MoleculeSet,
    properties: Mapping[str, Sequence[object]] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write extended XYZ (`Properties=species:S:1:pos:R:3`), one frame a molecule, Angstrom, all or nothing.

    Args:
        molecules: M molecules; their SMILES and non-zero charges go into the comment line.
        properties: key -> M values; NaN and None leave the key out. `molecules.properties` where this is None.
        names: M names for the key `name`.

    Raises:
        InputError: lists of the wrong length. OSError: the file could not be written; what was there before stays.
    """
    columns = dict(molecules.properties if properties is None else properties)
    if names is not None:
        columns["name"] = names
    for key, values in columns.items():
        if len(values) != len(molecules):
            raise InputError(f"property '{key}': {len(values)} values for {len(molecules)} molecules")
    with atomic_writer(path) as file:
        for i, (numbers, positions) in enumerate(molecules):
            info = {key: values[i] for key, values in columns.items()}
            if molecules.smiles is not None and molecules.smiles[i]:
                info["smiles"] = str(molecules.smiles[i])
            if molecules.charge(i):
                info["charge"] = molecules.charge(i)
            info = {key: value for key, value in info.items() if not _is_missing(value)}
            atoms = Atoms(numbers=numbers, positions=positions.astype(np.float64), info=info)
            ase_write_xyz(file, atoms, columns=["symbols", "positions"])


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float | np.floating) and not np.isfinite(value))
