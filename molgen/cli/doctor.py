"""`molgen doctor`."""

from __future__ import annotations

from typing import Any

from common.cli.app import CommonOptions, Verb, print_table
from common.errors import InputError


def run(options: CommonOptions) -> dict[str, Any]:
    """Print what is here and what is missing."""
    from common.cli.doctor import Dependency, examine
    from molgen import pretrained

    found = examine(
        [
            Dependency("torch", "networks"),
            Dependency("lightning", "training"),
            Dependency("rdkit", "bonds, sanitising, drawing"),
            Dependency("ase", "extended XYZ, relaxation"),
            Dependency("tblite", "GFN2-xTB: data and labels"),
            Dependency("safetensors", "weights"),
            Dependency("tensorboard", "training logs"),
            Dependency("torch-geometric", "its QM9 loader"),
            Dependency("posebusters", "physical plausibility checks", False, "pip install posebusters==0.6.5"),
            Dependency("msgpack", "GEOM-Drugs in its original format", False, "pip install msgpack"),
        ]
    )
    found["models"] = pretrained.names()
    if not options.json:
        print(f"python {found['python']} on {found['system']}, {found['cpus']} cores")
        print(f"devices: {', '.join(found['devices'])}; used by default: {found['default_device']}")
        print(f"shipped models: {', '.join(found['models']) or 'none'}")
        rows = [
            (d["name"], d["version"] or "missing", d["purpose"], "" if d["version"] else d["install"])
            for d in found["dependencies"]
        ]
        print_table("packages", ("package", "version", "for", "how to get it"), rows)
    if found["missing"]:
        raise InputError(f"missing: {', '.join(found['missing'])}; run make setup")
    return found


VERB = Verb("doctor", "versions, devices, what is missing and how to get it", CommonOptions, run)
