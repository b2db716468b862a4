"""`RunDirectory`: where a run keeps its configuration, its provenance and its results."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from common.atomic import atomic_writer, write_json
from common.errors import InputError

logger = logging.getLogger(__name__)

# Options that say how a command answers, not what it makes.
_NOT_KEPT = {"json", "debug", "resume"}
# Facts of a run that a resumed one must share, such as the hash of its data.
_HASH = "_hash"
_PACKAGES = ("reward-guided-diffusion", "torch", "numpy", "rdkit", "lightning", "tblite")


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder with `config.yaml`, `run.json` and what the run makes.

    Attributes:
        path: of the folder.
        verb: that makes the run; "" where it is only read.
    """

    path: Path
    verb: str = ""

    @classmethod
    @contextmanager
    def begin(cls, path: str | Path, verb: str, options: Any) -> Iterator[RunDirectory]:
        """Make the folder of a run, or take the existing one to resume; the run happens inside of the `with`.

        With `overwrite` the old run lies aside until the new one has come to its end or to something worth keeping. A
        command that fails before that leaves everything as it was.

        Args:
            path: of the folder.
            verb: that makes the run.
            options: of that verb; those named `overwrite` and `resume` say what may be there already.

        Raises:
            InputError: it exists with content and neither `overwrite` nor `resume` was given, or both were; it is not a
                run, or one of another verb; or the command reads from what it would replace.
        """
        path, resume = Path(path), getattr(options, "resume", False)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, expected a folder to be made")
        occupied = path.is_dir() and any(path.iterdir())
        if resume and getattr(options, "overwrite", False):
            raise InputError("got --resume and --overwrite: one goes on with a run, the other replaces it; drop one")
        if resume and not (path / "run.json").exists():
            raise InputError(f"nothing to resume: {path} is not a run directory; leave --resume out to start")
        if occupied:
            _check_may_change(path, verb, options)
        left = _aside(path)
        if left.exists() and not getattr(options, "overwrite", False):
            logger.warning(
                "%s is the run that lay in %s before a command was killed; move it back or delete it", left, path
            )
        if resume:
            yield cls(path, verb)
            return
        aside = _put_aside(path) if occupied else None
        # Resolved, for a link to where it was leads nowhere now.
        path.resolve().mkdir(parents=True, exist_ok=True)
        try:
            yield cls(path, verb)
        except BaseException as error:
            if not _worth_keeping(path) and (aside is not None or isinstance(error, InputError)):
                shutil.rmtree(path.resolve())
                if aside is not None:
                    aside.rename(path.resolve())
            elif aside is not None:
                shutil.rmtree(aside)
            raise
        if aside is not None:
            shutil.rmtree(aside)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def record(self, options: Any, free: Collection[str] = (), **facts: Any) -> None:
        """Write `config.yaml` and `run.json`; first check that a run to be resumed was made with the same.

        Args:
            options: of the verb.
            free: names of options that may differ when it is resumed.
            facts: for `run.json`; those named `..._hash` may not differ.

        Raises:
            InputError: it was made with other options, or from other files.
        """
        if getattr(options, "resume", False):
            self._check_same(options, free, facts)
        self._write_config(options)
        self.write_provenance(**facts)

    def _write_config(self, options: Any) -> None:
        """`config.yaml`: the options of the run, which `--config` reads again."""
        values = {key: value for key, value in dataclasses.asdict(options).items() if key not in _NOT_KEPT}
        with atomic_writer(self / "config.yaml") as file:
            yaml.safe_dump(values, file, sort_keys=False)

    def read_config(self) -> dict[str, Any]:
        """The options of the run."""
        try:
            return yaml.safe_load((self / "config.yaml").read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{self / 'config.yaml'} cannot be read: {error}") from error

    def _check_same(self, options: Any, free: Collection[str], facts: Mapping[str, Any]) -> None:
        """Raise `InputError` where the run that lies here had other options or hashes; see `record`."""
        for key, old in self.read_config().items():
            new = getattr(options, key, old)
            # YAML knows lists only.
            new = list(new) if isinstance(new, tuple) else new
            if key not in free and new != old:
                raise InputError(
                    f"{self.path} was made with {key} = {old}, got {new}; resume with --config {self / 'config.yaml'}, "
                    "or choose another folder"
                )
        before = self.read_json("run.json")
        for name, new in facts.items():
            if name.endswith(_HASH) and before.get(name, new) != new:
                raise InputError(
                    f"{self.path} was made from other files: the {name.removesuffix(_HASH)} has changed since "
                    f"({before[name]}, now {new}); put it back, or choose another folder"
                )

    def write_provenance(self, **facts: Any) -> None:
        """`run.json`: what made the run: command, versions, commit, machine, and the facts given.

        A resumed run keeps its first record; each resumption is added under `resumed`.
        """
        record = {
            "command": shlex.join([_program(), *sys.argv[1:]]),
            "verb": self.verb,
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


def _check_may_change(path: Path, verb: str, options: Any) -> None:
    """Raise `InputError` if the content of `path` may be neither replaced nor gone on with, as `options` want it."""
    if not (path / "run.json").exists():
        raise InputError(f"{path} exists and is not a run directory, so it is kept; choose another folder")
    made_by = RunDirectory(path).read_json("run.json").get("verb", verb)
    if made_by != verb:
        raise InputError(f"{path} is a run of `{made_by}` and is kept; choose another folder for `{verb}`")
    resume = getattr(options, "resume", None)
    if resume:
        return
    if inputs := _inputs_within(path, options):
        raise InputError(f"{inputs[0]} is what the command reads, so {path} is kept; choose another folder")
    if not options.overwrite:
        how = "--overwrite replaces it" + (", --resume goes on with it" if resume is not None else "")
        raise InputError(f"{path} exists and is kept; {how}")


def _inputs_within(path: Path, options: Any) -> list[str]:
    """The options that name an existing file or folder which is `path` or lies in it."""
    folder, found = path.resolve(), []
    for key, value in dataclasses.asdict(options).items():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if key == "output_dir" or not isinstance(text, str) or not text or not os.path.exists(text):
                continue
            named = Path(text).resolve()
            if named == folder or folder in named.parents:
                found.append(text)
    return found


def _aside(path: Path) -> Path:
    """Where a run lies while another one takes its place."""
    path = path.resolve()
    return path.with_name(path.name + ".replaced")


def _put_aside(path: Path) -> Path:
    """Move a run out of the way, to be deleted or put back."""
    path, aside = path.resolve(), _aside(path)
    if aside.exists():
        # A command that was killed left it, and something newer in its place.
        shutil.rmtree(aside)
    return path.rename(aside)


def _worth_keeping(path: Path) -> bool:
    """Whether a run has made anything but its records, logs and caches."""
    records = {"config.yaml", "run.json"}
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return any(
        file.parts[0] != "logs" and file.name not in records and not file.suffix.startswith(".sqlite") for file in files
    )


def _program() -> str:
    """The command as one types it: `shapegen`, also for `python -m shapegen`."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


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
