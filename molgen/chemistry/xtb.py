"""GFN2-xTB by tblite: relaxation and properties of one molecule.

Method: Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652. This is the oracle that labels the embedded data set
and checks samples. Do not run it where torch is imported: the two have disturbed each other's threads. Call it through
`common.workers.WorkerPool`, whose fresh processes also run one thread each.
tblite itself speaks Bohr and Hartree; everything public here speaks Angstrom and the units in the names.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import InputError
from molgen.data.properties import BOHR_ANGSTROM, DEBYE_PER_ATOMIC_UNIT, HARTREE_EV

FIELD_AU = 0.002  # strength of the finite field, atomic units
MIN_DISTANCE_ANGSTROM = 0.5  # below, tblite may "converge" to an absurd energy
# SCF threshold relative to tblite's default. The polarisability is a difference of dipoles over 0.004 a.u.:
# with 1.0 their noise gives 0.005 Bohr^3, with 0.01 1e-4 at a fifth more time.
_ACCURACY = 0.01
_MAX_STEP_BOHR = 0.4
COLUMNS = ("mu_d", "alpha_bohr3", "homo_ev", "lumo_ev", "gap_ev", "energy_hartree")
_ORBITALS = frozenset({"homo_ev", "lumo_ev", "gap_ev"})
# What `properties` gives on request beside them.
RMS_FORCE = "rms_force_ev_angstrom"


class XtbError(RuntimeError):
    """The calculation failed. `reason` is one of a few short texts, fit to be counted."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Relaxation:
    """Where a relaxation ended.

    Attributes:
        positions: (n, 3) float64, Angstrom.
        energy_hartree: at `positions`.
        start_energy_hartree: at the start.
        max_force: the largest force on an atom, eV/Angstrom.
        steps: gradient evaluations after the first.
        converged: `max_force` is below the threshold asked for.
    """

    positions: np.ndarray
    energy_hartree: float
    start_energy_hartree: float
    max_force: float
    steps: int
    converged: bool


def energy_and_forces(numbers: np.ndarray, positions: np.ndarray, charge: int = 0) -> tuple[float, np.ndarray]:
    """Energy in Hartree and forces (n, 3) in eV/Angstrom. Arguments and errors as `properties`."""
    calculator = _calculator(numbers, positions, charge)
    result = _single_point(calculator)
    return float(result.get("energy")), -result.get("gradient") * (HARTREE_EV / BOHR_ANGSTROM)


def properties(
    numbers: np.ndarray, positions: np.ndarray, charge: int = 0, columns: Collection[str] = COLUMNS
) -> dict[str, float]:
    """Columns for one geometry, bit for bit the same on every call; all but the polarisability cost one SCF together.

    The dipole moment is the norm (of a charged molecule: relative to the origin); the polarisability is a third of
    the trace of (mu_i(+F_i) - mu_i(-F_i)) / 2F at F = `FIELD_AU`; orbital energies are those of the converged GFN2-xTB
    Hamiltonian (for an odd number of electrons the singly occupied orbital is the HOMO). The RMS force is the root of
    the mean over atoms of the squared length of the force on them, eV/Angstrom.

    Args:
        numbers: (n,) atomic numbers.
        positions: (n, 3), Angstrom.
        charge: total charge; the spin is the lowest possible.
        columns: some of `COLUMNS` and `RMS_FORCE`; without the polarisability a tenth of the time.

    Raises:
        InputError: shapes don't match, a coordinate is not finite, or a column is unknown.
        XtbError: reason "clash" (two atoms within `MIN_DISTANCE_ANGSTROM`), "no convergence", or "no frontier orbitals"
            (an orbital energy is asked for, and all orbitals are taken, or none).
    """
    unknown = [column for column in columns if column not in (*COLUMNS, RMS_FORCE)]
    if unknown:
        raise InputError(f"got column {unknown[0]}, expected some of {', '.join((*COLUMNS, RMS_FORCE))}")
    calculator = _calculator(numbers, positions, charge)
    calculator.set("accuracy", _ACCURACY)
    result = _single_point(calculator)
    dipole = result.get("dipole")
    energy = float(result.get("energy"))
    levels = result.get("orbital-energies") * HARTREE_EV
    n_occupied = int(round(float(result.get("orbital-occupations").sum())) + 1) // 2
    homo = lumo = np.nan
    if 0 < n_occupied < len(levels):
        homo, lumo = float(levels[n_occupied - 1]), float(levels[n_occupied])
    elif not _ORBITALS.isdisjoint(columns):
        # A proton has no electrons, a fluoride no empty orbital; both have an energy.
        raise XtbError("no frontier orbitals", f"{n_occupied} of {len(levels)} orbitals are taken")
    forces = result.get("gradient") * (HARTREE_EV / BOHR_ANGSTROM)
    values = {
        "mu_d": float(np.linalg.norm(dipole)) * DEBYE_PER_ATOMIC_UNIT,
        "homo_ev": homo,
        "lumo_ev": lumo,
        "gap_ev": lumo - homo,
        "energy_hartree": energy,
        RMS_FORCE: float(np.sqrt((forces**2).sum(axis=1).mean())),
    }
    if "alpha_bohr3" in columns:
        values["alpha_bohr3"] = _polarisability(calculator, result)
    return {column: values[column] for column in columns}


def relax(
    numbers: np.ndarray, positions: np.ndarray, charge: int = 0, fmax: float = 0.02, max_steps: int = 200
) -> Relaxation:
    """Relax a molecule by BFGS from a model Hessian, restarting each SCF from the last wavefunction.

    The Hessian that knows bonds and angles (`_model_hessian`) takes 16 steps where ASE's constant one takes 42.

    Args:
        numbers, positions, charge: as in `properties`.
        fmax: the largest force on any atom at the end, eV/Angstrom.
        max_steps: gradient evaluations; past them the result has `converged` False.

    Raises:
        InputError, XtbError: as `properties`.
    """
    threshold = fmax * BOHR_ANGSTROM / HARTREE_EV
    calculator = _calculator(numbers, positions, charge)
    x = np.asarray(positions, dtype=np.float64) / BOHR_ANGSTROM
    result = _single_point(calculator)
    start = energy = float(result.get("energy"))
    gradient = result.get("gradient").ravel()
    hessian = _model_hessian(np.asarray(numbers), x)
    radius = _MAX_STEP_BOHR
    steps = 0
    while _largest(gradient) >= threshold and steps < max_steps:
        curvature, modes = np.linalg.eigh(hessian)
        step = -modes @ ((modes.T @ gradient) / np.maximum(np.abs(curvature), 1e-3))
        step *= min(1.0, radius / _largest(step))
        calculator.update(x + step.reshape(-1, 3))
        result = _single_point(calculator, result)
        new_energy, new_gradient = float(result.get("energy")), result.get("gradient").ravel()
        steps += 1
        change, product = new_gradient - gradient, hessian @ step
        if change @ step > 1e-10:  # keeps the Hessian positive definite
            hessian += np.outer(change, change) / (change @ step)
            hessian -= np.outer(product, product) / (step @ product)
        if new_energy > energy + 1e-5:
            radius = max(0.25 * _largest(step), 1e-3)  # too far: stay, and try a shorter step on the new Hessian
            continue
        radius = min(_MAX_STEP_BOHR, 2 * radius)
        x, energy, gradient = x + step.reshape(-1, 3), new_energy, new_gradient
    force = _largest(gradient)
    return Relaxation(
        positions=x * BOHR_ANGSTROM,
        energy_hartree=energy,
        start_energy_hartree=start,
        max_force=force * HARTREE_EV / BOHR_ANGSTROM,
        steps=steps,
        converged=force < threshold,
    )


def _largest(vector: np.ndarray) -> float:
    """The largest norm of any atom's part of a (3n,) vector."""
    return float(np.linalg.norm(vector.reshape(-1, 3), axis=1).max())


def _calculator(numbers: np.ndarray, positions: np.ndarray, charge: int) -> Any:
    numbers, positions = np.asarray(numbers), np.asarray(positions, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or positions.shape != (len(numbers), 3):
        raise InputError(f"numbers {numbers.shape} and positions {positions.shape}, expected (n,) and (n, 3)")
    if not np.isfinite(positions).all():
        raise InputError("a coordinate is not finite")
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    if distances.min() < MIN_DISTANCE_ANGSTROM:
        raise XtbError("clash", f"two atoms {distances.min():.2f} Angstrom apart")

    # Imported late: its threads read OMP_NUM_THREADS on load, and not every user of this module runs it.
    from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
    from tblite.interface import Calculator

    # As Python integers: atomic numbers are unsigned, and an anion's charge would wrap around.
    unpaired = (int(numbers.sum()) - int(charge)) % 2
    try:
        calculator = Calculator("GFN2-xTB", numbers, positions / BOHR_ANGSTROM, charge=float(charge), uhf=unpaired)
    except (TBLiteRuntimeError, TBLiteValueError) as error:
        raise XtbError("rejected by tblite", str(error)) from error
    calculator.set("verbosity", 0)
    return calculator


def _single_point(calculator: Any, restart: Any = None) -> Any:
    from tblite.exceptions import TBLiteRuntimeError

    try:
        return calculator.singlepoint(restart)
    except TBLiteRuntimeError as error:
        raise XtbError("no convergence", str(error)) from error


def _add_field(calculator: Any, axis: int, strength: float) -> None:
    from tblite import library

    vector = np.zeros(3)
    vector[axis] = strength
    # tblite takes a C pointer here, and copies what it points at.
    calculator.add("electric-field", library.ffi.cast("double*", vector.ctypes.data))  # type: ignore[attr-defined]


def _polarisability(calculator: Any, result: Any) -> float:
    """Isotropic polarisability in Bohr^3 around the field-free `result`."""
    # Fields add up inside a calculator: +F, then -2F, then +F back to none, for each axis in turn.
    mean_alpha = 0.0
    for axis in range(3):
        plus = _dipole_after_field(calculator, result, axis, FIELD_AU)[axis]
        minus = _dipole_after_field(calculator, result, axis, -2 * FIELD_AU)[axis]
        _add_field(calculator, axis, FIELD_AU)
        mean_alpha += (plus - minus) / (2 * FIELD_AU) / 3
    return float(mean_alpha)


def _dipole_after_field(calculator: Any, restart: Any, axis: int, strength: float) -> np.ndarray:
    _add_field(calculator, axis, strength)
    return _single_point(calculator, restart).get("dipole")


def _model_hessian(numbers: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A guess of the Hessian (3n, 3n) in Hartree/Bohr^2 at positions x (n, 3) in Bohr.

    Stretches and bends of Lindh et al., Chem. Phys. Lett. 1995, 241, 423: force constants 0.45 rho_ij and
    0.15 rho_ij rho_jk with rho_ij = exp(a_ij (r_ref^2 - r_ij^2)), a and r_ref by the rows of the periodic table.
    Torsions are left to a constant on the diagonal. Translations and rotations keep it harmlessly.
    """
    n = len(numbers)
    row = np.select([numbers <= 2, numbers <= 10], [0, 1], 2)
    exponent = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])
    reference = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])
    difference = x[:, None] - x[None]
    distance = np.linalg.norm(difference, axis=-1) + np.eye(n)
    unit = difference / distance[..., None]
    rho = np.exp(exponent[row[:, None], row] * (reference[row[:, None], row] ** 2 - distance**2))
    np.fill_diagonal(rho, 0.0)

    i, j = np.triu_indices(n, 1)
    stretch = np.zeros((len(i), n, 3))
    stretch[np.arange(len(i)), i] = unit[i, j]
    stretch[np.arange(len(i)), j] = -unit[i, j]
    rows, weights = [stretch], [0.45 * rho[i, j]]

    # Bends i-j-k over pairs that are near enough to be bonded (rho about 1 at the reference distance).
    near = rho > 0.3
    i, j, k = np.nonzero(near[:, :, None] & near[None] & (np.arange(n)[:, None] < np.arange(n))[:, None])
    a, b = unit[i, j], unit[k, j]
    cosine = np.sum(a * b, axis=1, keepdims=True)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0.05))  # linear angles would diverge
    to_i = (cosine * a - b) / (sine * distance[i, j, None])
    to_k = (cosine * b - a) / (sine * distance[k, j, None])
    bend = np.zeros((len(i), n, 3))
    bend[np.arange(len(i)), i] = to_i
    bend[np.arange(len(i)), k] = to_k
    bend[np.arange(len(i)), j] = -to_i - to_k
    rows.append(bend)
    weights.append(0.15 * rho[i, j] * rho[j, k])

    jacobian = np.concatenate(rows).reshape(-1, 3 * n)
    return (jacobian.T * np.concatenate(weights)) @ jacobian + 0.02 * np.eye(3 * n)
