"""`ShapeScorer`: raw scores of shapes, meshes exactly and clouds by estimates, with a reason where one is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from common.rewards import Score, ScoreCache, geometry_hash
from common.rewards.scoring import NOT_KEPT, ScoreTable, by_sample, call_user_function, check_scorers, score_of
from common.workers import Closing, Failure, Launcher, WorkerPool
from shapegen.families.surface import sample_surface
from shapegen.rewards.calculation import BodyItem, CloudItem, DropItem, Triangles, as_mesh, calculate
from shapegen.rewards.cloud import MIN_POINTS, Cloud
from shapegen.rewards.table import Place, Scorer, check_unit

# Points that stand for a mesh where only points will do; clouds that are estimated at a time.
_MESH_POINTS, _BATCH = 2048, 16
# A shape's coordinates are hashed at 0.0001 of this: a tenth of a micrometre, in metres.
_HASHED_UNIT = 1e-3


@dataclass(frozen=True)
class Given:
    """A shape to be scored: one of the two.

    Attributes:
        points: (P, 3) in metres, or in an unknown unit, Z up.
        mesh: in the same.
    """

    points: np.ndarray | None = None
    mesh: Triangles | None = None

    @cached_property
    def cloud(self) -> np.ndarray:
        """(P, 3) float64: the points, or points on the mesh."""
        if self.points is not None:
            return np.asarray(self.points, np.float64)
        assert self.mesh is not None
        return sample_surface(as_mesh(self.mesh), _MESH_POINTS, np.random.default_rng(0))[0]

    @property
    def digest(self) -> str:
        """Hash of the geometry."""
        if self.mesh is None:
            return geometry_hash(self.cloud / _HASHED_UNIT)
        return geometry_hash(self.mesh.vertices / _HASHED_UNIT, self.mesh.faces.ravel())


class ShapeScorer(Closing):
    """Scores shapes; its workers stay for later calls until `close`.

    Meshes are reconstructed, measured and dropped by one pool; every user function has a pool of its own, so that
    nothing it imports or breaks touches the others. A cloud without a surface fails the scorers that need a mesh.

    Args:
        scorers: what to compute; names differ.
        workers: processes a pool; None for one a core.
        time_limit_s: for one shape and one kind of calculation (a batch of a user function has as many times that).
        cache: scores known from before; None for a new one in memory.
        launcher: where workers run; None for this machine.
        unit: of the files that rewards name, and of the shapes before they were turned to metres.
        device: where clouds are estimated.

    Raises:
        InputError: two scorers of one name, a missing package, or metres wanted of shapes without a unit.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        workers: int | None = None,
        time_limit_s: float = 60.0,
        cache: ScoreCache | None = None,
        launcher: Launcher | None = None,
        *,
        unit: str = "m",
        device: str = "cpu",
    ):
        check_scorers([s.name for s in scorers], {s.name: s.packages for s in scorers}, time_limit_s)
        check_unit(tuple(scorers), unit, "the shapes have", "say which they are in: --unit mm (or m, cm)")
        self.scorers = tuple(scorers)
        self.cache = ScoreCache() if cache is None else cache
        self._workers, self._time_limit_s, self._launcher = workers, time_limit_s, launcher
        self._unit, self._device = unit, device
        self._pools: dict[str, WorkerPool] = {}

    def close(self) -> None:
        """End the workers and close the cache's file."""
        for pool in self._pools.values():
            pool.close()
        self._pools = {}
        self.cache.close()

    def score(self, shapes: Sequence[Given]) -> ScoreTable:
        """Score M shapes. None raises: a shape that cannot be scored has NaN and a reason."""
        values = {scorer.name: np.full(len(shapes), np.nan) for scorer in self.scorers}
        reasons = {scorer.name: [""] * len(shapes) for scorer in self.scorers}
        estimated = {s.name: [i for i, one in enumerate(shapes) if _by_points(s, one)] for s in self.scorers}
        digests = [one.digest if any(i not in estimated[s.name] for s in self.scorers) else "" for i, one in
                   enumerate(shapes)]  # fmt: skip
        self._estimate(shapes, estimated, values, reasons)

        keys = {
            (s.name, i): f"{s.fingerprint}|{digests[i]}"
            for s in self.scorers
            for i in sorted(set(range(len(shapes))) - set(estimated[s.name]))
        }
        known = self.cache.find(keys.values())
        first: dict[str, tuple[str, int]] = {}
        for place, key in keys.items():
            if key not in known:
                first.setdefault(key, place)
        todo: dict[str, list[int]] = {}
        for name, index in first.values():
            todo.setdefault(name, []).append(index)
        fresh: dict[str, Score] = {}
        details: dict[str, str] = {}
        for index, name, result in self._compute(shapes, todo):
            fresh[keys[name, index]] = score_of(result, name, details)
        self.cache.add({key: score for key, score in fresh.items() if score.reason not in NOT_KEPT})
        known |= fresh
        for (name, index), key in keys.items():
            values[name][index], reasons[name][index] = known[key]
        return ScoreTable(values, reasons, details)

    def _estimate(
        self,
        shapes: Sequence[Given],
        estimated: Mapping[str, list[int]],
        values: Mapping[str, np.ndarray],
        reasons: Mapping[str, list[str]],
    ) -> None:
        """Fill in what is estimated from points; clouds of about one size at a time."""
        scorers = {s.name: s for s in self.scorers}
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, names in by_sample(estimated, scorers):
            groups.setdefault(names, []).append(index)
        for names, indices in groups.items():
            indices.sort(key=lambda i: len(shapes[i].cloud))
            for start in range(0, len(indices), _BATCH):
                part = indices[start : start + _BATCH]
                found = estimate([scorers[name] for name in names], self._clouds([shapes[i].cloud for i in part]))
                for name in names:
                    column = found[name].cpu().double().numpy()
                    values[name][part] = np.where(np.isfinite(column), column, np.nan)
                    for i, value in zip(part, column, strict=True):
                        reasons[name][i] = "" if np.isfinite(value) else _why(shapes[i].cloud)

    def _clouds(self, clouds: Sequence[np.ndarray]) -> Cloud:
        count = max(MIN_POINTS, *(len(cloud) for cloud in clouds))
        points = np.zeros((len(clouds), count, 3))
        mask = np.zeros((len(clouds), count), bool)
        for row, real, cloud in zip(points, mask, clouds, strict=True):
            row[: len(cloud)], real[: len(cloud)] = cloud, True
        x = torch.from_numpy(points).to(self._device, torch.float32)
        return Cloud.of_points(x, torch.from_numpy(mask).to(self._device), self._unit)

    def _compute(
        self, shapes: Sequence[Given], todo: Mapping[str, list[int]]
    ) -> Iterator[tuple[int, str, float | Failure]]:
        """(index, name, score) by workers, of the shapes in `todo`."""
        scorers = {s.name: s for s in self.scorers}
        meshes = self._meshes(shapes, sorted({i for name, indices in todo.items() for i in indices
                                              if _needs_mesh(scorers[name], shapes[i])}))  # fmt: skip
        for name, indices in todo.items():
            for index in indices:
                mesh = meshes.get(index)
                if isinstance(mesh, Failure) and _needs_mesh(scorers[name], shapes[index]):
                    yield index, name, mesh
        sound = {i: mesh for i, mesh in meshes.items() if not isinstance(mesh, Failure)}
        left = {
            name: [i for i in indices if i in sound or not _needs_mesh(scorers[name], shapes[i])]
            for name, indices in todo.items()
        }
        measured = {name: s for name, s in scorers.items() if s.place in (Place.POINTS, Place.MESH)}
        dropped = [name for name, s in scorers.items() if s.place is Place.DROP]
        jobs: list[tuple[int, tuple[str, ...]]] = []
        items: list[BodyItem | DropItem] = []
        for index, names in by_sample(left, measured):
            items.append(BodyItem(sound[index], {name: measured[name].exact for name in names}))
            jobs.append((index, names))
        for index, names in by_sample(left, dropped):
            items.append(DropItem(sound[index]))
            jobs.append((index, names))
        if items:
            for job, result in self._pool("", calculate).map(items):
                index, names = jobs[job]
                for name in names:
                    yield index, name, result if isinstance(result, Failure) else result[name]
        for scorer in self.scorers:
            if scorer.place is Place.USER:
                for index, result in self._call(scorer, left.get(scorer.name, []), shapes, sound):
                    yield index, scorer.name, result

    def _meshes(self, shapes: Sequence[Given], indices: Sequence[int]) -> dict[int, Triangles | Failure]:
        """The mesh of each shape: its own, or one reconstructed from its points."""
        meshes: dict[int, Triangles | Failure] = {}
        clouds = []
        for index in indices:
            own = shapes[index].mesh
            if own is None:
                clouds.append(index)
            else:
                meshes[index] = own
        if clouds:
            items = (CloudItem(shapes[index].cloud) for index in clouds)
            for k, result in self._pool("", calculate).map(items):
                meshes[clouds[k]] = result
        return meshes

    def _call(
        self, scorer: Scorer, indices: list[int], shapes: Sequence[Given], meshes: Mapping[int, Triangles]
    ) -> Iterator[tuple[int, float | Failure]]:
        """A user's function on some shapes."""
        if not indices or scorer.source is None or scorer.info is None:
            return
        kinds: dict[int, list[int]] = {}
        for index in indices:  # a tensor holds clouds of one size
            size = len(shapes[index].cloud) if scorer.form == "tensor" else 0
            kinds.setdefault(size, []).append(index)
        step = scorer.info.batch_size
        batches = [kind[k : k + step] for kind in kinds.values() for k in range(0, len(kind), step)]

        def encode(index: int) -> np.ndarray | Triangles:
            return meshes[index] if scorer.form == "mesh" else shapes[index].cloud

        yield from call_user_function(self._pool(scorer.name, scorer.source), batches, encode, self._time_limit_s)

    def _pool(self, name: str, function: Any) -> WorkerPool:
        if name not in self._pools:
            self._pools[name] = WorkerPool(function, self._workers, self._time_limit_s, self._launcher)
        return self._pools[name]


def estimate(scorers: Sequence[Scorer], cloud: Cloud) -> dict[str, torch.Tensor]:
    """Name -> (B,) values of scorers of `Place.POINTS`; NaN for clouds that are none. What they share is done once."""
    values = {}
    # A low precision that a network may run in would lose the solution.
    with torch.autocast(cloud.points.device.type, enabled=False):
        for scorer in scorers:
            if scorer.on_cloud is None:
                raise InputError(f"{scorer.name} is not estimated from points")
            values[scorer.name] = cloud.known(scorer.on_cloud(cloud, scorer.argument))
    return values


def _by_points(scorer: Scorer, shape: Given) -> bool:
    return scorer.place is Place.POINTS and (shape.mesh is None or not scorer.exact)


def _needs_mesh(scorer: Scorer, shape: Given) -> bool:
    return scorer.needs == "mesh" or (scorer.place is Place.POINTS and shape.mesh is not None)


def _why(points: np.ndarray) -> str:
    if len(points) < MIN_POINTS:
        return f"fewer than {MIN_POINTS} points"
    if not np.isfinite(points).all():
        return "points not finite"
    return "points coincide or lie flat"
