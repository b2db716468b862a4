"""`molgen doctor`."""

from __future__ import annotations

from common.cli.doctor import Dependency, doctor_verb
from molgen.cli.models import store

DEPENDENCIES = (
    Dependency("torch", "networks"),
    Dependency("lightning", "training"),
    Dependency("rdkit", "bonds, sanitising, drawing"),
    Dependency("ase", "extended XYZ, relaxation"),
    Dependency("tblite", "GFN2-xTB: data and labels"),
    Dependency("safetensors", "weights"),
    Dependency("tensorboard", "training logs"),
    Dependency("e3nn", "the equivariant predictor of properties"),
    Dependency("torch-geometric", "its QM9 loader"),
    Dependency("posebusters", "physical plausibility checks", False, "pip install posebusters==0.6.5"),
    Dependency("ray", "scoring on a cluster", False, "pip install 'ray>=2.40'"),
    Dependency("msgpack", "GEOM-Drugs in its original format", False, "pip install msgpack"),
)

VERB = doctor_verb(DEPENDENCIES, store)
