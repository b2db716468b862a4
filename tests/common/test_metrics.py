import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest

from common.metrics import (
    Metric,
    clustered_proportion,
    from_draws,
    proportion,
    resamples,
    wilson,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 7), (500, 1000), (1, 1)])
def test_wilson_equals_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(hits / n, n), (expected.low, expected.high), atol=1e-12)


def test_nothing_is_undefined_not_perfect():
    empty = proportion("x", 0, 0, "rule")
    assert empty.n == 0
    assert all(math.isnan(v) for v in (empty.value, empty.low, empty.high))
    assert all(math.isnan(v) for v in wilson(0.0, 0))
    assert math.isnan(clustered_proportion("x", np.array([]), np.array([]), "rule").value)


def test_rows_are_json():
    text = json.dumps(Metric.undefined("x", 0, "rule").as_row(), allow_nan=False)
    assert json.loads(text)["value"] is None


def test_independent_units_get_the_plain_interval():
    rng = np.random.default_rng(0)
    hits = rng.random((4000, 5)) < 0.7
    clustered = clustered_proportion("x", hits.sum(axis=1), np.full(4000, 5), "rule")
    plain = proportion("x", int(hits.sum()), hits.size, "rule")
    assert clustered.value == pytest.approx(plain.value)
    assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low, rel=0.05)


def test_units_that_share_their_fate_count_as_one():
    rng = np.random.default_rng(0)
    hits = np.where(rng.random(400) < 0.7, 9, 0)
    clustered = clustered_proportion("x", hits, np.full(400, 9), "rule")
    one_each = proportion("x", int((hits > 0).sum()), 400, "rule")
    assert clustered.high - clustered.low == pytest.approx(one_each.high - one_each.low, rel=0.02)


def test_a_perfect_score_still_has_an_interval():
    row = clustered_proportion("x", np.full(20, 9), np.full(20, 9), "rule")
    assert (row.value, row.high) == (1.0, 1.0)
    assert 0.8 < row.low < 0.9  # as 20 of 20 molecules, not 180 of 180 atoms


def test_bootstrap_is_seeded_and_keeps_its_size():
    weights = resamples(50, seed=3, draws=20)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == resamples(50, seed=3, draws=20)).all()
    assert (weights != resamples(50, seed=4, draws=20)).any()


def test_a_distance_has_an_interval_around_it_that_ends_at_zero():
    row = from_draws("x", 0.1, np.array([0.0, 0.5, 1.0]), 10, "rule")
    assert row.low == 0
    assert row.high == pytest.approx(0.1 + 1.96 * 0.5, abs=1e-3)


def test_an_interval_is_cut_where_the_quantity_ends_and_needs_draws_that_are_numbers():
    row = from_draws("x", 0.9, np.array([0.5, 1.0, math.nan]), 10, "rule", most=1.0)
    assert row.high == 1
    assert row.low == pytest.approx(0.9 - 1.96 * 0.25 * math.sqrt(2), abs=1e-3)
    assert math.isnan(from_draws("x", 0.9, np.array([0.5, math.nan]), 10, "rule").low)
    assert math.isnan(from_draws("x", math.nan, np.array([0.5, 1.0]), 10, "rule").high)


def test_the_module_is_free_of_torch():
    """Metrics run in worker processes, which must not import torch."""
    code = "import sys, common.metrics; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
