"""`ModelStore`: the models that ship with a package, a folder each, and how a user's word finds a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.diffusion.model_file import DESCRIPTION
from common.errors import InputError
from common.named import nearest


@dataclass(frozen=True)
class ModelStore:
    """A folder of model folders.

    Attributes:
        folder: where they are.
    """

    folder: Path

    def names(self) -> list[str]:
        """Names of the shipped models."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{DESCRIPTION}"))

    def find(self, name: str | Path) -> Path:
        """The folder of a shipped model, of a model folder, or of a run directory; an `InputError` otherwise."""
        shipped = self.names()
        if str(name) in shipped:
            return self.folder / str(name)
        path = Path(name)
        if path.is_dir():
            return path
        raise InputError(
            f"no model '{name}'{nearest(str(name), shipped)}; expected a model folder, a run directory, or one of: "
            f"{', '.join(shipped) or 'none'}"
        )
