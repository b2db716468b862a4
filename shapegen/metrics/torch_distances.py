"""Chamfer matrices on a GPU, by pytorch3d where it is installed and by torch otherwise; SciPy's numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch

# Distances between points that are held at a time, in float32: 1 GiB.
_ELEMENTS = 1 << 28


def pytorch3d_found() -> bool:
    """Whether pytorch3d can be imported."""
    return importlib.util.find_spec("pytorch3d") is not None


def chamfer_matrix(
    a: np.ndarray,
    b: np.ndarray | None,
    device: str,
    progress: Callable[[int, int], None] | None = None,
    use_pytorch3d: bool | None = None,
) -> np.ndarray:
    """Chamfer distances (M, N) float64 between clouds (M, P, 3) and (N, Q, 3), or of `a` among themselves.

    Args:
        device: of torch, such as `cuda`.
        progress: called with (pairs done, pairs in all).
        use_pytorch3d: whether to; where it is installed if None.
    """
    nearest = _nearest_pytorch3d if (pytorch3d_found() if use_pytorch3d is None else use_pytorch3d) else _nearest
    # Around a common centre float32 keeps more digits.
    centre = a.reshape(-1, 3).mean(axis=0)
    first = torch.as_tensor(a - centre, dtype=torch.float32, device=device)
    second = first if b is None else torch.as_tensor(b - centre, dtype=torch.float32, device=device)
    matrix = torch.empty(len(first), len(second), dtype=torch.float64)
    step = max(1, _ELEMENTS // (first.shape[1] * second.shape[1]))
    with torch.no_grad():
        for i in range(len(first)):
            for j in range(0, len(second), step):
                others = second[j : j + step]
                one = first[i].expand(len(others), -1, -1)
                matrix[i, j : j + step] = (nearest(one, others) + nearest(others, one)).cpu()
            if progress is not None:
                progress((i + 1) * len(second), matrix.numel())
    found = matrix.numpy()
    if b is None:
        found = (found + found.T) / 2
        np.fill_diagonal(found, 0.0)
    return found


def _nearest(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B,) float64: mean over the points of x (B, P, 3) of the squared distance to the nearest of y (B, Q, 3).

    The matrix product finds the neighbour, the difference its distance: that of the product loses half the digits.
    """
    scores = torch.baddbmm((y * y).sum(-1)[:, None], x, y.transpose(1, 2), alpha=-2)
    index = scores.argmin(dim=2)
    found = torch.gather(y, 1, index[..., None].expand(-1, -1, 3))
    return (x - found).double().square().sum(-1).mean(1)


def _nearest_pytorch3d(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # No wheel exists, so most installations lack it.
    from pytorch3d.ops import knn_points  # pyright: ignore[reportMissingImports]

    return knn_points(x.contiguous(), y.contiguous(), K=1).dists[..., 0].double().mean(1)
