"""Shapes with known answers, for the tests of rewards."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from shapegen.families import build
from shapegen.families.surface import sample_surface
from shapegen.rewards.calculation import Triangles
from shapegen.rewards.cloud import Cloud
from shapegen.rewards.scoring import Given, estimate
from shapegen.rewards.table import find_scorer


def box(width: float = 0.1, depth: float = 0.06, height: float = 0.2) -> trimesh.Trimesh:
    """A box that stands on z = 0, in metres."""
    mesh = trimesh.creation.box((width, depth, height))
    mesh.apply_translation((0, 0, height / 2))
    return mesh


def solid(family: str, seed: int = 3) -> trimesh.Trimesh:
    """A solid of a procedural family."""
    return build(family, seed).mesh


def points_on(mesh: trimesh.Trimesh, count: int = 512, seed: int = 0) -> np.ndarray:
    """(count, 3) random points on a mesh."""
    return sample_surface(mesh, count, np.random.default_rng(seed))[0]


def as_given(mesh: trimesh.Trimesh) -> Given:
    """A mesh as a scorer takes it."""
    return Given(mesh=Triangles(np.asarray(mesh.vertices), np.asarray(mesh.faces)))


def estimates(clouds: list[np.ndarray], *names: str, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    """Short name -> the estimates of clouds, which may differ in their numbers of points."""
    count = max(map(len, clouds))
    points, mask = torch.zeros(len(clouds), count, 3, dtype=dtype), torch.zeros(len(clouds), count, dtype=torch.bool)
    for k, cloud in enumerate(clouds):
        points[k, : len(cloud)], mask[k, : len(cloud)] = torch.as_tensor(np.array(cloud)).to(dtype), True
    scorers = [find_scorer(name) for name in names]
    values = estimate(scorers, Cloud.of_points(points, mask))
    return {name: values[scorer.name].tolist() for name, scorer in zip(names, scorers, strict=True)}
