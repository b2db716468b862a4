"""Scorers by GFN2-xTB, for worker processes: nothing here may meet torch (see `molgen.chemistry.xtb`)."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from common.errors import InputError
from common.workers import Failure
from molgen.chemistry import xtb

HARTREE_KCAL_MOL = 627.5094740631
STRAIN = "strain_kcal_mol"
SINGLE_POINT = (*xtb.COLUMNS, xtb.RMS_FORCE)


def single_point(
    numbers: np.ndarray, positions: np.ndarray, charge: int, columns: Collection[str]
) -> dict[str, float] | Failure:
    """Some columns of `SINGLE_POINT` from one calculation. Arguments as `xtb.properties`."""
    try:
        return xtb.properties(numbers, positions, charge, columns)
    except xtb.XtbError as error:
        return Failure(error.reason, str(error))
    except InputError as error:
        return Failure("bad geometry", str(error))


def strain(numbers: np.ndarray, positions: np.ndarray, charge: int) -> float | Failure:
    """Energy that a relaxation sets free, kcal/mol, at least 0 up to its convergence. The relaxed molecule is the next
    local minimum; where atoms rearrange on the way, the strain is large, as it should be."""
    try:
        end = xtb.relax(numbers, positions, charge)
    except xtb.XtbError as error:
        return Failure(error.reason, str(error))
    except InputError as error:
        return Failure("bad geometry", str(error))
    if not end.converged:
        return Failure("not relaxed", f"{end.max_force:.3f} eV/Angstrom left after {end.steps} steps")
    return (end.start_energy_hartree - end.energy_hartree) * HARTREE_KCAL_MOL
