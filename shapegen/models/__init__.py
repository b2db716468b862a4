"""Networks of shapes: one file and one row each."""

from shapegen.models.set_transformer import SetTransformer

NETWORKS = {"set_transformer": SetTransformer}

__all__ = ["NETWORKS", "SetTransformer"]
