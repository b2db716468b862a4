"""What is in a molecule set: the figures behind `molgen data inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from rdkit import Chem

from common.columns import ColumnSummary, column_lines
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import PROPERTIES

_BAR = 40


@dataclass(frozen=True)
class Summary:
    """A set in figures.

    Attributes:
        num_molecules, num_atoms: totals.
        elements: symbol -> number of atoms, most frequent first.
        molecules_with: symbol -> number of molecules that hold the element.
        atom_counts: number of atoms -> number of molecules, ascending.
        heavy_atom_counts: the same without hydrogen.
        num_smiles: molecules whose SMILES is known.
        num_unique_smiles: different ones among them.
        num_charged: molecules with a total charge.
        num_without_hydrogen: molecules without any hydrogen atom (many of them hint at stripped hydrogens).
        extent_angstrom: largest distance of an atom from its molecule's centre.
        properties: one entry a column.
    """

    num_molecules: int
    num_atoms: int
    elements: Mapping[str, int]
    molecules_with: Mapping[str, int]
    atom_counts: Mapping[int, int]
    heavy_atom_counts: Mapping[int, int]
    num_smiles: int
    num_unique_smiles: int
    num_charged: int
    num_without_hydrogen: int
    extent_angstrom: float
    properties: tuple[ColumnSummary, ...]

    def to_dict(self) -> dict:
        """Plain data for JSON (keys of the histograms become text; NaN where a column has no values)."""
        result = asdict(self)
        for name in ("atom_counts", "heavy_atom_counts"):
            result[name] = {str(key): value for key, value in result[name].items()}
        return result

    def lines(self) -> list[str]:
        """The summary as text for a terminal."""
        lines = [
            f"molecules   {self.num_molecules}",
            f"atoms       {self.num_atoms}",
            "elements    " + ", ".join(f"{symbol} {count}" for symbol, count in self.elements.items()),
            f"SMILES      {self.num_smiles} known, {self.num_unique_smiles} different",
            f"charged     {self.num_charged}",
            f"without H   {self.num_without_hydrogen}",
            f"extent      {self.extent_angstrom:.2f} Angstrom from the centre at most",
            "atoms a molecule",
        ]
        most = max(self.atom_counts.values(), default=1)
        for size, count in self.atom_counts.items():
            lines.append(f"  {size:4d} {count:8d} {'#' * max(1, round(_BAR * count / most))}")
        return lines + column_lines(self.properties)


def summarise(molecules: MoleculeSet) -> Summary:
    """The figures of a set of M molecules."""
    numbers = np.asarray(molecules.numbers)
    owner = np.repeat(np.arange(len(molecules)), molecules.num_atoms)
    table = Chem.GetPeriodicTable()
    found, counts = np.unique(numbers, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    symbols = {int(number): table.GetElementSymbol(int(number)) for number in found[order]}
    heavy = np.bincount(owner[numbers > 1], minlength=len(molecules))
    hydrogens = np.bincount(owner[numbers == 1], minlength=len(molecules))
    known = [] if molecules.smiles is None else [smiles for smiles in molecules.smiles if smiles]
    return Summary(
        num_molecules=len(molecules),
        num_atoms=len(numbers),
        elements={symbols[int(found[k])]: int(counts[k]) for k in order},
        molecules_with={s: len(np.unique(owner[numbers == number])) for number, s in symbols.items()},
        atom_counts=_histogram(molecules.num_atoms),
        heavy_atom_counts=_histogram(heavy),
        num_smiles=len(known),
        num_unique_smiles=len(set(known)),
        num_charged=0 if molecules.charges is None else int(np.count_nonzero(molecules.charges)),
        num_without_hydrogen=int(np.count_nonzero(hydrogens == 0)),
        extent_angstrom=_extent(molecules, owner),
        properties=tuple(_column(name, values) for name, values in molecules.properties.items()),
    )


def _histogram(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _extent(molecules: MoleculeSet, owner: np.ndarray) -> float:
    positions = np.asarray(molecules.positions, dtype=np.float64)
    if not len(positions):
        return 0.0
    sums = np.stack([np.bincount(owner, positions[:, k], len(molecules)) for k in range(3)], axis=1)
    centres = sums / np.maximum(molecules.num_atoms, 1)[:, None]
    return float(np.linalg.norm(positions - centres[owner], axis=1).max())


def _column(name: str, values: np.ndarray) -> ColumnSummary:
    unit = next((p.unit for p in PROPERTIES.values() if p.column == name), "")
    return ColumnSummary.of(name, values, unit)
