"""`ShapeCodec`: shapes as numbers <-> `State`, the place of normalisation and of its inverse.

A diffusion process wants about unit variance; a user wants metres. The numbers that lead from one to the other are
taken once from the training set, stand in the model file, and are undone on decoding, so that size is generated too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.diffusion import State
from common.errors import InputError
from shapegen.data.shapes import UNITLESS, UNITS, ShapeSet

logger = logging.getLogger(__name__)

MODES = ("global", "centred", "per_shape")
_CHUNK = 256
# Reading and summing this many points settles mean and spread far beyond what a network can notice.
_FIT_SHAPES = 20_000


@dataclass(frozen=True)
class ShapeCodec:
    """Points (B, N, 3) in the data's unit <-> states: x = (points - centre) / scale.

    Attributes:
        centre: (3,) in `unit`, subtracted from every point; zero in the other modes than `global`.
        scale: the standard deviation of the centred coordinates over the whole training set, in `unit`.
        mode: what is normalised away.
            `global`: one centre and one scale for the set (PointFlow's protocol, arXiv 1906.12320). Size and place of
            a shape are kept and learned.
            `centred`: each shape is moved so that the middle of its bounding box is the origin, then one scale for
            the set. Size is kept, place is not: for files whose origin means nothing.
            `per_shape`: each shape is also divided by the standard deviation of its own coordinates. Size is erased;
            what is generated has no unit, and a property such as volume means nothing.
        unit: of the training set.
        class_names: of the training set, so that a class index can be named.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    mode: str = "global"
    unit: str = UNITLESS
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", tuple(float(c) for c in self.centre))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.mode not in MODES:
            raise InputError(f"got mode '{self.mode}', expected one of {', '.join(MODES)}")
        if len(self.centre) != 3 or not np.isfinite(self.centre).all():
            raise InputError(f"got centre {self.centre}, expected three finite numbers")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"got scale {self.scale}, expected a positive number: are all points one point?")
        if self.unit not in UNITS:
            raise InputError(f"got unit '{self.unit}', expected one of {', '.join(UNITS)}")

    @classmethod
    def fit(cls, shapes: ShapeSet, mode: str = "global") -> ShapeCodec:
        """The codec of a training set.

        Raises:
            InputError: an empty set, points without any extent, or an unknown mode.
        """
        if len(shapes) == 0:
            raise InputError("got an empty training set, expected at least one shape")
        if mode not in MODES:
            raise InputError(f"got mode '{mode}', expected one of {', '.join(MODES)}")
        unit = UNITLESS if mode == "per_shape" else shapes.unit
        if mode == "per_shape":
            return cls(mode=mode, unit=unit, class_names=shapes.class_names)
        total, squares, count = np.zeros(3), 0.0, 0
        middles, sizes = [], []
        step = max(1, len(shapes) // _FIT_SHAPES)
        for points in _chunks(shapes.points[::step]):
            middles.append(_middle(points)[:, 0])
            sizes.append(np.ptp(points, axis=1).max(axis=1))
            if mode == "centred":
                points = points - _middle(points)
            total += points.sum(axis=(0, 1))
            squares += float(np.square(points).sum())
            count += points.shape[0] * points.shape[1]
        mean = total / count
        apart = float(np.concatenate(middles).std(axis=0).max())
        if mode == "global" and apart > float(np.median(np.concatenate(sizes))):
            logger.warning(
                "the shapes lie %.3g apart (standard deviation of their middles) and measure %.3g: their places would "
                "be learned with them; normalise 'centred' if the places mean nothing",
                apart,
                float(np.median(np.concatenate(sizes))),
            )
        # One variance over all coordinates, each about its own mean.
        centre = mean if mode == "global" else np.zeros(3)
        variance = squares / (3 * count) - float(np.square(mean).sum()) / 3 * (mode == "global")
        x, y, z = centre.tolist()
        return cls((x, y, z), float(np.sqrt(max(variance, 0.0))), mode, unit, shapes.class_names)

    @property
    def n_channels(self) -> int:
        """Channels of a state: x, y, z."""
        return 3

    def frames(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre (M, 3) and scale (M,) of each shape, float32.

        Args:
            points: (M, P, 3), all stored points of each shape, so that a subset is normalised as the whole.
        """
        centres = np.tile(np.array(self.centre, np.float32), (len(points), 1))
        scales = np.full(len(points), self.scale, np.float32)
        if self.mode == "global":
            return centres, scales
        for first, chunk in zip(range(0, len(points), _CHUNK), _chunks(points), strict=True):
            middle = _middle(chunk)
            centres[first : first + len(chunk)] = middle[:, 0]
            if self.mode == "per_shape":
                spread = np.sqrt(np.square(chunk - chunk.mean(axis=1, keepdims=True)).mean(axis=(1, 2)))
                scales[first : first + len(chunk)] = np.maximum(spread, 1e-12)
        return centres, scales

    def encode(self, shapes: ShapeSet) -> State:
        """The state of all stored points: x (M, P, 3), without padding; the class index as condition `class`."""
        centres, scales = self.frames(shapes.points)
        return State(
            to_x(shapes.points, centres, scales),
            torch.ones(shapes.points.shape[:2], dtype=torch.bool),
            {"class": torch.from_numpy(shapes.class_index.copy())},
        )

    def as_generated(self, shapes: ShapeSet) -> ShapeSet:
        """Shapes without what is normalised away: their place (`centred`), and their size too (`per_shape`)."""
        if self.mode == "global":
            return shapes
        centres, scales = self.frames(shapes.points)
        points = shapes.points - centres[:, None]
        if self.mode == "per_shape":
            points = points / scales[:, None, None]
        return replace(shapes, points=points, unit=self.unit)

    def decode(self, state: State) -> ShapeSet:
        """Shapes of a clean state without padding, in `unit`; classes from the condition `class` where it is there.

        Raises:
            ValueError: the state is padded: shapes of different numbers of points are decoded one number at a time.
        """
        state = state.to("cpu")
        if not bool(state.mask.all()):
            raise ValueError("got a padded state, expected one number of points: use `points_of` for ragged ones")
        index = state.condition.get("class")
        names = self.class_names or ("shape",)
        known = index is not None and index.ndim == 1 and bool(((index >= 0) & (index < len(names))).all())
        return ShapeSet(
            points=self.points_of(state.x),
            class_index=index.numpy() if index is not None and known else np.zeros(len(state), np.int64),
            class_names=names if known or len(names) == 1 else ("shape",),
            unit=self.unit,
        )

    def points_of(self, x: torch.Tensor) -> np.ndarray:
        """Points (..., 3) float32 in `unit` of state values x (..., 3)."""
        values = x.detach().cpu().double().numpy() * self.scale + np.array(self.centre)
        return values.astype(np.float32)


def to_x(points: np.ndarray, centres: np.ndarray, scales: np.ndarray) -> torch.Tensor:
    """State values (B, N, 3) float32 of points (B, N, 3), given each shape's centre (B, 3) and scale (B,)."""
    return torch.from_numpy((points - centres[:, None, :]) / scales[:, None, None])


def _chunks(points: np.ndarray) -> Iterator[np.ndarray]:
    return (np.asarray(points[k : k + _CHUNK], np.float64) for k in range(0, len(points), _CHUNK))


def _middle(points: np.ndarray) -> np.ndarray:
    """(M, 1, 3) middle of the bounding box of each shape (M, P, 3)."""
    return (points.min(axis=1, keepdims=True) + points.max(axis=1, keepdims=True)) / 2
