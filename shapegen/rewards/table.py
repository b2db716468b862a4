"""`REWARDS`: every scorer of shapes, one row each. A new one is a function and a row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from importlib.metadata import version
from typing import Any

from torch import Tensor

from common.errors import InputError
from common.named import nearest
from common.rewards import PREDICTED, Quantity
from common.rewards.quantity import unknown_reward
from common.user_function import FunctionInfo, UserFunction, installed_functions
from common.workers import Launcher
from shapegen.data.shapes import METRES
from shapegen.families.labels import LABELS
from shapegen.rewards import predicted, surface
from shapegen.rewards.body import DROP_STABLE, DROP_TILT
from shapegen.rewards.calculation import as_cloud, as_mesh, as_points, as_tensor
from shapegen.rewards.cloud import Cloud

logger = logging.getLogger(__name__)

GROUP = "shapegen.rewards"
MESH_PREFIX = "mesh_"
_UNITS = {0: "", 1: "m", 2: "m^2", 3: "m^3", 5: "m^5"}
# What a user's function may take -> (how a sample is decoded, how a batch is made of them).
FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[list[Any]], Any]]] = {
    "cloud": (as_cloud, list),
    "mesh": (as_mesh, list),
    "tensor": (as_points, as_tensor),
}


class Place(Enum):
    """Where and on what a scorer works."""

    POINTS = "points, in torch on their device"
    MESH = "meshes, in workers"
    DROP = "meshes in a physics engine, in workers"
    USER = "clouds, meshes or tensors, in workers of the function's own"


@dataclass(frozen=True, kw_only=True)
class Scorer(Quantity):
    """One row: a quantity and how it is measured.

    Attributes:
        place: where it works.
        power: of the metre in its unit; 0 for what has no length in it, and can be had of shapes without a unit.
        takes: what stands in parentheses behind its name; "" for nothing.
        check: brings an argument into its canonical form, or raises `InputError`.
        argument: as given; "" without.
        on_cloud: for `Place.POINTS`: clouds and argument -> (B,), differentiable.
        exact: name in `body.FUNCTIONS` of the exact value of a mesh; "" where a mesh has none.
        packages: whose version its values depend on.
        revision: goes up when its definition changes, so that kept scores of an older one are not taken for new ones.
        trained_on: lowest and highest value in the data that a predictor learned from; None for what is computed.
        source, info: for `Place.USER`.
    """

    place: Place
    power: int = 0
    takes: str = ""
    check: Callable[[str], str] | None = None
    argument: str = ""
    on_cloud: Callable[[Cloud, str], Tensor] | None = None
    exact: str = ""
    packages: tuple[str, ...] = ()
    revision: int = 0
    trained_on: tuple[float, float] | None = None
    source: UserFunction | None = None
    info: FunctionInfo | None = None

    @property
    def differentiable(self) -> bool:
        """Whether its values carry gradients."""
        return self.place is Place.POINTS

    @property
    def device(self) -> str:
        """Where it runs."""
        return "any" if self.place is Place.POINTS else "cpu workers"

    @property
    def form(self) -> str:
        """What a user's function takes, a key of `FORMS`; "" for the rows."""
        return (self.info.takes or "cloud") if self.info else ""

    @property
    def needs(self) -> str:
        """`points` or `mesh`: of a cloud, a mesh is reconstructed."""
        return "mesh" if self.place in (Place.MESH, Place.DROP) or self.form == "mesh" else "points"

    @property
    def key(self) -> str:
        """The row's name in `REWARDS`: `closeness` of `closeness(partial.ply)`."""
        return self.name.partition("(")[0]

    @property
    def fingerprint(self) -> str:
        """What a stored score depends on beside the shape: name, argument, versions, a user's file."""
        versions = ",".join(f"{package}={version(package)}" for package in self.packages)
        return f"{self.name}|{versions}|{self.revision}|{self.info.digest if self.info else ''}"


def _points(name: str, tolerance: float | None, *aliases: str, bounds: tuple[float, float] | None = None) -> Scorer:
    """A label of `shapegen.families.labels`: exact on meshes, estimated on clouds by the function of its name."""
    label, function = LABELS[name], getattr(surface, name)
    column = label.column("m")
    short = (name,) if name != column else ()
    return Scorer(
        name=column, unit=_unit(label.power, label.suffix), description=label.description, tolerance=tolerance,
        aliases=(*short, *aliases), place=Place.POINTS, power=label.power, exact=name, bounds=bounds,
        on_cloud=lambda cloud, _: function(cloud),
    )  # fmt: skip


def _mesh(name: str, tolerance: float | None) -> Scorer:
    """The same label, of the mesh always: on clouds the judge of the estimate."""
    label = LABELS[name]
    column = MESH_PREFIX + label.column("m")
    return Scorer(
        name=column, unit=_unit(label.power, label.suffix), tolerance=tolerance, place=Place.MESH, power=label.power,
        description=f"{label.column('m')} of the mesh, of clouds the reconstructed one", exact=name,
        aliases=(MESH_PREFIX + name,) if MESH_PREFIX + name != column else (), packages=("trimesh",), revision=1,
    )  # fmt: skip


def _unit(power: int, suffix: str) -> str:
    return "degrees" if suffix == "_deg" else _UNITS[power]


REWARDS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        _points("width", 0.005),
        _points("depth", 0.005),
        _points("height", 0.005),
        _points("aspect_ratio", 0.05),
        _points("footprint_ratio", 0.05),
        _points("volume", 1e-5),
        _points("fill", 0.02, bounds=(0.0, 1.0)),
        _points("area", 2e-3),
        _points("centre_height", 0.005),
        _points("inertia_small", None),
        _points("inertia_middle", None),
        _points("inertia_large", None),
        _points("elongation", 0.05),
        _points("flatness", 0.05),
        _points("symmetry_error", 0.005, "symmetry"),
        _points("stability_margin", 0.005, "stability"),
        _points("tip_angle", 2.0),
        Scorer(
            name="overhang_share", description="share of the surface that looks down within 45 degrees, floor left out",
            tolerance=0.02, bounds=(0.0, 1.0), aliases=("overhang",), place=Place.POINTS, exact="overhang_share",
            on_cloud=lambda cloud, _: surface.overhang_share(cloud),
        ),
        Scorer(
            name="uniformity", description="evenness of the points: 1 a lattice, 0.785 at random, 0 clumped",
            tolerance=0.02, bounds=(0.0, 1.0), place=Place.POINTS, on_cloud=lambda cloud, _: surface.uniformity(cloud),
        ),
        Scorer(
            name="closeness", description="1 where a given shape is covered, 1/2 at 5 % of its diagonal away",
            tolerance=0.05, bounds=(0.0, 1.0), place=Place.POINTS, takes="FILE", check=surface.check_partial,
            on_cloud=surface.closeness,
        ),
        Scorer(
            name="distance_m", unit="m", tolerance=0.002, aliases=("distance",), place=Place.POINTS, power=1,
            description="mean distance from the points of a given shape (one-sided Chamfer, not squared)",
            takes="FILE", check=surface.check_partial, on_cloud=surface.distance,
        ),
        _mesh("volume", 1e-5),
        _mesh("area", 2e-3),
        _mesh("fill", 0.02),
        _mesh("centre_height", 0.005),
        _mesh("inertia_large", None),
        _mesh("elongation", 0.05),
        _mesh("flatness", 0.05),
        _mesh("symmetry_error", 0.005),
        _mesh("stability_margin", 0.005),
        _mesh("tip_angle", 2.0),
        Scorer(
            name="components", description="number of separate parts", tolerance=0.5, aliases=("parts",),
            place=Place.MESH, exact="components", packages=("trimesh",),
        ),
        Scorer(
            name="genus", description=LABELS["genus"].description, tolerance=0.5, aliases=("holes",),
            place=Place.MESH, exact="genus", packages=("trimesh",),
        ),
        Scorer(
            name="watertight", description="1 if the mesh is closed, else 0 (a reconstructed one is)", tolerance=0.5,
            bounds=(0.0, 1.0), place=Place.MESH, exact="watertight", packages=("trimesh",),
        ),
        Scorer(
            name=DROP_STABLE, description="1 if it tilts by less than 20 degrees when put on the floor, else 0",
            tolerance=0.5, bounds=(0.0, 1.0), aliases=("drop",), place=Place.DROP, packages=("mujoco", "trimesh"),
            revision=1,
        ),
        Scorer(
            name=DROP_TILT, unit="degrees", description="tilt at the end of that drop", tolerance=2.0,
            aliases=("drop_tilt",), place=Place.DROP, packages=("mujoco", "trimesh"), revision=1,
        ),
    )
}  # fmt: skip


def check_unit(scorers: list[Scorer] | tuple[Scorer, ...], unit: str, what: str, remedy: str) -> None:
    """Raise `InputError` where a scorer has lengths in its unit and the shapes have none.

    Args:
        scorers: that are asked for.
        unit: of the shapes.
        what: which shapes, for the message.
        remedy: what to do about it.
    """
    if unit not in METRES:
        for scorer in scorers:
            if scorer.power:
                raise InputError(f"{scorer.name} is in {scorer.unit}, but {what} no unit of length; {remedy}")


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
        return _predicted(wanted, argument)
    names = [*installed, *(text for scorer in REWARDS.values() for text in (scorer.name, *scorer.aliases))]
    raise unknown_reward(name, names, "shapegen")


def _with_argument(scorer: Scorer, argument: str | None) -> Scorer:
    if not scorer.takes:
        if argument is not None:
            raise InputError(f"got '{scorer.name}({argument})': {scorer.name} takes nothing in parentheses")
        return scorer
    if not argument or scorer.check is None:
        raise InputError(f"{scorer.name} needs a {scorer.takes} in parentheses: {scorer.name}({scorer.takes})")
    return replace(scorer, name=f"{scorer.name}({argument})", argument=scorer.check(argument))


def _predicted(name: str, argument: str | None) -> Scorer:
    output, source, values = predicted.find_predicted(name, argument)
    return Scorer(
        name=PREDICTED + output.name + ("" if argument is None else f"({argument})"),
        unit=output.unit, argument=argument or "",
        description=f"{output.name}, predicted by {source}", trained_on=(output.low, output.high),
        place=Place.POINTS, on_cloud=values,
    )  # fmt: skip


def _user_scorer(name: str, launcher: Launcher | None) -> Scorer:
    source = UserFunction(name, GROUP, decode=as_cloud)
    info = source.inspect(launcher)
    form = info.takes or "cloud"
    if form not in FORMS:
        raise InputError(f"'{name}' takes '{form}'{nearest(form, FORMS)}, expected one of {', '.join(FORMS)}")
    unit = "unit not stated" if info.unit is None else f"unit {info.unit}" if info.unit else "a pure number"
    what = f"takes a {form}, {unit}"
    logger.info("loaded %s from %s (sha256 %s), %s", name, info.origin or "an extension", info.digest, what)
    decode, gather = FORMS[form]
    return Scorer(
        name=name, unit=info.unit, description=info.description or "a function of yours", tolerance=info.tolerance,
        bounds=info.bounds, place=Place.USER, source=replace(source, decode=decode, gather=gather), info=info,
    )  # fmt: skip
