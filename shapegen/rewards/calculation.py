"""What a scoring worker does with one item: the numbers asked for, or why there are none. Free of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh

from common.errors import InputError
from common.user_function import as_score
from common.workers import Failure
from shapegen.geometry.reconstruction import reconstruct
from shapegen.rewards.body import FUNCTIONS, Body, dropped

Scores = dict[str, "float | Failure"]


@dataclass(frozen=True)
class Triangles:
    """A mesh on its way between processes.

    Attributes:
        vertices: (V, 3), Z up.
        faces: (F, 3).
        foot: as in `body.Body`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    foot: float = 0.0


@dataclass(frozen=True)
class CloudItem:
    """A cloud (P, 3) that is to become a mesh."""

    points: np.ndarray


@dataclass(frozen=True)
class BodyItem:
    """A mesh that is to be measured.

    Attributes:
        mesh: the mesh.
        wanted: column -> name in `body.FUNCTIONS`.
    """

    mesh: Triangles
    wanted: dict[str, str]


@dataclass(frozen=True)
class DropItem:
    """A mesh that is to be dropped."""

    mesh: Triangles


Item = CloudItem | BodyItem | DropItem


def calculate(item: Item) -> Triangles | Scores | Failure:
    """A worker's task. A `Failure` in the place of a dict counts for all columns of the item."""
    if isinstance(item, CloudItem):
        return _reconstructed(item.points)
    body = Body.of_arrays(item.mesh.vertices, item.mesh.faces, item.mesh.foot)
    if isinstance(item, DropItem):
        values = dropped(body)
        return values if isinstance(values, Failure) else {name: as_score(value) for name, value in values.items()}
    scores: Scores = {}
    for column, name in item.wanted.items():
        try:
            value = FUNCTIONS[name](body)
            scores[column] = value if isinstance(value, Failure) else as_score(value)
        except Exception as error:  # counted under its name; one scorer's trouble is not its neighbours'
            scores[column] = Failure(type(error).__name__, str(error))
    return scores


def processor_seconds(work: tuple[Callable[[Any], Any], Any]) -> float:
    """A worker's task: what a function of one item costs in seconds of processor time, on which a busy machine has
    little influence."""
    function, item = work
    started = time.process_time()
    function(item)
    return time.process_time() - started


def as_cloud(points: np.ndarray) -> trimesh.PointCloud:
    """For a user's function: a point cloud."""
    return trimesh.PointCloud(points)


def as_mesh(mesh: Triangles) -> trimesh.Trimesh:
    """For a user's function: a mesh."""
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def as_points(points: np.ndarray) -> np.ndarray:
    """For a user's function of tensors: (P, 3) float32."""
    return points.astype(np.float32)


def as_tensor(clouds: list[np.ndarray]) -> Any:
    """For a user's function of tensors: a torch tensor (B, P, 3) of B clouds of as many points."""
    # Here and nowhere else: only the workers of a function that asked for tensors import torch.
    import torch

    return torch.from_numpy(np.stack(clouds))


def _reconstructed(points: np.ndarray) -> Triangles | Failure:
    try:
        made = reconstruct(points)
    except InputError as error:
        return Failure("no surface", str(error))
    return Triangles(np.asarray(made.mesh.vertices), np.asarray(made.mesh.faces, np.int32), made.foot)
