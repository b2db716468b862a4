"""The score cache and the hash that it goes by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import InputError
from common.rewards import Score, ScoreCache, geometry_hash

POINTS = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, -0.25]])


def test_the_hash_sees_geometry_elements_and_charge_and_no_rounding_noise():
    base = geometry_hash(POINTS, [6, 8], 0)
    assert geometry_hash(POINTS + 1e-6, [6, 8], 0) == base
    assert geometry_hash(POINTS * -1.0 * -1.0 - 0.0, [6, 8], 0) == base
    assert geometry_hash(POINTS.astype(np.float32), np.array([6, 8], np.uint8), 0) == base
    others = [
        geometry_hash(POINTS + 1e-3, [6, 8], 0),
        geometry_hash(POINTS, [8, 6], 0),
        geometry_hash(POINTS, [6, 8], 1),
        geometry_hash(POINTS[::-1], [6, 8], 0),
        geometry_hash(POINTS * np.nan, [6, 8], 0),
        geometry_hash(POINTS * 1e30, [6, 8], 0),
        geometry_hash(POINTS[:1], [6], 0),
        geometry_hash(POINTS[:0], [], 0),
    ]
    assert len({base, *others}) == len(others) + 1


def test_memory_forgets_what_was_used_least_recently():
    cache = ScoreCache(capacity=2)
    cache.add({"a": Score(1.0), "b": Score(2.0)})
    cache.find(["a"])
    cache.add({"c": Score(3.0)})
    assert cache.find(["a", "b", "c"]) == {"a": Score(1.0), "c": Score(3.0)}
    assert (cache.hits, cache.misses) == (3, 1)


def test_a_file_keeps_scores_and_failures(tmp_path):
    path = tmp_path / "scores.sqlite"
    first, second = ScoreCache(path=path), ScoreCache(capacity=1, path=path)
    first.add({f"k{i}": Score(float(i)) for i in range(1200)} | {"bad": Score(math.nan, "clash")})
    assert len(second.find(f"k{i}" for i in range(1200))) == 1200
    assert len(second) == 1
    first.close()
    again = ScoreCache(path=path).find(["bad", "k7", "unknown"])
    assert again["k7"] == Score(7.0)
    assert math.isnan(again["bad"].value)
    assert again["bad"].reason == "clash"
    assert "unknown" not in again


def test_a_file_of_something_else_is_refused(tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("years of work, " * 100)
    with pytest.raises(InputError, match="no score cache"):
        ScoreCache(path=other)
    assert other.read_text().startswith("years of work")
    with pytest.raises(InputError, match="cannot become one"):
        ScoreCache(path=tmp_path / "no" / "folder.sqlite")
