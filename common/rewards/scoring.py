"""What the scorers of both domains share: tables of raw scores, what is computed once, users' functions in batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from common.errors import InputError
from common.rewards.cache import Score
from common.workers import DIED, TIME_LIMIT, Failure, WorkerPool

# Reasons of failures that a busy or broken machine may cause: tried again the next time, not kept.
NOT_KEPT = frozenset({TIME_LIMIT, DIED})


@dataclass(frozen=True)
class ScoreTable:
    """Raw scores of M samples.

    Attributes:
        values: column -> (M,) float64, NaN where there is none.
        reasons: column -> M texts, why there is none; "" where there is one.
        details: `column: reason` -> what the first such failure said, where it said more. Not of cached ones.
    """

    values: Mapping[str, np.ndarray]
    reasons: Mapping[str, Sequence[str]]
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, int]:
        """`column: reason` -> number of samples, the most frequent first."""
        counts = Counter(f"{column}: {reason}" for column, all in self.reasons.items() for reason in all if reason)
        return dict(counts.most_common())


def score_of(result: float | Failure, column: str, details: dict[str, str]) -> Score:
    """What a calculation gave for a column as a score; what the first failure of a reason said goes into `details`."""
    if not isinstance(result, Failure):
        return Score(result)
    said = " ".join(result.detail.split()).removeprefix(f"{result.reason}: ")
    if said and said != result.reason:
        details.setdefault(f"{column}: {result.reason}", said)
    return Score(math.nan, result.reason)


def check_scorers(names: Sequence[str], packages: Mapping[str, Iterable[str]], time_limit_s: float) -> None:
    """Raise `InputError` for two scorers of one name, a package that is not installed, or a time limit that is none.

    Args:
        names: of the scorers.
        packages: name of a scorer -> packages that it needs.
        time_limit_s: seconds.
    """
    if len(set(names)) != len(names):
        raise InputError(f"got the scorers {', '.join(names)}, expected each of them once")
    if not time_limit_s > 0:
        raise InputError(f"got a time limit of {time_limit_s} s, expected more than 0")
    for name, needed in packages.items():
        for package in needed:
            try:
                version(package)
            except PackageNotFoundError as error:
                raise InputError(f"{name} needs {package}, which is not installed; pip install {package}") from error


def by_sample(todo: Mapping[str, list[int]], names: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(index of a sample, names of the scorers that are to do for it), from scorer -> indices."""
    wanted: dict[int, list[str]] = {}
    for name in names:
        for index in todo.get(name, ()):
            wanted.setdefault(index, []).append(name)
    return ((index, tuple(names)) for index, names in wanted.items())


def call_user_function(
    pool: WorkerPool, batches: Sequence[list[int]], encode: Callable[[int], Any], time_limit_s: float
) -> Iterator[tuple[int, float | Failure]]:
    """(index, score) of each sample; a batch that dies is done again one by one, so that it costs the guilty alone.

    Args:
        pool: workers of a `common.user_function.UserFunction`.
        batches: indices of samples.
        encode: index -> what the function's workers decode.
        time_limit_s: for one sample; a batch has as many times that.
    """
    again: list[list[int]] = []
    for tries in (batches, again):
        items = ([encode(index) for index in batch] for batch in tries)
        for k, result in pool.map(items, time_limit_s * max((len(batch) for batch in tries), default=1)):
            batch = tries[k]
            if isinstance(result, Failure) and len(batch) > 1:
                again += [[index] for index in batch]
            else:
                yield from zip(batch, result if isinstance(result, list) else [result] * len(batch), strict=True)
