"""Training batches of shapes, as a pure function of (seed, step).

Batch k never depends on batch k - 1, so a resumed run sees exactly what the uninterrupted one would have seen, and
each of several processes takes its own share without talking to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from common.diffusion import State
from common.errors import InputError
from shapegen.data.codec import ShapeCodec, to_x
from shapegen.data.shapes import ShapeSet

ROTATIONS = ("none", "up")


class ShapeBatches:
    """Endless stream of `State` batches, each shape once an epoch, with fresh points every time.

    Args:
        shapes: the training set; its points may be memory-mapped.
        codec: shape -> state.
        batch_size: shapes in a batch of this process.
        points: points of each shape in a batch, a random subset of the stored ones.
        seed: of order, subsets and rotations.
        rotate: `up` turns each shape by a random angle about Z (after normalisation, so about the set's centre),
            `none` leaves it.
        rank, world_size: this process takes batches rank, rank + world_size, ...
        start: step at which the stream begins (resume).
        condition: name -> (M, ...) array whose rows go with the shapes, such as {"class": shapes.class_index}.
        surface: states hold all stored points too, as the condition `surface` (B, S, 3): first the state's own, in
            their order, then those that were not drawn.

    Raises:
        InputError: an empty set, more points than are stored, an unknown rotation, or a condition of another length.
    """

    def __init__(
        self,
        shapes: ShapeSet,
        codec: ShapeCodec,
        batch_size: int,
        points: int,
        *,
        seed: int,
        rotate: str = "none",
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        condition: Mapping[str, np.ndarray] | None = None,
        surface: bool = False,
    ) -> None:
        if len(shapes) == 0:
            raise InputError("got an empty training set, expected at least one shape")
        if not 1 <= points <= shapes.num_points:
            raise InputError(f"got {points} points a shape, expected 1 to {shapes.num_points}: as many are stored")
        if rotate not in ROTATIONS:
            raise InputError(f"got rotate '{rotate}', expected one of {', '.join(ROTATIONS)}")
        self._condition = {name: np.asarray(values) for name, values in (condition or {}).items()}
        for name, values in self._condition.items():
            if len(values) != len(shapes):
                raise InputError(f"condition '{name}' has {len(values)} rows, expected {len(shapes)}: one a shape")
        self._points = shapes.points
        self._centres, self._scales = codec.frames(shapes.points)
        self.batch_size = batch_size
        self.points = points
        self.seed = seed
        self.rotate = rotate
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.surface = surface

    def __iter__(self) -> Iterator[State]:
        step = self.start
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            index = step * self.world_size + self.rank
            stream = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
            epochs, places = np.divmod(stream, len(self._points))
            members = np.empty(self.batch_size, dtype=np.int64)
            for needed in np.unique(epochs):
                if needed != epoch:
                    epoch, order = needed, self._order(needed)
                members[epochs == needed] = order[places[epochs == needed]]
            yield self._collate(members, np.random.default_rng([self.seed, 1, index]))
            step += 1

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self._points))

    def _collate(self, members: np.ndarray, rng: np.random.Generator) -> State:
        chosen = random_subsets(rng, len(members), self._points.shape[1], self.points)
        if self.surface:
            chosen = np.concatenate([chosen, _others(chosen, self._points.shape[1])], axis=1)
        # One shape's points lie together on the disk: shapes first, then their points.
        points = np.take_along_axis(np.asarray(self._points[members]), chosen[:, :, None], axis=1)
        x = to_x(points, self._centres[members], self._scales[members])
        if self.rotate == "up":
            x = rotate_up(x, torch.from_numpy(rng.uniform(0, 2 * np.pi, len(members))).to(x.dtype))
        condition = {name: torch.from_numpy(values[members]) for name, values in self._condition.items()}
        if self.surface:
            condition["surface"] = x
            x = x[:, : self.points]
        return State(x, torch.ones(x.shape[:2], dtype=torch.bool), condition)


def random_subsets(rng: np.random.Generator, rows: int, stored: int, count: int) -> np.ndarray:
    """(rows, count) indices below `stored`, different within a row, every subset equally likely."""
    keys = rng.random((rows, stored), dtype=np.float32)
    if count == stored:
        return keys.argsort(axis=1)
    return keys.argpartition(count, axis=1)[:, :count]


def _others(chosen: np.ndarray, stored: int) -> np.ndarray:
    """(rows, stored - count) indices below `stored` that are not among chosen (rows, count), in order."""
    free = np.ones((len(chosen), stored), dtype=bool)
    np.put_along_axis(free, chosen, False, axis=1)
    return np.nonzero(free)[1].reshape(len(chosen), -1)


def rotate_up(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """x (B, N, 3) turned about Z by angle (B,) in radians."""
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    return torch.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1], x[..., 2]], dim=-1)
