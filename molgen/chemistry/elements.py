"""Element symbols, numbers and covalent radii, read from RDKit's periodic table; colours for pictures."""

from __future__ import annotations

import difflib
from functools import cache

import numpy as np
from rdkit import Chem

from common.errors import InputError

MAX_NUMBER = 118

# The elements of QM9, in the order of EDM's atom decoder (arXiv 2203.17003).
QM9_NUMBERS = (1, 6, 7, 8, 9)

_COLOURS = {
    1: "#f2f2f2", 5: "#ffb5b5", 6: "#5a5a5a", 7: "#3050f8", 8: "#e8251f", 9: "#7fd35c", 14: "#d9b98c", 15: "#ff8000",
    16: "#e6c619", 17: "#1fc01f", 35: "#a62929", 53: "#940094",
}  # fmt: skip
_OTHER_COLOUR = "#c060c0"


@cache
def symbols() -> tuple[str, ...]:
    """Symbols by atomic number: `symbols()[6] == "C"`. Entry 0 is `"*"`, no element."""
    table = Chem.GetPeriodicTable()
    return tuple(table.GetElementSymbol(z) for z in range(MAX_NUMBER + 1))


@cache
def _numbers() -> dict[str, int]:
    return {symbol: z for z, symbol in enumerate(symbols()) if z > 0}


@cache
def covalent_radii() -> np.ndarray:
    """(119,) float64 covalent radii in Angstrom by atomic number (RDKit's table); NaN at 0. Read-only."""
    table = Chem.GetPeriodicTable()
    radii = np.array([np.nan] + [table.GetRcovalent(z) for z in range(1, MAX_NUMBER + 1)])
    radii.flags.writeable = False
    return radii


def symbol(number: int) -> str:
    """The symbol of one atomic number. Raises `InputError` outside 1-118."""
    if not 1 <= number <= MAX_NUMBER:
        raise InputError(f"atomic number {number} is no element, expected 1 to {MAX_NUMBER}")
    return symbols()[number]


def number(symbol: str) -> int:
    """The atomic number of one symbol, in any case, with blanks around it; `InputError` if unknown."""
    name = symbol.strip().capitalize()
    found = _numbers().get(name)
    if found is None:
        nearest = difflib.get_close_matches(name, _numbers(), n=1, cutoff=0.5)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        raise InputError(f"unknown element '{symbol}', expected a symbol such as C or Cl{hint}")
    return found


def colour(number: int) -> str:
    """The colour (`#rrggbb`) of an atomic number in pictures: the customary one of the common elements, else violet."""
    return _COLOURS.get(number, _OTHER_COLOUR)


def formula(numbers: np.ndarray) -> str:
    """Hill formula of (n,) atomic numbers: carbon, then hydrogen, then the others by symbol."""
    names, counts = np.unique(np.array([symbols()[z] for z in numbers], dtype=np.str_), return_counts=True)
    count = dict(zip(names.tolist(), counts.tolist(), strict=True))
    first = [name for name in ("C", "H") if name in count] if "C" in count else []
    order = first + sorted(name for name in count if name not in first)
    return "".join(name + (str(count[name]) if count[name] > 1 else "") for name in order)
