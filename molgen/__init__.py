"""Generate 3D molecules with diffusion models.

>>> import molgen
>>> model = molgen.load_pretrained("gdb7-xtb")  # doctest: +SKIP
>>> molecules = model.generate(16, seed=0)      # rdkit.Chem.Mol with 3D conformers  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molgen.model import MoleculeModel
    from molgen.pretrained import load_pretrained

__all__ = ["MoleculeModel", "load_pretrained"]


def __getattr__(name: str) -> Any:
    # Torch-free worker processes import subpackages of this one, so the package itself must not import torch.
    if name == "load_pretrained":
        from molgen.pretrained import load_pretrained

        return load_pretrained
    if name == "MoleculeModel":
        from molgen.model import MoleculeModel

        return MoleculeModel
    raise AttributeError(f"module 'molgen' has no attribute '{name}'")
