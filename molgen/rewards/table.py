"""`REWARDS`: every scorer of molecules, one row each. A new one is a function and a row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from importlib.metadata import version

import numpy as np
from rdkit import Chem

from common.errors import InputError
from common.rewards import PREDICTED, Measure, Quantity
from common.rewards.quantity import unknown_reward
from common.user_function import FunctionInfo, UserFunction, installed_functions
from common.workers import Launcher
from molgen.chemistry.perception import Perceived
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import COLUMNS
from molgen.rewards import graph, predicted, stability
from molgen.rewards.geometry import GYRATION, GyrationRadius

logger = logging.getLogger(__name__)

GROUP = "molgen.rewards"
BONDS = "bonds"


class Place(Enum):
    """Where and on what a scorer works."""

    SET = "whole sets of molecules, in this process"
    GRAPH = "molecules with bonds, in workers"
    PHYSICS = "atoms in space, in workers"
    USER = "molecules with bonds, in workers of the function's own"
    STATE = "states, in torch on their device"


@dataclass(frozen=True, kw_only=True)
class Scorer(Quantity):
    """One row: a quantity and how it is measured.

    Attributes:
        place: where it works.
        needs: what a user has to provide.
        takes: what stands in parentheses behind its name; "" for nothing.
        check: brings an argument into its canonical form, or raises `InputError`.
        argument: as given; "" without.
        differentiable: whether its values carry gradients.
        device: where it runs.
        packages: whose version its values depend on.
        on_set: for `Place.SET`.
        on_states: for `Place.STATE`: codec of the states -> the measure.
        resolve: completes a row whose argument may be left out: row, argument -> row.
        trained_on: lowest and highest value in the data that a predictor learned from; None for what is computed.
        source, info: for `Place.USER`.
    """

    place: Place
    needs: str
    takes: str = ""
    check: Callable[[str], str] | None = None
    argument: str = ""
    differentiable: bool = False
    device: str = "cpu workers"
    packages: tuple[str, ...] = ()
    on_set: Callable[[MoleculeSet, Sequence[Perceived]], np.ndarray] | None = None
    on_states: Callable[[MoleculeCodec], Measure] | None = None
    resolve: Callable[[Scorer, str | None], Scorer] | None = None
    trained_on: tuple[float, float] | None = None
    source: UserFunction | None = None
    info: FunctionInfo | None = None

    @property
    def uses_bonds(self) -> bool:
        """Whether bonds have to be perceived for it."""
        return self.needs == BONDS

    @property
    def key(self) -> str:
        """The row's name in `REWARDS`: `similarity` of `similarity(CCO)`."""
        return self.name.partition("(")[0]

    @property
    def fingerprint(self) -> str:
        """What a stored score depends on beside the molecule: name, argument, versions, a user's file."""
        versions = ",".join(f"{package}={version(package)}" for package in self.packages)
        return f"{self.name}|{versions}|{self.info.digest if self.info else ''}"


def _graph(name: str, unit: str, description: str, tolerance: float, **more: object) -> Scorer:
    return Scorer(
        name=name, unit=unit, description=description, tolerance=tolerance, place=Place.GRAPH, needs=BONDS,
        packages=("rdkit",), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _physics(name: str, unit: str, description: str, tolerance: float | None, *aliases: str) -> Scorer:
    return Scorer(
        name=name, unit=unit, description=description, tolerance=tolerance, aliases=aliases, place=Place.PHYSICS,
        needs="3D, tblite", packages=("tblite",),
    )  # fmt: skip


def _set(name: str, description: str, on_set: Callable[..., np.ndarray], needs: str, *aliases: str) -> Scorer:
    return Scorer(
        name=name, description=description, tolerance=0.5, bounds=(0.0, 1.0), aliases=aliases, place=Place.SET,
        needs=needs, device="cpu", on_set=on_set,
    )  # fmt: skip


def _predicted(column: str, unit: str | None, tolerance: float | None, *aliases: str) -> Scorer:
    name = PREDICTED + column
    return Scorer(
        name=name, unit=unit, description=f"{column}, learned from gdb7-xtb or by the predictor in parentheses",
        tolerance=tolerance, aliases=aliases, place=Place.STATE, needs="3D", takes="PREDICTOR", differentiable=True,
        device="any", on_states=partial(predicted.shipped, name), resolve=predicted.resolve,
    )  # fmt: skip


REWARDS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        _set("valid", "1 if RDKit perceives one sound molecule, else 0", stability.valid, BONDS, "validity"),
        _set("stable", "1 if all valences are right by EDM's rule, else 0", stability.stable, "3D",
             "stability", "molecule_stability"),
        _set("unique", "1 the first time that a valid molecule occurs among those scored together, else 0",
             stability.unique, BONDS, "uniqueness"),
        _set("atom_stability", "share of atoms with right valence, EDM's rule", stability.atom_stability, "3D"),
        _graph("qed", "", "drug-likeness", 0.05, bounds=(0.0, 1.0)),
        _graph("logp", "", "octanol-water partition, Crippen", 0.3),
        _graph("tpsa_angstrom2", "Angstrom^2", "polar surface area", 5.0, aliases=("tpsa", "tpsa_a2")),
        _graph("sa_score", "", "synthetic accessibility, 1 easy to 10 hard", 0.3, bounds=(1.0, 10.0), aliases=("sa",)),
        _graph("rings", "", "number of rings", 0.5),
        _graph("strained_rings", "", "number of rings of 3 or 4 atoms", 0.5, aliases=("ring_strain",)),
        _graph("mol_weight_g_mol", "g/mol", "molecular weight", 2.0, aliases=("mol_weight",)),
        _graph("heavy_atoms", "", "number of atoms other than H", 0.5),
        _graph("similarity", "", "Tanimoto similarity to a molecule", 0.05, bounds=(0.0, 1.0),
               takes="SMILES", check=graph.check_smiles),
        _graph("substructure", "", "1 if it holds a pattern, else 0", 0.5, bounds=(0.0, 1.0),
               takes="SMARTS", check=graph.check_smarts),
        _physics("energy_hartree", "Hartree", "total energy, GFN2-xTB", None, "energy"),
        _physics("rms_force_ev_angstrom", "eV/Angstrom", "RMS force on the atoms, GFN2-xTB", 0.1, "rms_force"),
        _physics("mu_d", "D", "dipole moment, GFN2-xTB", 0.1, "mu"),
        _physics("alpha_bohr3", "Bohr^3", "polarisability, GFN2-xTB", 1.0, "alpha"),
        _physics("homo_ev", "eV", "highest occupied orbital, GFN2-xTB", 0.1, "homo"),
        _physics("lumo_ev", "eV", "lowest unoccupied orbital, GFN2-xTB", 0.1, "lumo"),
        _physics("gap_ev", "eV", "LUMO minus HOMO, GFN2-xTB", 0.1, "gap"),
        _physics("strain_kcal_mol", "kcal/mol", "energy that relaxing sets free, GFN2-xTB", 2.0, "strain"),
        Scorer(
            name=GYRATION, unit="Angstrom", description="radius of gyration, all atoms alike", tolerance=0.1,
            aliases=("gyration_radius",), place=Place.STATE, needs="3D", differentiable=True, device="any",
            on_states=GyrationRadius,
        ),
        _predicted("mu_d", "D", 0.1, "predicted_mu"),
        _predicted("alpha_bohr3", "Bohr^3", 1.0, "predicted_alpha"),
        _predicted("homo_ev", "eV", 0.1, "predicted_homo"),
        _predicted("lumo_ev", "eV", 0.1, "predicted_lumo"),
        _predicted("gap_ev", "eV", 0.1, "predicted_gap"),
    )
}  # fmt: skip


def find_scorer(name: str, argument: str | None = None, launcher: Launcher | None = None) -> Scorer:
    """The scorer that a user names: a row, `file.py:function`, `module:function`, or an installed entry point.

    A user's function is loaded in a worker, to ask what it says about itself, and the log says what was loaded.

    Args:
        name: as typed, without parentheses.
        argument: what stood in them; None without.
        launcher: where workers run.

    Raises:
        InputError: there is none such, a function cannot be loaded, or the argument does not fit.
    """
    wanted = name.lower()
    for scorer in REWARDS.values():
        if wanted in (scorer.name, *scorer.aliases):
            return _with_argument(scorer, argument)
    installed = installed_functions(GROUP)
    if ":" in name or name in installed:
        if argument is not None:
            raise InputError(f"got '{name}({argument})': a function takes no argument in parentheses")
        return _user_scorer(name, launcher)
    if wanted.startswith(PREDICTED):
        # A property that only the predictor in parentheses knows.
        if not argument:
            raise InputError(f"no predictor of '{name}' ships; name yours in parentheses: {name}(FOLDER)")
        return predicted.resolve(_predicted(name[len(PREDICTED) :], None, None), argument)
    names = [*installed, *(text for scorer in REWARDS.values() for text in (scorer.name, *scorer.aliases))]
    raise unknown_reward(name, names, "molgen")


def find_column(name: str) -> str:
    """The column of data that holds a property (`gap`, `cv`), or what a scorer of that name measures.

    Raises:
        InputError: there is neither.
    """
    return COLUMNS.get(name.lower()) or find_scorer(name).name


def _with_argument(scorer: Scorer, argument: str | None) -> Scorer:
    if scorer.resolve is not None:
        return scorer.resolve(scorer, argument)
    if not scorer.takes:
        if argument is not None:
            raise InputError(f"got '{scorer.name}({argument})': {scorer.name} takes nothing in parentheses")
        return scorer
    if not argument or scorer.check is None:
        raise InputError(f"{scorer.name} needs a {scorer.takes} in parentheses: {scorer.name}({scorer.takes})")
    argument = scorer.check(argument)
    return replace(scorer, name=f"{scorer.name}({argument})", argument=argument)


def _user_scorer(name: str, launcher: Launcher | None) -> Scorer:
    source = UserFunction(name, GROUP, decode=Chem.Mol)
    info = source.inspect(launcher)
    unit = "unit not stated" if info.unit is None else f"unit {info.unit}" if info.unit else "a pure number"
    logger.info("loaded %s from %s (sha256 %s), %s", name, info.origin or "an extension", info.digest, unit)
    return Scorer(
        name=name, unit=info.unit, description=info.description or "a function of yours", tolerance=info.tolerance,
        bounds=info.bounds, place=Place.USER, needs=BONDS, source=source, info=info,
    )  # fmt: skip
