"""`RunDirectory`: where a run keeps its configuration, its provenance and its results."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from common.atomic import atomic_writer, write_json
from common.errors import InputError

_PACKAGES = ("reward-guided-diffusion", "torch", "numpy", "rdkit", "lightning", "tblite")


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder with `config.yaml`, `run.json` and what the run makes."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> RunDirectory:
        """Make the folder, or take the existing one to resume.

        Raises:
            InputError: it exists with content and neither `overwrite` nor `resume` was given; or it is not a run.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, expected a folder to be made")
        occupied = path.is_dir() and any(path.iterdir())
        if resume and not (path / "run.json").exists():
            raise InputError(f"nothing to resume: {path} is not a run directory; leave --resume out to start")
        if occupied and not resume:
            if not overwrite:
                raise InputError(f"{path} exists and is kept; --overwrite replaces it, --resume goes on with it")
            if not (path / "run.json").exists():
                raise InputError(f"{path} is not a run directory, so --overwrite does not delete it; choose another")
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_config(self, options: Any) -> None:
        """`config.yaml`: the options of the run, which `--config` reads again."""
        values = {
            key: value for key, value in dataclasses.asdict(options).items() if key not in {"json", "debug", "resume"}
        }
        with atomic_writer(self / "config.yaml") as file:
            yaml.safe_dump(values, file, sort_keys=False)

    def read_config(self) -> dict[str, Any]:
        """The options of the run."""
        try:
            return yaml.safe_load((self / "config.yaml").read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{self / 'config.yaml'} cannot be read: {error}") from error

    def check_same(self, options: Any, free: Collection[str]) -> None:
        """Raise `InputError` if the run was made with other options than these; those named in `free` may differ."""
        for key, old in self.read_config().items():
            new = getattr(options, key, old)
            # YAML knows lists only.
            new = list(new) if isinstance(new, tuple) else new
            if key not in free and new != old:
                raise InputError(
                    f"{self.path} was made with {key} = {old}, got {new}; resume with --config {self / 'config.yaml'}, "
                    "or choose another folder"
                )

    def write_provenance(self, **facts: Any) -> None:
        """`run.json`: what made the run: command, versions, commit, machine, and the facts given.

        A resumed run keeps its first record; each resumption is added under `resumed`.
        """
        record = {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "python": sys.version.split()[0],
            "versions": {name: _version(name) for name in _PACKAGES},
            "commit": _commit(),
            "cpus": os.cpu_count(),
            **facts,
        }
        if (self / "run.json").exists():
            first = self.read_json("run.json")
            record = {**first, "resumed": [*first.get("resumed", []), record]}
        write_json(self / "run.json", record)

    def read_json(self, name: str) -> Any:
        """A JSON file of the run; raises `InputError` where it is absent or broken."""
        try:
            return json.loads((self / name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{self / name} cannot be read: {error}") from error


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, where the package runs from one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
