"""One molecule as a reader found it, and the checks and columns that all readers share."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from common.errors import InputError
from molgen.chemistry.perception import graph_smiles
from molgen.data.properties import PROPERTIES

# The shortest bond there is, H-H, measures 0.74 Angstrom and is hardly ever under 0.6 in a vibrating or badly
# optimised geometry. Below 0.4 (the limit of `molgen.chemistry.perception` too) two atoms are one atom written twice,
# or the file is in other units.
MIN_DISTANCE = 0.4
MAX_ELEMENT = 118
# No molecule of a sensible file carries more; also, sets store charges as int8.
MAX_CHARGE = 100

_MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "nil", "-", "?", "inf", "+inf", "-inf"})
# Above this many atoms the full distance matrix costs more than a tree.
_TREE_ATOMS = 300


@dataclass(frozen=True, slots=True)
class Record:
    """A molecule read from a file.

    Attributes:
        index: number of the record in its file, the first one is 1.
        identifier: its name in the file, or an empty string.
        numbers: (n,) uint8 atomic numbers.
        positions: (n, 3) float64, Angstrom.
        values: tag of the file -> value as found (text or number).
        smiles: canonical, without explicit hydrogen and stereo marks; empty where unknown.
        charge: total charge.
        notes: what is worth counting about the record though it is kept.
    """

    index: int
    identifier: str
    numbers: np.ndarray
    positions: np.ndarray
    values: Mapping[str, str | float] = field(default_factory=dict)
    smiles: str = ""
    charge: int = 0
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A molecule whose file gives its SMILES and no 3D, which has still to be made. Attributes as in `Record`."""

    index: int
    identifier: str
    smiles: str
    values: Mapping[str, str | float] = field(default_factory=dict)


class Skipped(NamedTuple):
    """A record that could not be used: its number in the file (from 1), its name there, and why."""

    index: int
    identifier: str
    reason: str


def atomic_numbers(values: np.ndarray) -> np.ndarray:
    """(n,) uint8 from numbers of any kind; what is no element's becomes 0, which `geometry_problem` reports."""
    values = np.asarray(values)
    known = (values >= 1) & (values <= MAX_ELEMENT) & (values == np.floor(values))
    return np.where(known, values, 0).astype(np.uint8)


def record_problem(record: Record, max_atoms: int | None = None) -> str | None:
    """Why this record cannot be used, or None: `geometry_problem`, or a charge that no molecule has."""
    if abs(record.charge) > MAX_CHARGE:
        return f"total charge {record.charge}"
    return geometry_problem(record.numbers, record.positions, max_atoms)


def canonical_smiles(text: str) -> str:
    """A SMILES as `Record.smiles` has it; as it is where RDKit cannot read it."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text) if text else None
    return text if mol is None else graph_smiles(mol)


def geometry_problem(numbers: np.ndarray, positions: np.ndarray, max_atoms: int | None = None) -> str | None:
    """Why this geometry cannot be used, or None.

    Args:
        numbers: (n,) atomic numbers.
        positions: (n, 3) Angstrom.
        max_atoms: the largest molecule to accept.
    """
    if len(numbers) == 0:
        return "no atoms"
    if max_atoms is not None and len(numbers) > max_atoms:
        return f"{len(numbers)} atoms, more than max_atoms = {max_atoms}"
    unknown = np.flatnonzero((numbers < 1) | (numbers > MAX_ELEMENT))
    if unknown.size:
        return f"atom {unknown[0] + 1} is a dummy atom (*, X or R), not an element"
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if broken.size:
        return f"atom {broken[0] + 1} has a coordinate that is not a finite number"
    if np.abs(positions).max() > 1e5:
        return "coordinates beyond 100,000 Angstrom"
    if len(numbers) > 1:
        pair = _closest_pair(positions)
        if pair is not None:
            i, j, distance = pair
            return f"atoms {i + 1} and {j + 1} are {distance:.2f} Angstrom apart (at least {MIN_DISTANCE} expected)"
    return None


def _closest_pair(positions: np.ndarray) -> tuple[int, int, float] | None:
    """The first pair of atoms nearer than MIN_DISTANCE."""
    n = len(positions)
    if n > _TREE_ATOMS:
        pairs = KDTree(positions).query_pairs(MIN_DISTANCE, output_type="ndarray")
        if not len(pairs):
            return None
        i, j = pairs[0]
        return int(i), int(j), float(np.linalg.norm(positions[i] - positions[j]))
    distances = pdist(positions)
    k = int(distances.argmin())
    if distances[k] >= MIN_DISTANCE:
        return None
    rows, columns = np.triu_indices(n, 1)
    return int(rows[k]), int(columns[k]), float(distances[k])


def column_name(tag: str) -> str:
    """The property column that a file's tag stands for.

    A tag that carries name and unit (`gap_ev`, `Gap (eV)`, `alpha [Bohr^3]`) becomes the project's column. A name
    without a unit (`gap`) stays itself, since nobody can tell its unit. Anything else is lower-cased and reduced
    to `[a-z][a-z0-9_]*`.
    """
    name = re.sub(r"[^a-z0-9]+", "_", tag.strip().lower()).strip("_")
    if not name:
        return "property"
    bare = name.replace("_", "")
    for prop in PROPERTIES.values():
        if bare == prop.column.replace("_", ""):
            return prop.column
    return name if name[0].isalpha() else f"property_{name}"


class PropertyTable:
    """Columns of numbers grown one molecule at a time, from whatever tags the molecules carry.

    A tag becomes a column if more molecules have a number there than a text; then a text, a missing or a non-finite
    value is NaN.
    """

    def __init__(self) -> None:
        self._columns: dict[str, array] = {}
        self._numbers: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._rows = 0

    def append(self, values: Mapping[str, str | float]) -> None:
        """Add one molecule."""
        for tag, value in values.items():
            number = _to_number(value)
            if number is None:
                self._texts[tag] += 1
                continue
            column = self._columns.setdefault(tag, array("d"))
            column.extend([np.nan] * (self._rows - len(column)))
            column.append(number)
            self._numbers[tag] += number == number
        self._rows += 1

    def finish(self, wanted: Sequence[str] | None) -> tuple[dict[str, np.ndarray], list[str]]:
        """The columns, name -> (M,) float64, and one line for each thing that the user should know.

        Args:
            wanted: tags, columns or property names to keep; None keeps all.

        Raises:
            InputError: a wanted one is not there.
        """
        columns: dict[str, np.ndarray] = {}
        remarks: list[str] = []
        tags = [tag for tag in self._columns if self._numbers[tag] > (self._texts[tag] if wanted is None else 0)]
        names = dict(zip(tags, (column_name(tag) for tag in tags), strict=True))
        if wanted is not None:
            names = {find_tag(want, names): "" for want in wanted}
            names = {tag: column_name(tag) for tag in names}
        for tag, name in names.items():
            if name in columns:
                remarks.append(f"two tags mean the column '{name}'; '{tag}' is left out")
                continue
            values = self._columns[tag]
            values.extend([np.nan] * (self._rows - len(values)))
            columns[name] = np.array(values, dtype=np.float64)
            if name in PROPERTIES and PROPERTIES[name].column != name:
                prop = PROPERTIES[name]
                remarks.append(
                    f"'{tag}' carries no unit, so it is not taken for the {prop.description}; "
                    f"call it '{prop.column}' if it is in {prop.unit}"
                )
        return columns, remarks


def find_tag(want: str, names: Mapping[str, str]) -> str:
    """The tag among `names` (tag -> column) that `want` (a tag, a column or a property's name) means.

    Raises:
        InputError: none does; the message lists the columns.
    """
    column = PROPERTIES[want.lower()].column if want.lower() in PROPERTIES else column_name(want)
    for tag, name in names.items():
        if want in (tag, name) or name == column:
            return tag
    found = ", ".join(sorted({*names.values()})) or "none"
    raise InputError(f"the file has no numeric property '{want}'; found: {found}")


def _to_number(value: str | float) -> float | None:
    """A number, NaN for a missing or non-finite one, None for text."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _MISSING:
            return float("nan")
        # Python reads "1_000" as a number; a data file does not mean one.
        if "_" in text:
            return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else float("nan")
