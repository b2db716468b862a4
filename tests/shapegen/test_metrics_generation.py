import numpy as np
import pytest
from scipy.spatial.distance import cdist, jensenshannon

from common.errors import InputError
from shapegen.metrics.generation import (
    coverage,
    divergence_metrics,
    matrix_metrics,
    minimum_matching_distance,
    nearest_neighbour_test,
    occupancy_divergence,
)


def brute_1nna(within, between, within_reference):
    """The definition, one shape at a time."""
    s, r = between.shape
    right = {"s": 0, "r": 0}
    for i in range(s):
        others = [within[i, j] for j in range(s) if j != i]
        right["s"] += min(others) < min(between[i])
    for i in range(r):
        others = [within_reference[i, j] for j in range(r) if j != i]
        right["r"] += min(others) < min(between[:, i])
    return (right["s"] + right["r"]) / (s + r), right["s"] / s, right["r"] / r


def matrices(x, y):
    return cdist(x, x), cdist(x, y), cdist(y, y)


def test_mmd_and_cov_by_hand():
    between = np.array([[1.0, 5.0, 9.0], [2.0, 6.0, 3.0]])  # 2 samples, 3 references
    assert minimum_matching_distance(between) == pytest.approx((1 + 5 + 3) / 3)
    assert coverage(between) == pytest.approx(1 / 3)  # both samples have the first reference as nearest


@pytest.mark.parametrize("seed", range(4))
def test_1nna_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    found = matrices(rng.normal(size=(13, 3)), rng.normal(0.3, 1.2, size=(17, 3)))
    test = nearest_neighbour_test(*found)
    assert (test.accuracy, test.samples, test.references) == pytest.approx(brute_1nna(*found))


def test_1nna_of_the_same_law_is_near_a_half_and_of_distant_sets_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, 3))
    assert nearest_neighbour_test(*matrices(x, y)).accuracy == pytest.approx(0.5, abs=0.08)
    assert nearest_neighbour_test(*matrices(x, y + 50)).accuracy == 1.0


def test_one_sided_accuracies_show_a_mode_collapse_that_the_mean_hides():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(200, 2))
    collapsed = reference[:1] + 1e-3 * rng.normal(size=(200, 2))
    test = nearest_neighbour_test(*matrices(collapsed, reference))
    assert test.samples > 0.9
    copies = reference + 1e-6  # every sample sits on a reference
    test = nearest_neighbour_test(*matrices(copies, reference))
    assert test.accuracy == 0.0


def test_matrices_must_fit():
    with pytest.raises(InputError, match=r"\(S, S\), \(S, R\) and \(R, R\)"):
        nearest_neighbour_test(np.zeros((3, 3)), np.zeros((3, 4)), np.zeros((3, 3)))


def test_rows_hold_value_interval_and_sizes():
    rng = np.random.default_rng(2)
    rows = matrix_metrics("cd", *matrices(rng.normal(size=(60, 3)), rng.normal(size=(60, 3))), "60 of 512 points")
    by_name = {row.name: row for row in rows}
    assert list(by_name) == [
        "mmd_cd",
        "cov_cd_percent",
        "1nna_cd_percent",
        "1nna_cd_samples_percent",
        "1nna_cd_references_percent",
        "1nna_cd_off_points",
    ]
    for row in rows:
        assert row.low <= row.value <= row.high
        assert "60 of 512 points" in row.rule
    accuracy = by_name["1nna_cd_percent"]
    assert by_name["1nna_cd_off_points"].value == pytest.approx(abs(accuracy.value - 50))
    sides = by_name["1nna_cd_samples_percent"].value + by_name["1nna_cd_references_percent"].value
    assert accuracy.value == pytest.approx(sides / 2)


def test_bootstrap_spread_is_that_of_fresh_draws():
    rng = np.random.default_rng(3)
    values, halves = [], []
    for k in range(60):
        found = matrices(rng.normal(size=(50, 3)), rng.normal(0.4, 1.0, size=(50, 3)))
        row = {row.name: row for row in matrix_metrics("cd", *found, "", seed=k)}["1nna_cd_percent"]
        values.append(row.value)
        halves.append((row.high - row.low) / 2)
    assert np.mean(halves) / (1.96 * np.std(values)) == pytest.approx(1.0, abs=0.35)


def brute_jsd(samples, references):
    """The definition: nearest node by comparing with all, in a loop."""
    line = np.arange(28) / 27 - 0.5
    nodes = np.array([(x, y, z) for x in line for y in line for z in line])
    nodes = nodes[np.linalg.norm(nodes, axis=1) <= 0.5]
    counts = np.zeros((2, len(nodes)))
    for k, clouds in enumerate((samples, references)):
        for point in clouds.reshape(-1, 3):
            counts[k, np.argmin(((nodes - point) ** 2).sum(1))] += 1
    return jensenshannon(*counts, base=2) ** 2


def test_jsd_equals_its_definition_and_counts_what_is_outside():
    rng = np.random.default_rng(4)
    samples, references = rng.normal(0, 0.15, size=(4, 50, 3)), rng.normal(0.05, 0.15, size=(3, 50, 3))
    samples[0, 0], references[0, :2] = [2.0, 0, 0], [[0.49, 0.49, 0], [0, 0, -9.0]]
    found = occupancy_divergence(samples, references)
    assert found.value == pytest.approx(brute_jsd(samples, references), rel=1e-9)
    assert found.outside_samples == int((np.linalg.norm(samples.reshape(-1, 3), axis=1) > 0.5).sum())
    assert found.outside_references >= 2


def test_jsd_is_zero_for_a_set_and_itself_and_one_for_disjoint_sets():
    cloud = np.random.default_rng(5).normal(0, 0.1, size=(3, 40, 3))
    assert occupancy_divergence(cloud, cloud).value == pytest.approx(0, abs=1e-12)
    left, right = np.full((1, 5, 3), -0.2), np.full((1, 5, 3), 0.2)
    assert occupancy_divergence(left, right).value == pytest.approx(1)


def test_jsd_rows():
    cloud = np.random.default_rng(6).normal(0, 0.2, size=(2, 10, 40, 3))
    jsd, outside, _ = divergence_metrics(*cloud, "as given")
    assert jsd.name == "jsd"
    assert 0 <= jsd.low <= jsd.value <= jsd.high <= 1
    assert outside.value == pytest.approx(100 * (np.linalg.norm(cloud[0].reshape(-1, 3), axis=1) > 0.5).mean())
