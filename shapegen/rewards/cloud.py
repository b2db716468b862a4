"""`Cloud`: a batch of point clouds in torch, and what all estimates share: neighbours, spacing, strays, extents.

Everything is differentiable with respect to the points almost everywhere, and a sample's values do not depend on the
others of its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.diffusion import State
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import METRES

if TYPE_CHECKING:
    from shapegen.rewards.solid import Solid

MIN_POINTS = 32
# As in `shapegen.geometry.clouds.spacing`: a surface of random points, one for each unit of area, has its first 15
# neighbours at this distance on average.
_NEIGHBOURS = 15
_MEAN_NEIGHBOUR_DISTANCE = 1.4928
# A point counts fully up to 3 times the median distance to its 8 neighbours, and not at all beyond 5 times that.
_STRAY_NEIGHBOURS, _KEPT_WITHIN, _STRAY_BEYOND = 8, 3.0, 5.0
# Temperature of soft extremes, in spacings.
_SOFTNESS = 0.05
# A cloud whose points stand closer than this share of its size is a few points many times over.
_CLOSEST = 1e-4
# Half the thickness of what is no body but a sheet, as a share of its size.
_FLAT = 0.002
# Distances that are held at a time: 256 MiB in float32.
_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Cloud:
    """B clouds of up to N points.

    Attributes:
        points: (B, N, 3) in metres, or in the unknown unit; any finite number on padding.
        mask: (B, N) bool, True = real.
        usable: (B,) bool: at least 32 finite points, neither a few many times over nor in one plane. The others hold a
            stand-in, so that nothing spoils a gradient; what is computed of them is to be replaced by NaN (`known`).
        unit: of the shapes before they were turned to metres, and of the files that users name; `unitless` if unknown.
    """

    points: Tensor
    mask: Tensor
    usable: Tensor
    unit: str = "m"

    @classmethod
    def of_state(cls, state: State, codec: ShapeCodec) -> Cloud:
        """The clouds of a clean state of N >= 32 points, in metres where the codec's unit is a length."""
        dtype = torch.promote_types(state.x.dtype, torch.float32)
        centre = torch.tensor(codec.centre, dtype=dtype, device=state.x.device)
        points = (state.x[..., :3].to(dtype) * codec.scale + centre) * METRES.get(codec.unit, 1.0)
        return cls.of_points(points, state.mask, codec.unit)

    @classmethod
    def of_points(cls, points: Tensor, mask: Tensor, unit: str = "m") -> Cloud:
        """Clouds of points (B, N, 3) with N >= 32 and mask (B, N)."""
        real = torch.where(mask[..., None], points.detach(), torch.zeros_like(points))
        usable = (mask.sum(dim=1) >= MIN_POINTS) & torch.isfinite(real).all(dim=2).all(dim=1)
        with torch.no_grad():
            first = cls._with_stand_ins(points.detach(), mask, usable, unit)
            sound = usable & first._sound
        if torch.equal(sound, usable) and not (torch.is_grad_enabled() and points.requires_grad):
            return first
        return cls._with_stand_ins(points, mask, sound, unit)

    @classmethod
    def _with_stand_ins(cls, points: Tensor, mask: Tensor, usable: Tensor, unit: str) -> Cloud:
        points = torch.where((usable[:, None] & mask)[..., None], points, _sphere(points.shape[1], points))
        return cls(points, mask | ~usable[:, None], usable, unit)

    def known(self, values: Tensor) -> Tensor:
        """Values (B,) with NaN for what is no cloud of a body."""
        return torch.where(self.usable, values, torch.full_like(values, torch.nan))

    @cached_property
    def centre(self) -> Tensor:
        """(B, 1, 3) middle of the box of all points, without gradient: an origin that keeps float32 exact."""
        low, high = (self._extreme_point(sign).detach() for sign in (-1, 1))
        return ((low + high) / 2)[:, None]

    @cached_property
    def size(self) -> Tensor:
        """(B,) longest side of the box of all points, without gradient."""
        return (self._extreme_point(1) - self._extreme_point(-1)).amax(dim=1).detach()

    @cached_property
    def neighbour_distances(self) -> Tensor:
        """(B, N, 15) distances to the nearest points of the same cloud, ascending; the point itself is not counted."""
        x = self.points - self.centre
        return _distances(x, _nearest(x.detach(), self.mask, _NEIGHBOURS))

    @cached_property
    def spacing(self) -> Tensor:
        """(B,) pitch h of the cloud: h^2 is the area that a point stands for."""
        return masked_median(self.neighbour_distances.mean(dim=2), self.mask) / _MEAN_NEIGHBOUR_DISTANCE

    @cached_property
    def weights(self) -> Tensor:
        """(B, N) from 1 to 0: 0 for padding and for points far from all others, which no estimate counts.

        A clump of 9 or more points is no stray: only `components` of the mesh sees that it floats.
        """
        distances = self.neighbour_distances[..., :_STRAY_NEIGHBOURS].mean(dim=2)
        middle = masked_median(distances, self.mask).clamp(min=1e-12)
        excess = (distances / middle[:, None] - _KEPT_WITHIN) / (_STRAY_BEYOND - _KEPT_WITHIN)
        share = 1 - excess.clamp(0, 1)
        return torch.where(self.mask, share * share * (3 - 2 * share), torch.zeros_like(share))

    @cached_property
    def low(self) -> Tensor:
        """(B, 3) soft minimum of the kept points along each axis."""
        return -soft_maximum(-self.points, self.weights, self.temperature)

    @cached_property
    def high(self) -> Tensor:
        """(B, 3) soft maximum."""
        return soft_maximum(self.points, self.weights, self.temperature)

    @cached_property
    def extents(self) -> Tensor:
        """(B, 3) width, depth, height."""
        return self.high - self.low

    @cached_property
    def solid(self) -> Solid:
        """The softened inside, from the winding number."""
        # Here, as the solid is made of a cloud.
        from shapegen.rewards.solid import Solid

        return Solid.of_cloud(self)

    @property
    def temperature(self) -> Tensor:
        """(B,) length over which extremes are softened."""
        return _SOFTNESS * self.spacing

    @property
    def _sound(self) -> Tensor:
        """(B,) bool: the kept points are neither doubled over and over nor flat: then anything is symmetric and
        nothing topples."""
        shares = (self.weights / self.weights.sum(dim=1, keepdim=True).clamp(min=1e-12))[..., None]
        x = (self.points - self.centre) / self.size.clamp(min=1e-30)[:, None, None]
        x = x - (shares * x).sum(dim=1, keepdim=True)
        thinnest = torch.linalg.eigvalsh((shares * x).transpose(1, 2) @ x)[:, 0]
        return (self.spacing > _CLOSEST * self.size) & (thinnest > _FLAT**2)

    def _extreme_point(self, sign: int) -> Tensor:
        values = torch.where(self.mask[..., None], sign * self.points, torch.full_like(self.points, -torch.inf))
        return sign * values.amax(dim=1)


def soft_maximum(values: Tensor, weights: Tensor, temperature: Tensor) -> Tensor:
    """(B, K) means of values (B, N, K) with weights proportional to w exp(v / temperature): a little below the maximum.

    Args:
        values: (B, N, K).
        weights: (B, N) w, not negative and not all 0.
        temperature: (B,) in the unit of the values.
    """
    positive = weights > 0
    logarithms = torch.where(positive, weights, torch.ones_like(weights)).log()
    logarithms = torch.where(positive, logarithms, torch.full_like(weights, -torch.inf))
    return ((values / temperature[:, None, None] + logarithms[..., None]).softmax(dim=1) * values).sum(dim=1)


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) lower median of the values (B, N) where the mask is True."""
    ordered = torch.where(mask, values, torch.full_like(values, torch.inf)).sort(dim=1).values
    middle = ((mask.sum(dim=1) - 1) // 2).clamp(min=0)
    return ordered.gather(1, middle[:, None])[:, 0]


def distances_to(points: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """(B, P) distance of each point (B, P, 3) to the nearest of the others (B, N, 3) where the mask (B, N) is True."""
    index = []
    step = max(1, _ELEMENTS // (points.shape[0] * others.shape[1]))
    with torch.no_grad():
        for start in range(0, points.shape[1], step):
            scores = _scores(points[:, start : start + step].detach(), others.detach(), mask)
            index.append(scores.argmin(dim=2))
    return _norm(points - others.gather(1, torch.cat(index, dim=1)[..., None].expand(-1, -1, 3)))


def _nearest(x: Tensor, mask: Tensor, count: int) -> Tensor:
    """(B, N, count) indices of the nearest other points of each, nearest first."""
    found = []
    step = max(1, _ELEMENTS // (x.shape[0] * x.shape[1]))
    with torch.no_grad():
        for start in range(0, x.shape[1], step):
            scores = _scores(x[:, start : start + step], x, mask)
            rows = torch.arange(scores.shape[1], device=x.device)
            scores[:, rows, rows + start] = torch.inf
            found.append(scores.topk(count, dim=2, largest=False).indices)
    return torch.cat(found, dim=1)


def _scores(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """(B, P, N): squared distances but for a constant in each row; infinite for padding among y."""
    squares = torch.where(mask, (y * y).sum(dim=2), torch.full_like(y[..., 0], torch.inf))
    return torch.baddbmm(squares[:, None], x, y.transpose(1, 2), alpha=-2)


def _distances(x: Tensor, index: Tensor) -> Tensor:
    batch, count, k = index.shape
    near = x.gather(1, index.reshape(batch, -1, 1).expand(-1, -1, 3)).reshape(batch, count, k, 3)
    return _norm(near - x[:, :, None])


def _norm(vectors: Tensor) -> Tensor:
    """Lengths; the root has no derivative at 0, where doubled points are: it is taken as 0."""
    squares = (vectors * vectors).sum(dim=-1)
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, torch.ones_like(squares)).sqrt(), squares)


def _sphere(count: int, like: Tensor) -> Tensor:
    """(count, 3) points spread over the unit sphere."""
    k = torch.arange(count, dtype=like.dtype, device=like.device) + 0.5
    z = 1 - 2 * k / count
    radius = (1 - z * z).clamp(min=0).sqrt()
    turn = math.pi * (1 + math.sqrt(5)) * k
    return torch.stack([radius * turn.cos(), radius * turn.sin(), z], dim=1)
