"""Generate 3D shapes with diffusion models.

>>> import shapegen
>>> model = shapegen.load_pretrained("procedural")  # doctest: +SKIP
>>> clouds = model.generate(8, points=2048, seed=0)  # trimesh.PointCloud  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shapegen.model import ShapeModel
    from shapegen.pretrained import load_pretrained

__all__ = ["ShapeModel", "load_pretrained"]


def __getattr__(name: str) -> Any:
    # Torch-free worker processes import subpackages of this one, so the package itself must not import torch.
    if name == "load_pretrained":
        from shapegen.pretrained import load_pretrained

        return load_pretrained
    if name == "ShapeModel":
        from shapegen.model import ShapeModel

        return ShapeModel
    raise AttributeError(f"module 'shapegen' has no attribute '{name}'")
