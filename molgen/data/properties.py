"""The one table of molecular properties: name, column, unit, meaning.

A user types the name (`gap`); files and tables carry the column (`gap_ev`), which holds the unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import InputError
from common.named import nearest

HARTREE_EV = 27.211386245988
DEBYE_PER_E_ANGSTROM = 4.803204712570263
DEBYE_PER_ATOMIC_UNIT = 2.541746473
BOHR_ANGSTROM = 0.529177210903


@dataclass(frozen=True)
class Property:
    """One property of a molecule: `name` is typed, `column` stands in files."""

    name: str
    column: str
    unit: str
    description: str


PROPERTIES = {
    p.name: p
    for p in (
        Property("mu", "mu_d", "D", "dipole moment"),
        Property("alpha", "alpha_bohr3", "Bohr^3", "isotropic static polarisability"),
        Property("homo", "homo_ev", "eV", "energy of the highest occupied orbital"),
        Property("lumo", "lumo_ev", "eV", "energy of the lowest unoccupied orbital"),
        Property("gap", "gap_ev", "eV", "LUMO minus HOMO"),
        Property("energy", "energy_hartree", "Hartree", "total energy"),
        Property("r2", "r2_bohr2", "Bohr^2", "electronic spatial extent"),
        Property("zpve", "zpve_ev", "eV", "zero-point vibrational energy"),
        Property("u0", "u0_hartree", "Hartree", "internal energy at 0 K"),
        Property("u", "u_hartree", "Hartree", "internal energy at 298.15 K"),
        Property("h", "h_hartree", "Hartree", "enthalpy at 298.15 K"),
        Property("g", "g_hartree", "Hartree", "free energy at 298.15 K"),
        Property("cv", "cv_cal_mol_k", "cal/mol/K", "heat capacity at 298.15 K"),
    )
}


# Name or column -> column.
COLUMNS = {word: p.column for p in PROPERTIES.values() for word in (p.name, p.column)}


def find_property(name: str) -> Property:
    """The property called `name` (or whose column is `name`); an `InputError` names the nearest otherwise."""
    for prop in PROPERTIES.values():
        if name.lower() in (prop.name, prop.column):
            return prop
    known = [*PROPERTIES, *(prop.column for prop in PROPERTIES.values())]
    raise InputError(f"unknown property '{name}'{nearest(name.lower(), known)}; known: {', '.join(PROPERTIES)}")
