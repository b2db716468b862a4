"""Labels that a data set has, and those that are measured on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.rewards import Measured
from common.training.labels import with_labels


@dataclass(frozen=True)
class Table:
    """M samples, each a number."""

    values: np.ndarray
    properties: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values)

    def select(self, indices: np.ndarray) -> Table:
        return Table(self.values[indices], {name: column[indices] for name, column in self.properties.items()})


def table(count: int = 300) -> Table:
    values = np.arange(count, dtype=float)
    return Table(values, {"known": np.where(values % 3 == 0, np.nan, values)})


def squares(name: str, samples: Table) -> Measured:
    """The square, but not of what ends in 5."""
    failed = samples.values % 10 == 5
    return Measured(
        {name: torch.from_numpy(np.where(failed, np.nan, samples.values**2))}, {f"{name}: ends in 5": int(failed.sum())}
    )


def test_what_the_data_know_is_not_measured():
    def never(name, samples):
        raise AssertionError

    assert len(with_labels(table(), ["known"], never)) == 200
    assert len(with_labels(table(), ["known"], never, labels=7, most=3)) == 7


def test_what_they_do_not_know_is_measured_of_as_many_as_are_wanted(caplog):
    found = with_labels(table(), ["square"], squares)
    assert len(found) == 270
    np.testing.assert_array_equal(found.properties["square"], found.values**2)
    assert "30 of 300 samples could not be measured and are left out (30 x square: ends in 5)" in caplog.text
    few, fewer = (with_labels(table(), ["square"], squares, most=count) for count in (100, 20))
    assert 80 < len(few) < 100
    assert set(fewer.values) <= set(few.values)
    assert 2 <= len(with_labels(table(), ["square"], squares, labels=10, most=100)) <= 10


def test_samples_that_lack_a_known_label_are_not_measured_for_another():
    found = with_labels(table(), ["known", "square"], squares)
    assert len(found) == 180
    assert np.isfinite(found.properties["known"]).all()


def test_no_more_can_be_measured_than_there_are():
    with pytest.raises(InputError, match="got 301 labels, expected 2 to 300, the samples to measure square of"):
        with_labels(table(), ["square"], squares, labels=301)


def test_nothing_measured_says_why():
    fives = table().select(np.arange(5, 300, 10))
    with pytest.raises(InputError, match=r"'square', and 0 of 30 samples .* \(30 x square: ends in 5\)"):
        with_labels(fives, ["square"], squares)
