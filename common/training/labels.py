"""Which samples of a data set are taken where only some labels are known, or only a few may be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.errors import InputError


def labelled_indices(properties: Mapping[str, np.ndarray], names: Sequence[str], labels: int = 0) -> np.ndarray:
    """Sorted indices of samples whose values of all of `names` are known, `labels` of them or all for 0.

    They depend on nothing else, and a larger choice contains the smaller ones: a predictor and a control that are
    given equal numbers have seen the same samples.

    Args:
        properties: column -> (M,) values, NaN where unknown.
        names: columns.
        labels: how many may be used.

    Raises:
        InputError: no such column, or fewer samples than asked for.
    """
    for name in names:
        if name not in properties:
            known = ", ".join(properties) or "none"
            raise InputError(f"the data have no column '{name}' to take values from; columns: {known}")
    found = np.flatnonzero(np.all([np.isfinite(properties[name]) for name in names], axis=0))
    if labels == 0 and len(found):
        return found
    if not 2 <= labels <= len(found):
        raise InputError(
            f"got {labels} labels, expected 2 to {len(found)}, the samples with values of {', '.join(names)}"
        )
    return np.sort(np.random.default_rng(0).permutation(found)[:labels])
