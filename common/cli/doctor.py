"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb, print_table
from common.errors import InputError

if TYPE_CHECKING:
    from common.diffusion.model_store import ModelStore


@dataclass(frozen=True)
class Dependency:
    """A package that the program uses.

    Attributes:
        name: on the registry.
        purpose: what it is for.
        required: whether anything works without it.
        install: the command that gets it.
    """

    name: str
    purpose: str
    required: bool = True
    install: str = "make setup"


@dataclass(frozen=True)
class Finding:
    """A dependency on this machine: its version, or None where it is missing."""

    name: str
    version: str | None
    purpose: str
    required: bool
    install: str


def doctor_verb(dependencies: Sequence[Dependency], store: Callable[[], ModelStore]) -> Verb:
    """The verb `doctor` for a domain's packages and shipped models; `store` is asked for when the verb runs."""
    return Verb(
        "doctor",
        "versions, devices, what is missing and how to get it",
        CommonOptions,
        lambda options: report(dependencies, store().names(), options),
    )


def report(dependencies: Sequence[Dependency], models: list[str], options: CommonOptions) -> dict[str, Any]:
    """Print what is here and what is missing; an `InputError` if a required package is."""
    found = {**examine(dependencies), "models": models}
    if not options.json:
        print(f"python {found['python']} on {found['system']}, {found['cpus']} cores")
        print(f"devices: {', '.join(found['devices'])}; used by default: {found['default_device']}")
        print(f"shipped models: {', '.join(models) or 'none'}")
        rows = [
            (d["name"], d["version"] or "missing", d["purpose"], "" if d["version"] else d["install"])
            for d in found["dependencies"]
        ]
        print_table("packages", ("package", "version", "for", "how to get it"), rows)
    if found["missing"]:
        raise InputError(f"missing: {', '.join(found['missing'])}; run make setup")
    return found


def examine(dependencies: Sequence[Dependency]) -> dict[str, Any]:
    """Versions, devices and findings, ready for a table or for JSON."""
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    findings = [Finding(d.name, _version(d.name), d.purpose, d.required, d.install) for d in dependencies]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": devices,
        "default_device": pick_device("auto"),
        "dependencies": [asdict(finding) for finding in findings],
        "missing": [f.name for f in findings if f.required and f.version is None],
    }


def pick_device(name: str) -> str:
    """`auto` as the best device that is there; any other name as it is, checked.

    Raises:
        InputError: no such device here.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    kind = name.split(":")[0]
    if not available.get(kind, False):
        found = ", ".join(device for device, there in available.items() if there)
        raise InputError(f"got device '{name}', expected auto or one that is here: {found}")
    return name


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
