"""Networks of molecules: one file and one row each."""

from molgen.models.egnn import EGNN
from molgen.models.parameterisation import MOLECULE_PARAMETERISATIONS
from molgen.models.transformer import EquivariantTransformer

NETWORKS = {"egnn": EGNN, "transformer": EquivariantTransformer}

__all__ = ["EGNN", "MOLECULE_PARAMETERISATIONS", "NETWORKS", "EquivariantTransformer"]
