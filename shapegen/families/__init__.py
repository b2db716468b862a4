"""Procedural families: watertight solids with named parameters.

Conventions: metres, Z up, every solid stands on the plane z = 0 and faces -Y, its own axis at x = y = 0. All are of
the size at which they stand on a desk (8 to 35 cm): vessels, bolts, gears and lamps at their own size, furniture as
doll's furniture at 1:6, houses as architects' models at 1:50. So sizes differ within and between families, and one
normalisation fits all.

A new family is one file (`PARAMETERS` and `build`) and one row in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from manifold3d import Error, Manifold

from common.errors import InputError
from common.named import nearest
from shapegen.families import (
    aeroplane,
    bolt,
    bracket,
    chair,
    gear,
    house,
    lamp,
    mug,
    pipe,
    shelf,
    table,
    vase,
    wheel,
)
from shapegen.families.parameters import Parameter, draw_parameters

# Booleans leave needles; what is flatter than a hundredth of a millimetre is simplified away, and vertices within a
# micrometre become one, so that the mesh is still closed after a trip through a float32 file. Where two parts happen
# to pass each other that closely, a grid of another width tells them apart.
_TOLERANCE_M = 1e-5
_GRIDS_M = (1e-6, 3e-6, 1e-5, 3e-7, 1e-7)
# Four pipes in a thousand touch themselves all the same and are drawn again.
_ATTEMPTS = 8


@dataclass(frozen=True)
class Family:
    """One row of `FAMILIES`.

    Attributes:
        name: what the user types; also the class name in data sets.
        description: one line.
        parameters: name -> law of the parameter.
        build: takes all parameters by name, gives the solid.
    """

    name: str
    description: str
    parameters: Mapping[str, Parameter]
    build: Callable[..., Manifold]


@dataclass(frozen=True)
class Solid:
    """A shape with known parameters.

    Attributes:
        mesh: watertight, in metres, standing on z = 0.
        parameters: name -> value.
    """

    mesh: trimesh.Trimesh
    parameters: dict[str, Any]


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "aeroplane", "toy aeroplane with wings, tail and up to four engines", aeroplane.PARAMETERS, aeroplane.build
        ),
        Family("bolt", "bolt with head and stylised thread", bolt.PARAMETERS, bolt.build),
        Family("bracket", "L-bracket with screw holes and a rib", bracket.PARAMETERS, bracket.build),
        Family("chair", "chair with a back, some with arms", chair.PARAMETERS, chair.build),
        Family("gear", "spur gear with hub and bore", gear.PARAMETERS, gear.build),
        Family("house", "house with gable or hip roof, recessed door and windows", house.PARAMETERS, house.build),
        Family("lamp", "table lamp with a shade, or desk lamp with an arm", lamp.PARAMETERS, lamp.build),
        Family("mug", "mug with a handle", mug.PARAMETERS, mug.build),
        Family("pipe", "pipe elbow with two flanges", pipe.PARAMETERS, pipe.build),
        Family("shelf", "bookshelf", shelf.PARAMETERS, shelf.build),
        Family("table", "table on legs or on a column", table.PARAMETERS, table.build),
        Family("vase", "hollow vase", vase.PARAMETERS, vase.build),
        Family("wheel", "spoked wheel with a tyre", wheel.PARAMETERS, wheel.build),
    )
}


def find_family(name: str) -> Family:
    """The family called `name`; an `InputError` names the nearest otherwise."""
    if name not in FAMILIES:
        raise InputError(f"no family is called '{name}'{nearest(name, FAMILIES)}; known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def build(name: str, seed: int, **fixed: Any) -> Solid:
    """The solid number `seed` of a family; the same every time.

    Args:
        name: a key of `FAMILIES`.
        seed: chooses the parameters; from 0.
        fixed: parameters that are given instead of drawn, such as `height_m=0.1`.

    Raises:
        InputError: an unknown family or parameter, a value outside its limits, or values that make no solid.
    """
    family = find_family(name)
    for attempt in range(_ATTEMPTS):
        parameters = draw_parameters(name, family.parameters, seed, fixed, attempt)
        mesh = _to_mesh(family.build(**parameters))
        if mesh is not None:
            return Solid(mesh, parameters)
    raise InputError(f"{name}: with {', '.join(fixed)} as given the solid touches itself; change one of them")


def _to_mesh(solid: Manifold) -> trimesh.Trimesh | None:
    """The mesh of a solid standing on z = 0; None where the solid touches itself: no grid closes such a mesh."""
    solid = solid.simplify(_TOLERANCE_M)
    if solid.status() != Error.NoError or solid.is_empty():
        raise RuntimeError(f"manifold3d made no solid: {solid.status()}")
    arrays = solid.to_mesh64()
    vertices = np.array(arrays.vert_properties[:, :3], dtype=np.float64)
    vertices[:, 2] -= vertices[:, 2].min()
    triangles = np.array(arrays.tri_verts, dtype=np.int64)
    for grid in _GRIDS_M:
        cells, merged = np.unique(np.rint(vertices / grid).astype(np.int64), axis=0, return_inverse=True)
        faces = merged.reshape(-1)[triangles]
        distinct = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
        mesh = trimesh.Trimesh(cells * grid, faces[distinct], process=False)
        if mesh.is_watertight:
            return mesh
    return None
