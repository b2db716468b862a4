"""Which samples of a data set are taken where only some labels are known, or only a few may be used."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.rewards import Measured

logger = logging.getLogger(__name__)


class Labelled(Protocol):
    """A data set: a dataclass of M samples with columns."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def properties(self) -> Mapping[str, np.ndarray]:
        """Column -> (M,) values, NaN where unknown."""
        ...

    def __len__(self) -> int:
        """M."""
        ...

    def select(self, indices: np.ndarray) -> Self:
        """These samples alone."""
        ...


# Samples that are measured where the law of a quantity is wanted and the data do not say it.
MEASURED = 500
_AT_A_TIME, _SAY_EVERY_S = 64, 10.0
_Samples = TypeVar("_Samples", bound=Labelled)


class LabelledParts(Generic[_Samples]):
    """The labelled samples of the parts of a data set, each choice made, and measured, once.

    Args:
        part: name -> the samples of `train`, `val` or `test`.
        measure: see `with_labels`.
        labels: of the training part, how many may be used; 0 for all.
    """

    def __init__(
        self, part: Callable[[str], _Samples], measure: Callable[[str, _Samples], Measured], labels: int = 0
    ) -> None:
        self._part, self._measure, self._labels = part, measure, labels
        self._chosen: dict[tuple[tuple[str, ...], str, int], _Samples] = {}

    def of(self, names: Sequence[str], part: str = "train", most: int = 0) -> _Samples:
        """Those of `part` whose values of all of `names` are known; see `with_labels`."""
        asked = (tuple(names), part, most)
        if asked not in self._chosen:
            labels = self._labels if part == "train" else 0
            self._chosen[asked] = with_labels(self._part(part), names, self._measure, labels, most)
        return self._chosen[asked]

    def values(self, name: str, most: int = 0) -> Tensor:
        """(M,) float32 values of one column, of the training part."""
        return torch.from_numpy(self.of([name], most=most).properties[name]).float()


def with_labels(
    samples: _Samples,
    names: Sequence[str],
    measure: Callable[[str, _Samples], Measured],
    labels: int = 0,
    most: int = 0,
) -> _Samples:
    """The samples whose values of all of `names` are known; what the data do not say is measured.

    Args:
        samples: a data set.
        names: columns.
        measure: (name, samples) -> a few samples measured; `InputError` for what cannot be.
        labels: how many may be used, see `labelled_indices`.
        most: how many to measure at most; 0 for all.

    Raises:
        InputError: as `labelled_indices`, or nothing could be measured.
    """
    known = [name for name in names if name in samples.properties]
    missing = [name for name in names if name not in known]
    if not missing:
        return samples.select(labelled_indices(samples.properties, names, labels))
    if known:
        samples = samples.select(labelled_indices(samples.properties, known))
    if labels > len(samples):
        raise InputError(f"got {labels} labels, expected 2 to {len(samples)}, the samples to measure {missing[0]} of")
    count = min(filter(None, (labels, most, len(samples))))
    samples = samples.select(np.sort(np.random.default_rng(0).permutation(len(samples))[:count]))
    reasons: Counter[str] = Counter()
    for name in missing:
        logger.info("the data have no column '%s': measuring it of %d samples", name, count)
        parts, said = [], time.monotonic()
        for first in range(0, count, _AT_A_TIME):
            part = measure(name, samples.select(np.arange(first, min(first + _AT_A_TIME, count))))
            parts.append(part.values[name].double().cpu().numpy())
            reasons.update(part.failures)
            if time.monotonic() - said > _SAY_EVERY_S:
                logger.info("%d/%d measured", min(first + _AT_A_TIME, count), count)
                said = time.monotonic()
        samples = dataclasses.replace(samples, properties={**samples.properties, name: np.concatenate(parts)})
    found = _complete(samples.properties, names)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(1))
    if len(found) < 2:
        raise InputError(
            f"the data have no column '{missing[0]}', and {len(found)} of {count} samples could be measured ({why}); "
            "expected at least 2"
        )
    if len(found) < count:
        logger.warning("%d of %d samples could not be measured and are left out (%s)", count - len(found), count, why)
    return samples.select(found)


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
    found = _complete(properties, names)
    if labels == 0 and len(found):
        return found
    if not 2 <= labels <= len(found):
        raise InputError(
            f"got {labels} labels, expected 2 to {len(found)}, the samples with values of {', '.join(names)}"
        )
    return np.sort(np.random.default_rng(0).permutation(found)[:labels])


def _complete(properties: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """(K,) indices, ascending, of the samples that have a value in each of these columns."""
    return np.flatnonzero(np.all([np.isfinite(properties[name]) for name in names], axis=0))
