"""Static stability by a drop in a physics engine (MuJoCo): does a shape stay upright when it is put on the floor?

The protocol of DSO (Li et al., ICCV 2025, arXiv 2503.22677): 10 s, stable below a tilt of 20 degrees. MuJoCo collides
a mesh as its convex hull. On a flat floor that is exact, as whatever touches a plane lies on the hull, so no
decomposition is needed; mass, centre and inertia come from the mesh itself, solid and of even density. Loose parts
move as one rigid body.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import trimesh
from scipy.spatial import ConvexHull

from common.errors import InputError
from common.workers import Failure, WorkerPool, available_cores
from shapegen.geometry.meshes import check_mesh, upright

INSTALL = "install it with `pip install mujoco`"
STABLE_TILT_DEG = 20.0
DURATION_S = 10.0
# In the simulation the longest side is 1 m: what falls has long fallen after 10 s, whatever its true size.
_SIZE_M = 1.0
_DENSITY = 500.0
_FRICTION = 0.8
_STEP_S = 0.002
_GAP_M = 1e-3
# At rest: slower than this, in m/s and rad/s, for so long. What stood on a tip has toppled visibly before.
_REST_SPEED = 2e-3
_REST_S = 1.0
# A hull thinner than this share of the longest side is no body.
_MIN_THICKNESS = 1e-4
_TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Drop:
    """How a shape stood.

    Attributes:
        stable: the tilt stayed below 20 degrees at the end.
        tilt_deg: angle of the shape's up axis to the vertical at the end; turning about the vertical doesn't count.
        max_tilt_deg: the largest on the way.
        slid: horizontal way of the centre of mass / longest side.
        rested: it came to rest within the time (a rolling ball doesn't).
        seconds: simulated.
        mass_from: "mesh" for the solid mesh, "hull" where the mesh isn't closed and the hull's mass had to do.
    """

    stable: bool
    tilt_deg: float
    max_tilt_deg: float
    slid: float
    rested: bool
    seconds: float
    mass_from: str

    def as_json(self) -> dict[str, Any]:
        """The result as JSON types."""
        return asdict(self)


def engine_version() -> str | None:
    """The version of MuJoCo, None where it isn't installed."""
    return importlib.metadata.version("mujoco") if importlib.util.find_spec("mujoco") else None


def drop(
    mesh: trimesh.Trimesh,
    up: str = "z",
    foot: float = 0.0,
    nudge_deg: float = 0.5,
    duration_s: float = DURATION_S,
) -> Drop:
    """Put a mesh on the floor in its orientation and simulate until it rests, at most 10 s. Deterministic.

    Args:
        mesh: any unit; simulated with its longest side at 1 m.
        up: which axis of the mesh points up.
        foot: what lies at most so high above the lowest point, in the unit of the mesh, is pressed flat onto the floor;
            at most a fifth of the height. Undersides of meshes reconstructed from points are uneven
            (`Reconstruction.foot`), enough to topple a tall shape that stands firmly.
        nudge_deg: initial lean, towards x and y alike, so that a balance on a tip isn't taken for standing.
        duration_s: simulated time at most.

    Raises:
        InputError: a mesh without faces, area or extension in space, a negative foot, or MuJoCo isn't installed.
    """
    if engine_version() is None:
        raise InputError(f"the drop needs MuJoCo, which is not installed; {INSTALL}")
    # Here, as the rest of the package works without it; by name, as its stubs lack most of it.
    mujoco: Any = importlib.import_module("mujoco")
    check_mesh(mesh)
    hull = _hull(_levelled(upright(mesh.vertices[np.unique(mesh.faces)], up), foot))
    centre, covariance, volume, mass_from = _mass_properties(mesh, up)
    scale = _SIZE_M / float(np.ptp(hull, axis=0).max())
    hull = (hull - centre) * scale

    spec = mujoco.MjSpec()
    spec.option.timestep = _STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # less creeping on soft contacts
    spec.compiler.balanceinertia = True  # flat shapes: rounding may break the triangle inequality
    friction = [_FRICTION, 0.005, 0.0005]
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], friction=friction)
    spec.add_mesh(name="hull", uservert=hull.ravel(), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
    lean = _lean(nudge_deg)
    height = _GAP_M - (hull @ lean[2]).min()
    body = spec.worldbody.add_body(pos=[0, 0, height], quat=_quaternion(lean))
    body.add_freejoint()
    mass = _DENSITY * volume * scale**3
    inertia = mass * scale**2 * (np.trace(covariance) * np.eye(3) - covariance)
    body.explicitinertial = True
    body.mass = mass
    body.ipos = [0, 0, 0]
    body.fullinertia = inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="hull", mass=0, friction=friction, condim=6)
    model = spec.compile()
    data = mujoco.MjData(model)

    largest, calm, rested = 0.0, 0, False
    steps = round(duration_s / _STEP_S)
    for _ in range(steps):
        mujoco.mj_step(model, data)
        tilt = _tilt_deg(data.xmat[1])
        largest = max(largest, tilt)
        moving = np.abs(data.qvel).max() > _REST_SPEED
        calm = 0 if moving else calm + 1
        if calm * _STEP_S >= _REST_S:
            rested = True
            break
    tilt = _tilt_deg(data.xmat[1])
    return Drop(
        stable=tilt < STABLE_TILT_DEG,
        tilt_deg=tilt,
        max_tilt_deg=largest,
        slid=float(np.linalg.norm(data.qpos[:2])) / _SIZE_M,
        rested=rested,
        seconds=float(data.time),
        mass_from=mass_from,
    )


def drop_many(
    meshes: Sequence[trimesh.Trimesh],
    up: str = "z",
    feet: Sequence[float] | None = None,
    workers: int | None = None,
    timeout_s: float = _TIME_LIMIT_S,
) -> list[Drop | Failure]:
    """`drop` over a pool of processes, in the order given; a mesh that can't be simulated gives a `Failure`.

    Args:
        meshes, up: as in `drop`.
        feet: the `foot` of each mesh; 0 where None.
        workers: processes at most; all cores by default.
        timeout_s: seconds that one mesh may take.
    """
    if not len(meshes):
        return []
    results: list[Drop | Failure] = [Failure("not run")] * len(meshes)
    with WorkerPool(_drop_item, min(workers or available_cores(), len(meshes)), timeout_s) as pool:
        items = zip(meshes, [0.0] * len(meshes) if feet is None else feet, strict=True)
        for index, result in pool.map((np.asarray(m.vertices), np.asarray(m.faces), up, foot) for m, foot in items):
            results[index] = result
    return results


def _drop_item(item: tuple[np.ndarray, np.ndarray, str, float]) -> Drop:
    vertices, faces, up, foot = item
    return drop(trimesh.Trimesh(vertices, faces, process=False), up, foot)


def _levelled(vertices: np.ndarray, foot: float) -> np.ndarray:
    """The vertices (V, 3) with those at most `foot` above the lowest at its height."""
    if not foot >= 0:
        raise InputError(f"got a foot of {foot}, expected a length of at least 0")
    low, high = vertices[:, 2].min(), vertices[:, 2].max()
    levelled = vertices.copy()
    levelled[vertices[:, 2] <= low + min(foot, 0.2 * (high - low)), 2] = low
    return levelled


def _mass_properties(mesh: trimesh.Trimesh, up: str) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Centre (3,), covariance of the mass (3, 3), volume, and where they are from; in upright axes."""
    solid, source = mesh, "mesh"
    if not (mesh.is_watertight and mesh.is_winding_consistent and abs(mesh.volume) > 0):
        solid, source = mesh.convex_hull, "hull"
    properties = solid.mass_properties
    volume, centre = float(properties.volume), upright(np.asarray(properties.center_mass)[None], up)[0]
    axes = upright(np.eye(3), up)
    # (P, 3) -> (P, 3) maps e_i to row i, so the rotation acts from the right.
    inertia = axes.T @ np.asarray(properties.inertia) @ axes / volume
    return centre, np.trace(inertia) / 2 * np.eye(3) - inertia, abs(volume), source


def _hull(vertices: np.ndarray) -> np.ndarray:
    """Corners of the convex hull, (H, 3)."""
    spread = np.linalg.svd(vertices - vertices.mean(axis=0), compute_uv=False)
    if spread[2] < _MIN_THICKNESS * spread[0]:
        raise InputError("the mesh is flat, expected a body")
    return vertices[ConvexHull(vertices).vertices]


def _lean(degrees: float) -> np.ndarray:
    """Rotation (3, 3) that leans the vertical towards (1, 1, 0)."""
    angle = np.radians(degrees)
    axis = np.array([-1.0, 1.0, 0.0]) / np.sqrt(2)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation by less than 180 degrees."""
    w = np.sqrt(1 + np.trace(rotation)) / 2
    skew = rotation - rotation.T
    return np.array([w, skew[2, 1] / (4 * w), skew[0, 2] / (4 * w), skew[1, 0] / (4 * w)])


def _tilt_deg(matrix: np.ndarray) -> float:
    """Angle between the body's z axis and the vertical, from its rotation (9,)."""
    return float(np.degrees(np.arccos(np.clip(matrix[8], -1, 1))))
