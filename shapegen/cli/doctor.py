"""`shapegen doctor`."""

from __future__ import annotations

from common.cli.doctor import Dependency, doctor_verb
from shapegen.cli.models import store

DEPENDENCIES = (
    Dependency("torch", "networks"),
    Dependency("lightning", "training"),
    Dependency("trimesh", "meshes"),
    Dependency("manifold3d", "watertight solids of the procedural families"),
    Dependency("scikit-image", "surfaces by marching cubes"),
    Dependency("safetensors", "weights"),
    Dependency("tensorboard", "training logs"),
    Dependency("mujoco", "drop test", False, "pip install mujoco"),
    Dependency(
        "pytorch3d", "faster Chamfer distances", False,
        "build it from source: github.com/facebookresearch/pytorch3d, INSTALL.md (no wheel on the registry)",
    ),
)  # fmt: skip

VERB = doctor_verb(DEPENDENCIES, store)
