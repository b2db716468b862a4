"""`Quantity`: a number with a name and a unit, which targets and rewards speak of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import InputError
from common.named import nearest


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that can be measured on a sample.

    Attributes:
        name: as it stands in tables and files; the unit is a part of it (`gap_ev`).
        unit: for people (`eV`); "" for a pure number, None where nobody stated it.
        description: a few words.
        aliases: shorter names that users type (`gap`).
        tolerance: a small difference, in `unit`; what `gap=4.5` without ± means. None: a user has to give one.
        bounds: the lowest and highest value there can be, where there are such; they scale `maximise`.
        categories: the labels of a class, whose values are their indices; empty for a number.
    """

    name: str
    unit: str | None = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    tolerance: float | None = None
    bounds: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()

    def with_unit(self, number: float) -> str:
        """`4.5 eV`."""
        return f"{number:g} {self.unit}".rstrip() if self.unit else f"{number:g}"


def find_quantity(name: str, known: Iterable[Quantity], what: str = "quantity") -> Quantity:
    """The quantity called `name` or so by an alias, in upper or lower case.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = list(known)
    wanted = name.lower()
    for quantity in known:
        if wanted in (quantity.name.lower(), *(alias.lower() for alias in quantity.aliases)):
            return quantity
    names = [name for quantity in known for name in (quantity.name, *quantity.aliases)]
    short = ", ".join(min((quantity.name, *quantity.aliases), key=len) for quantity in known)
    raise InputError(f"unknown {what} '{name}'{nearest(wanted, names)}; known: {short}")


def unknown_reward(name: str, names: Iterable[str], program: str) -> InputError:
    """What to raise for a reward that nobody knows: the nearest of `names`, or how a function of one's own is named.

    Args:
        name: as typed.
        names: of all there are.
        program: whose `rewards` lists them.
    """
    # The file of a function is near to no name.
    near = "" if name.lower().endswith(".py") else nearest(name.lower(), names)
    hint = near or "; a function of yours is named my_score.py:score"
    return InputError(f"unknown reward '{name}'{hint}; `{program} rewards` lists all")
