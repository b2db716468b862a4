"""`Solid`: where the inside of each cloud is, in torch: the winding number of `shapegen.geometry.winding`, batched.

The field is fitted to the points without normals (parametric Gauss reconstruction: Lin, Xiao, Shi, Wang, ACM Trans.
Graph. 2022, 42(2), 18) and sampled at Sobol points of the box. Volume, centre and inertia are sums over the samples of
the softened occupancy; area and normals come from its gradient (the coarea formula). The gradient with respect to the
points goes through the solution of the linear system by the implicit function theorem: backward is one more solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shapegen.rewards.cloud import Cloud

# Chosen on the procedural families with and without noise: a narrower kernel than that of `reconstruct`, which has to
# be smooth, and next to no smoothing.
_WIDTH_SPACINGS = 0.5
_SMOOTHING = 1.05
# Of the step from outside to inside, in units of the winding number.
_SOFTNESS = 0.05
_SAMPLES = 4096
# Of more points so many are used, at even steps through the list.
MAX_SOURCES = 4096
_MAX_ITERATIONS = 400
# Relative residual of the solution by type of number.
_TOLERANCE = {torch.float32: 3e-3, torch.float64: 1e-11}
# Kernel values that are held at a time: 512 MiB in float32; on a CPU as many as stay in its cache.
_ELEMENTS = 1 << 27
_CACHED_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class Solid:
    """The softened inside of B clouds.

    Attributes:
        samples: (B, Q, 3) in the unit of the cloud.
        cell: (B,) volume that one sample stands for.
        fields: one for each part of the batch.
    """

    samples: Tensor
    cell: Tensor
    fields: tuple[_Field, ...]

    @classmethod
    def of_cloud(cls, cloud: Cloud) -> Solid:
        """Fit the field of each cloud."""
        sources = min(cloud.points.shape[1], MAX_SOURCES)
        step = max(1, _ELEMENTS // (sources * max(sources, _SAMPLES)))
        whole = sources == cloud.points.shape[1] and step >= len(cloud.points)
        parts = [slice(start, start + step) for start in range(0, len(cloud.points), step)]
        fields = tuple(_Field.fit(cloud if whole else _thinned(cloud, part, sources)) for part in parts)
        samples = torch.cat([field.origin + field.samples * field.width for field in fields])
        cell = torch.cat([field.cell * field.width[:, 0, 0] ** 3 for field in fields])
        return cls(samples, cell, fields)

    @cached_property
    def occupancy(self) -> Tensor:
        """(B, Q) from 0, outside, to 1, inside."""
        return torch.cat([field.occupancy for field in self.fields])

    @cached_property
    def slope(self) -> Tensor:
        """(B, Q, 3) minus the gradient of the occupancy, in 1 / unit: outward normal times area in a unit volume."""
        return torch.cat([field.slope / field.width for field in self.fields])


@dataclass(frozen=True)
class _Field:
    """The fitted field of a part of the batch; lengths in widths of the kernel, from `origin`."""

    origin: Tensor  # (B, 1, 3), in the unit of the cloud
    width: Tensor  # (B, 1, 1), likewise
    points: Tensor  # (B, P, 3)
    moments: Tensor  # (B, P, 3) outward normal times area
    level: Tensor  # (B, 1)
    samples: Tensor  # (B, Q, 3)
    cell: Tensor  # (B,)

    @classmethod
    def fit(cls, cloud: Cloud) -> _Field:
        width = (_WIDTH_SPACINGS * cloud.spacing)[:, None, None]
        x = (cloud.points - cloud.centre) / width
        weights = cloud.weights
        moments, at_points = _solve(x, weights)
        # Smoothing pulls the values at the points below 1/2; see `shapegen.geometry.winding`.
        mean = (at_points * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        room = 1.0
        low = (cloud.low[:, None] - cloud.centre) / width - room
        size = (cloud.extents[:, None] / width + 2 * room).clamp(min=2 * room)
        samples = low + _sobol(x.device, x.dtype) * size
        cell = size.prod(dim=2)[:, 0] / _SAMPLES
        return cls(cloud.centre, width, x, moments, (mean + 0.5) / 2, samples, cell)

    @cached_property
    def values(self) -> Tensor:
        return self._evaluated(_field)

    @property
    def occupancy(self) -> Tensor:
        return ((self.values - self.level) / _SOFTNESS).sigmoid()

    @property
    def slope(self) -> Tensor:
        inside = self.occupancy
        return -(inside * (1 - inside) / _SOFTNESS)[..., None] * self._evaluated(_field_gradient)

    def _evaluated(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        elements = _ELEMENTS if self.points.is_cuda else _CACHED_ELEMENTS
        step = max(64, elements // (self.points.shape[0] * self.points.shape[1]))
        parts = self.samples.split(step, dim=1)
        return torch.cat([_checkpointed(function, part, self.points, self.moments) for part in parts], dim=1)


class _Implicit(torch.autograd.Function):
    """A zero that carries the gradient of the solution v of A v = b through the residual r = b - A v: dv = A^-1 dr."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, system: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        ctx.system = system
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _conjugate_gradients(ctx.system, gradients[0].contiguous()), None


def _solve(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (B, P, 3) of the points, and the field at the points (B, P).

    With B the (P, 3 P) matrix from moments to values and D the diagonal of B B^T, the moments are B^T xi and the
    equations (B B^T + D (smoothing / w^2 - 1)) xi = 1/2: a point of weight w has its equation blurred by 1 / w^2 and
    its source shrunk by w, so that at 0 it is gone. Solved for v = xi sqrt(smoothing D) / w, whose matrix has the
    diagonal 1.
    """
    with torch.no_grad():
        fixed, matrix = weights.detach(), _Matrix.of_points(x.detach(), weights.detach())

        def system(v: Tensor) -> Tensor:
            return _apply(v, fixed, matrix)

        v = _conjugate_gradients(system, 0.5 * matrix.scale)
        if not (x.requires_grad or weights.requires_grad):
            return _moments(v, fixed, matrix)

    def with_gradient(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        matrix = _Matrix.of_points(x, weights)
        residual = 0.5 * matrix.scale - _apply(v, weights, matrix)
        return _moments(v + _Implicit.apply(residual, system), weights, matrix)

    return _checkpointed(with_gradient, x, weights)


@dataclass(frozen=True)
class _Matrix:
    """What the linear system is made of: points (B, P, 3), kernel (B, P, P), w / sqrt(smoothing D) (B, P)."""

    x: Tensor
    kernel: Tensor
    scale: Tensor

    @classmethod
    def of_points(cls, x: Tensor, weights: Tensor) -> _Matrix:
        inverse = _inverse_distances(x, x)
        squares = inverse * inverse
        # |x_j - x_i|^2 m_ij^2 = (1 / s - 1) s^3 / (4 pi)^2 with s = 1 / (|x_j - x_i|^2 + 1).
        products = _sums(squares * squares * (1 - squares), (weights * weights)[..., None]) / (4 * math.pi) ** 2
        scale = weights / (_SMOOTHING * products[..., 0].clamp(min=1e-12)).sqrt()
        return cls(x, inverse * squares / (4 * math.pi), scale)


def _moments(v: Tensor, weights: Tensor, matrix: _Matrix) -> tuple[Tensor, Tensor]:
    """B^T xi, and B B^T xi, with the weights of the sources in B."""
    xi, x = matrix.scale * v, matrix.x
    total = _sums(matrix.kernel, torch.cat([x * xi[..., None], xi[..., None]], dim=2))
    moments = (x * total[..., 3:] - total[..., :3]) * (weights * weights)[..., None]
    return moments, _gather(x, _sums(matrix.kernel, _sources(x, moments)))


def _apply(v: Tensor, weights: Tensor, matrix: _Matrix) -> Tensor:
    return matrix.scale * _moments(v, weights, matrix)[1] + (1 - weights * weights / _SMOOTHING) * v


def _sources(x: Tensor, moments: Tensor) -> Tensor:
    return torch.cat([moments, (x * moments).sum(dim=2, keepdim=True)], dim=2)


def _gather(queries: Tensor, sums: Tensor) -> Tensor:
    """sum m (y - q) . mu from the sums (B, Q, 4) of m mu and m y . mu."""
    return sums[..., 3] - (queries * sums[..., :3]).sum(dim=2)


def _field(queries: Tensor, x: Tensor, moments: Tensor) -> Tensor:
    """(B, Q) winding number: sum_j m d . mu with d = x_j - q and m = 1 / (4 pi (|d|^2 + 1)^(3/2))."""
    inverse = _inverse_distances(x, queries)
    return _gather(queries, _sums(inverse * inverse * inverse / (4 * math.pi), _sources(x, moments)))


def _field_gradient(queries: Tensor, x: Tensor, moments: Tensor) -> Tensor:
    """(B, Q, 3) gradient of the winding number: sum_j -m mu + 3 m / (|d|^2 + 1) d (d . mu)."""
    inverse = _inverse_distances(x, queries)
    squares = inverse * inverse
    cubes = inverse * squares / (4 * math.pi)
    products = (x * moments).sum(dim=2, keepdim=True)
    outer = (x[..., :, None] * moments[..., None, :]).flatten(2)
    sums = _sums(cubes * squares, torch.cat([x * products, outer, products, moments], dim=2))
    first, second, third, fourth = sums.split([3, 9, 1, 3], dim=2)
    second = (second.unflatten(2, (3, 3)) * queries[..., None, :]).sum(dim=3)
    along = (queries * fourth).sum(dim=2, keepdim=True)
    return 3 * (first - second - queries * third + queries * along) - _sums(cubes, moments)


def _sums(kernel: Tensor, columns: Tensor) -> Tensor:
    """(B, Q, K) sums over P of the kernel (B, P, Q) times columns (B, P, K); a CPU is twice as fast this way round."""
    return (columns.transpose(1, 2) @ kernel).transpose(1, 2)


def _inverse_distances(x: Tensor, queries: Tensor) -> Tensor:
    """(B, P, Q): 1 / sqrt(|x - q|^2 + 1), from one matrix product."""
    squares = (x * x).sum(dim=2, keepdim=True)
    others = (queries * queries).sum(dim=2, keepdim=True) + 1
    left = torch.cat([x, squares, torch.ones_like(squares)], dim=2)
    right = torch.cat([-2 * queries, torch.ones_like(others), others], dim=2)
    return (left @ right.transpose(1, 2)).clamp(min=1).rsqrt()


def _conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solve A v = right (B, P) for symmetric positive A; each row stops by itself, so that a batch changes nothing."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction = residual.clone()
    square = (residual * residual).sum(dim=1, keepdim=True)
    goal = _TOLERANCE.get(right.dtype, 3e-3) ** 2 * square
    for iteration in range(_MAX_ITERATIONS):
        active = square > goal
        # Asking a GPU makes it wait.
        if iteration % 8 == 0 and not bool(active.any()):
            break
        image = system(direction)
        length = square / (direction * image).sum(dim=1, keepdim=True).clamp(min=1e-30)
        length = torch.where(active, length, torch.zeros_like(length))
        solution = solution + length * direction
        residual = residual - length * image
        previous, square = square, (residual * residual).sum(dim=1, keepdim=True)
        direction = residual + square / previous.clamp(min=1e-30) * direction
    return solution


def _thinned(cloud: Cloud, part: slice, count: int) -> Cloud:
    """A part of the batch, of at most `count` points each, at even steps through the real ones."""
    points, mask = cloud.points[part], cloud.mask[part]
    if points.shape[1] > count:
        number = mask.sum(dim=1, keepdim=True)
        steps = torch.arange(count, device=mask.device)[None]
        few = number <= count
        index = torch.where(few, steps.expand(len(mask), -1), steps * number // count)
        points = points.gather(1, index[..., None].expand(-1, -1, 3))
        mask = mask.gather(1, index)
    return Cloud(points, mask, cloud.usable[part], cloud.unit)


def _checkpointed(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """`function(*tensors)` without keeping its (P, P) and (Q, P) matrices for the gradient: they are computed again."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return checkpoint(function, *tensors, use_reentrant=False)
    return function(*tensors)


@cache
def _sobol(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, Q, 3) Sobol points of the unit cube, the same in every call."""
    engine = torch.quasirandom.SobolEngine(3, scramble=True, seed=0)
    return engine.draw(_SAMPLES, dtype=torch.float64).to(device, dtype)[None]
