"""`molgen view`: molecules of a run or a file on one offline page, to be turned with the mouse."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.options import argument, option
from common.cli.view import Card, ViewOptions, finish_view
from common.errors import InputError

if TYPE_CHECKING:
    from molgen.chemistry.perception import Perceived
    from molgen.data.molecules import MoleculeSet

logger = logging.getLogger(__name__)

_Facts = dict[str, str | float | bool | None]
# Columns of `samples.csv` about soundness: they come after what is known of the molecule.
_CHECKS = ("valid", "reason", "edm_stable", "edm_stable_atoms", "edm_valid", "valency_correct", "fragments", "novel",
           "posebusters")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MoleculeViewOptions(ViewOptions):
    """Options of `molgen view`."""

    samples: str = argument("molecule file (SDF, XYZ, npz, ...) or a run directory")
    valid: bool = option(False, "only molecules with valid bonds")
    workers: int | None = option(None, "processes (default: one a core)", at_least=1)


def run(options: MoleculeViewOptions) -> dict[str, Any]:
    """Read, draw, write the page."""
    from molgen.chemistry.perception import perceive

    path = Path(options.samples)
    molecules, rows = _read(path, options.workers)
    total = len(molecules)
    shown = list(range(total))
    # Only a filter has to look at all of them.
    perceived = perceive(molecules if options.valid else molecules.select(shown[: options.count]), options.workers)
    if options.valid:
        shown = [k for k in shown if perceived[k].valid]
        perceived = [one for one in perceived if one.valid]
        total = len(shown)
    if not shown:
        raise InputError(f"{path} holds no molecules to show" + (" with valid bonds" if options.valid else ""))
    cards = [
        _card(molecules, k, one, rows[k])
        for k, one in zip(shown[: options.count], perceived[: options.count], strict=True)
    ]
    return finish_view(options, [path], "Molecules", cards, total)


def _read(path: Path, workers: int | None) -> tuple[MoleculeSet, list[_Facts]]:
    """The molecules, and what is known of each: the row of `samples.csv`, or the columns of the file."""
    from molgen.data.files import read_molecules
    from molgen.data.molecules import MoleculeSet
    from molgen.results import RAW_SAMPLES

    if not path.is_dir():
        report = read_molecules(path, workers=workers)
        rows: list[_Facts] = [{"name": name} if name else {} for name in report.identifiers]
        for column, values in report.molecules.properties.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row[column] = value
        return report.molecules, rows
    if not (path / RAW_SAMPLES).exists():
        raise InputError(f"{path} holds no samples; expected a run of `molgen generate`, or a molecule file")
    molecules = MoleculeSet.load(path / RAW_SAMPLES)
    rows = _table(path / "samples.csv")
    if len(rows) != len(molecules):
        logger.warning(
            "%s has %d rows for %d samples: captions without them", path / "samples.csv", len(rows), len(molecules)
        )
        rows = [_Facts()] * len(molecules)
    return molecules, rows


def _table(path: Path) -> list[_Facts]:
    """The rows of `samples.csv` with numbers and truth values as such, checks last; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        names = sorted((name for name in rows.fieldnames or () if name != "index"), key=lambda name: name in _CHECKS)
        return [{name: _value(row[name] or "") for name in names} for row in rows]


def _value(text: str) -> str | float | bool | None:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _card(molecules: MoleculeSet, index: int, found: Perceived, facts: _Facts) -> Card:
    from molgen.chemistry.elements import formula
    from molgen.chemistry.view3d import formula_svg, traces, unbonded

    if found.mol is not None:
        note = "" if found.valid else str(found.reason)
        if facts.get("smiles") == found.smiles:
            facts = {key: value for key, value in facts.items() if key != "smiles"}
        return Card(found.smiles, traces(found.mol), facts, formula_svg(found.mol), note)
    atoms = unbonded(molecules, index)
    note = f"no valid bonds: {found.reason}"
    if atoms is None:
        return Card("cannot be drawn", (), facts, None, note)
    return Card(formula(molecules[index][0]), traces(atoms), facts, None, f"{note}; atoms that are close are joined")


VERB = Verb("view", "show molecules on a page that is turned with the mouse", MoleculeViewOptions, run)
