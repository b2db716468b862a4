import math

import numpy as np
import pytest
from contracts.chemistry_cases import BENZENE, ETHYLENE, HCN, METHANE, METHYL, WATER, molecule_set, moved
from scipy.stats import wasserstein_distance

from molgen.chemistry.perception import perceive
from molgen.metrics.geometry import (
    angle_metrics,
    angle_type_name,
    atom_count_metric,
    atom_type_metric,
    bond_type_metric,
    bond_type_name,
    bonds_and_angles,
    length_metrics,
    total_variation,
    wasserstein,
)


def typed(*molecules):
    lengths, angles = bonds_and_angles(perceive(molecule_set(*molecules)))
    table = {}
    for values, name in ((lengths, bond_type_name), (angles, angle_type_name)):
        for code in np.unique(values.types):
            table[name(int(code))] = values.values[values.types == code]
    return table


def stretched(molecule, factor):
    return molecule[0], molecule[1] * factor


def test_lengths_and_angles_of_known_molecules():
    table = typed(METHANE, METHYL, WATER, ETHYLENE, HCN, BENZENE)
    assert set(table) == {
        "C-H", "O-H", "C=C", "C#N", "C:C", "H-C-H", "H-O-H", "H-C-C", "H-C-N", "C-C-C",
    }  # fmt: skip
    np.testing.assert_allclose(table["C=C"], 1.334, atol=1e-5)
    np.testing.assert_allclose(table["C:C"], 1.395, atol=1e-5)
    np.testing.assert_allclose(table["H-C-N"], 180, atol=1e-3)
    np.testing.assert_allclose(table["C-C-C"], 120, atol=1e-3)
    np.testing.assert_allclose(table["H-O-H"], 104.5, atol=0.1)
    assert len(table["H-C-H"]) == 6 + 2
    np.testing.assert_allclose(np.sort(table["H-C-H"])[:6], np.degrees(np.arccos(-1 / 3)), atol=1e-3)
    assert len(table["C-H"]) == 4 + 4 + 1 + 6  # the methyl radical was refused


def test_wasserstein_equals_scipy_with_weights():
    rng = np.random.default_rng(0)
    samples, reference = rng.normal(size=40), rng.normal(0.3, 2, size=25)
    assert wasserstein(samples, reference)[0] == pytest.approx(wasserstein_distance(samples, reference))
    owners, draws = np.repeat(np.arange(10), 4), rng.integers(0, 3, (5, 10))
    expected = [wasserstein_distance(samples, reference, weights[owners]) for weights in draws]
    np.testing.assert_allclose(wasserstein(samples, reference, owners, draws), expected)
    assert np.isnan(wasserstein(samples, reference, owners, np.zeros((1, 10), int)))


def test_a_set_is_at_distance_zero_from_itself_whatever_its_pose():
    molecules = molecule_set(*[METHANE, WATER, ETHYLENE] * 20)
    mine, theirs = (bonds_and_angles(perceive(one)) for one in (molecules, moved(molecules, 2)))
    for row in length_metrics(mine[0], theirs[0], 0) + angle_metrics(mine[1], theirs[1], 0):
        # float32 coordinates: 1e-6 A, and its share of a degree
        assert row.value == pytest.approx(0, abs=1e-3)
    assert bond_type_metric(mine[0], theirs[0], 0).value == pytest.approx(0)
    assert atom_count_metric(molecules, moved(molecules, 3), 0).value == 0
    assert atom_type_metric(molecules, moved(molecules, 3), 0).value == pytest.approx(0)


def test_a_stretch_is_measured_in_angstrom():
    reference, _ = bonds_and_angles(perceive(molecule_set(*[METHANE] * 20)))
    samples, _ = bonds_and_angles(perceive(molecule_set(*[stretched(METHANE, 1.02)] * 20)))
    rows = length_metrics(samples, reference, 0)
    assert [row.name for row in rows] == ["bond_length_w1_angstrom", "bond_length_w1_angstrom[C-H]"]
    assert rows[0].value == pytest.approx(0.02 * 1.09, abs=1e-4)
    assert rows[0].n == 80


def test_no_values_are_undefined_not_zero():
    reference = bonds_and_angles(perceive(molecule_set(*[METHANE] * 20)))
    nothing = bonds_and_angles(perceive(molecule_set(METHYL, METHYL)))
    for rows in (length_metrics(nothing[0], reference[0], 0), angle_metrics(nothing[1], reference[1], 0)):
        assert all(math.isnan(row.value) for row in rows)
    assert math.isnan(bond_type_metric(nothing[0], reference[0], 0).value)


def test_total_variation():
    samples, reference = np.array([[1, 0], [1, 0], [0, 1], [1, 0]]), np.array([[1, 1]])
    row = total_variation("x", samples, reference, 0, "kinds")
    assert row.value == pytest.approx(0.25)
    assert row.low < 0.25 < row.high <= 1
    assert total_variation("x", np.array([[1, 0]] * 9), np.array([[0, 1]]), 0, "kinds").value == 1


def test_sizes_and_elements_count_broken_samples_too():
    reference = molecule_set(METHANE, METHANE)
    samples = molecule_set(METHANE, METHYL)
    assert atom_count_metric(samples, reference, 0).value == pytest.approx(0.5)
    assert atom_type_metric(samples, reference, 0).value == pytest.approx(2 / 9 - 1 / 5)
