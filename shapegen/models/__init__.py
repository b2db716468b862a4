"""Networks of shapes: one file and one row each."""

from shapegen.models.pointwise import PointwiseMLP
from shapegen.models.set_transformer import SetTransformer

NETWORKS = {"set_transformer": SetTransformer, "pointwise": PointwiseMLP}

__all__ = ["NETWORKS", "PointwiseMLP", "SetTransformer"]
