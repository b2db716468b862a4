"""Tables of text: SMILES lists and CSV, which hold graphs and no geometry."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.atomic import atomic_writer
from common.errors import InputError
from molgen.data.records import Graph, Skipped
from molgen.data.streams import is_text

_NAME_COLUMNS = ("name", "id", "identifier", "title", "compound", "mol_id")


def read_smiles(lines: Iterable[str]) -> Iterator[Graph | Skipped]:
    """A SMILES list: one SMILES a line, then, after white space, an optional name. Lines starting with # are comments;
    a first line `smiles ...` is a heading."""
    index = 0
    for line in lines:
        fields = line.split(None, 1)
        if not fields or line.startswith("#") or (index == 0 and fields[0].strip('",').lower() == "smiles"):
            continue
        index += 1
        if not is_text(line):
            yield Skipped(index, "", "line holds bytes that are not UTF-8; convert the file to UTF-8")
        else:
            name = fields[1].strip() if len(fields) > 1 else ""
            yield Graph(index, name, fields[0])


def read_csv(lines: Iterable[str], path: str | Path, delimiter: str | None = None) -> Iterator[Graph | Skipped]:
    """A table with a heading line and a SMILES column, found by its name whatever the case. All other columns are
    handed on as property values.

    Args:
        lines: the lines of the file.
        path: its name, for error messages.
        delimiter: between columns; None takes the most frequent of comma, semicolon and tab in the heading line.

    Raises:
        InputError: no column is called SMILES.
    """
    source = iter(lines)
    heading = next(source, "")
    delimiter = delimiter or max(",;\t", key=heading.count)
    columns = [name.strip() for name in next(csv.reader([heading], delimiter=delimiter), [])]
    smiles_column = _smiles_column(columns, path)
    name_column = next((i for i, c in enumerate(columns) if c.lower() in _NAME_COLUMNS), None)
    rows = csv.reader(source, delimiter=delimiter)
    index = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            index += 1
            yield Skipped(index, "", f"unreadable row ({error})")
            continue
        if not any(cell.strip() for cell in row):
            continue
        index += 1
        name = row[name_column].strip() if name_column is not None and name_column < len(row) else ""
        if not is_text(delimiter.join(row)):
            yield Skipped(index, "", "row holds bytes that are not UTF-8; convert the file to UTF-8")
        elif len(row) != len(columns):
            yield Skipped(index, name, f"{len(row)} cells, expected {len(columns)}")
        elif not row[smiles_column].strip():
            yield Skipped(index, name, "no SMILES")
        else:
            values = {c: v for i, (c, v) in enumerate(zip(columns, row, strict=True)) if i != smiles_column and c}
            yield Graph(index, name, row[smiles_column].strip(), values)


def _smiles_column(columns: Sequence[str], path: str | Path) -> int:
    names = [name.lower() for name in columns]
    if "smiles" in names:
        return names.index("smiles")
    for i, name in enumerate(names):
        if "smiles" in name:
            return i
    raise InputError(f"{path}: no column is called 'smiles'; columns: {', '.join(columns) or 'none'}")


def write_csv(path: str | Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write a table, all or nothing: a heading line, then one row an item; NaN and None become empty cells.

    Raises:
        InputError: columns of different length. OSError: the file could not be written; what was there before stays.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length: {lengths}")
    with atomic_writer(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))


def _cell(value: object) -> object:
    if isinstance(value, float | np.floating):
        return repr(float(value)) if np.isfinite(value) else ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return "" if value is None else value
