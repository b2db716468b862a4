import math

import numpy as np
import pytest
from contracts.chemistry_cases import (
    BENZENE,
    BROKEN,
    ETHYLENE,
    GOOD,
    HCN,
    METHANE,
    METHYL,
    TWO_WATERS,
    WATER,
    molecule_set,
    moved,
)
from rdkit import Chem

from molgen.chemistry import valence
from molgen.chemistry.perception import Perceived, flat_smiles, perceive
from molgen.data.molecules import MoleculeSet
from molgen.metrics.stability import stability_metrics, valency_metrics
from molgen.metrics.validity import (
    connectedness,
    edm_smiles,
    edm_validity_metrics,
    novelty,
    uniqueness,
    validity_metrics,
)


def by_name(rows):
    return {row.name: row for row in rows}


def test_failures_count_and_nothing_is_dropped():
    samples = molecule_set(METHANE, METHANE, WATER, *BROKEN)
    rows = by_name(validity_metrics(perceive(samples)))
    assert rows["validity"].n == len(samples) == 9
    assert rows["validity"].value == pytest.approx(3 / 9)
    assert rows["uniqueness"].value == pytest.approx(2 / 3)
    assert rows["uniqueness"].n == 3
    assert rows["validity_x_uniqueness"].value == pytest.approx(2 / 9)
    for row in rows.values():
        assert row.low <= row.value <= row.high


def test_edm_validity_keeps_the_largest_fragment():
    apart = np.array([0, 0, 8.0])
    pair = np.concatenate([WATER[0], ETHYLENE[0]]), np.concatenate([WATER[1], ETHYLENE[1] + apart])
    explicit, flat = edm_smiles(molecule_set(pair, METHYL, WATER))
    assert explicit == ["[H]C([H])=C([H])[H]", "[H]C([H])[H]", "[H]O[H]"]
    assert flat == ["C=C", "C", "O"]


def test_edm_rows():
    carbon_with_five = (np.append(METHANE[0], 1), np.concatenate([METHANE[1], [[-0.8, -0.5, -0.5]]]))
    explicit, _ = edm_smiles(molecule_set(METHANE, METHANE, carbon_with_five, WATER))
    rows = by_name(edm_validity_metrics(explicit))
    assert rows["edm_validity"].value == pytest.approx(3 / 4)
    assert rows["edm_uniqueness"].value == pytest.approx(2 / 3)
    assert rows["edm_validity_x_uniqueness"].value == pytest.approx(2 / 4)


def test_uniqueness_of_nothing_is_undefined():
    rows = by_name(validity_metrics(perceive(molecule_set(*BROKEN))))
    assert rows["validity"].value == 0
    assert math.isnan(rows["uniqueness"].value)
    assert rows["validity_x_uniqueness"].value == 0
    empty = by_name(validity_metrics([]))
    assert all(math.isnan(row.value) for row in empty.values())


def test_interval_of_uniqueness_covers_its_spread():
    """Draws of 300 from 1,000 kinds: the interval must hold the expected uniqueness about 95 times in 100."""
    rng = np.random.default_rng(0)
    expected = 1000 * (1 - (1 - 1 / 1000) ** 300) / 300
    covered = 0
    for _ in range(200):
        row = uniqueness("uniqueness", [str(kind) for kind in rng.integers(0, 1000, 300)], "")
        covered += row.low <= expected <= row.high
    assert covered >= 0.93 * 200


def test_novelty_counts_distinct_valid_molecules():
    row, flags = novelty(["C", "C", "O", "CC", ""], flat_smiles(["OC", "[H]O[H]"]), "two")
    assert row.value == pytest.approx(2 / 3)
    assert row.n == 3
    assert flags.tolist() == [True, True, False, True, False]
    assert math.isnan(novelty([""], {"C"}, "one")[0].value)


def test_connectedness_is_over_all_samples():
    row = connectedness(molecule_set(METHANE, TWO_WATERS, *BROKEN[3:]))
    assert (row.value, row.n) == (pytest.approx(1 / 5), 5)


def test_charges_that_perception_invents_are_counted():
    methyl_anion = Chem.AddHs(Chem.MolFromSmiles("[CH2-]C[NH3+]"))
    rows = by_name(validity_metrics([Perceived(methyl_anion, None, "x", "x"), *perceive(molecule_set(METHANE))]))
    assert rows["charge_separation"].value == pytest.approx(1 / 2)


def test_metrics_do_not_see_motion_or_order():
    samples = molecule_set(*GOOD.values(), METHYL, TWO_WATERS, METHANE)
    for other in (moved(samples, 5), samples.select(np.random.default_rng(0).permutation(len(samples)))):
        for measure in (stability_metrics, lambda s: validity_metrics(perceive(s)), lambda s: [connectedness(s)]):
            assert measure(samples) == measure(other)
        assert sorted(filter(None, edm_smiles(samples)[0])) == sorted(filter(None, edm_smiles(other)[0]))


def test_stability_rows():
    rows = by_name(stability_metrics(molecule_set(METHANE, METHYL, WATER)))
    assert rows["molecule_stability"].value == pytest.approx(2 / 3)
    assert rows["atom_stability"].value == pytest.approx(11 / 12)
    assert rows["atom_stability"].n == 12


def test_molecules_outside_the_table_are_named_not_judged():
    selane = (np.array([34, 1, 1]), np.array([[0, 0, 0], [1.46, 0, 0], [0, 1.46, 0]]))
    rows = by_name(stability_metrics(molecule_set(METHANE, selane)))
    assert (rows["molecule_stability"].value, rows["molecule_stability"].n) == (1.0, 1)
    assert "1 of 2 molecules left out, no rule for Se" in rows["molecule_stability"].rule


def test_stability_of_nothing():
    rows = stability_metrics(MoleculeSet.from_molecules([]))
    assert all(math.isnan(row.value) for row in rows)
    empty_one = by_name(stability_metrics(molecule_set((np.empty(0, int), np.empty((0, 3))))))
    assert empty_one["molecule_stability"].value == 0


@pytest.mark.parametrize(
    "smiles",
    ["c1ccccc1", "c1cc[nH]c1", "C[N+](=O)[O-]", "c1ccncc1", "CS(C)(=O)=O", "C[NH3+]", "c1ccc2ccccc2c1", "c1ccsc1"],
)
def test_sound_molecules_obey_the_corrected_valency(smiles):
    assert all(valence.correct_atoms(Chem.AddHs(Chem.MolFromSmiles(smiles))))


@pytest.mark.parametrize(("smiles", "wrong"), [("[CH3]", 1), ("C[N]C", 1), ("[CH2]", 1), ("[NH5]", 1)])
def test_radicals_and_odd_valences_do_not(smiles, wrong):
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    assert valence.correct_atoms(mol).count(False) == wrong


def test_aromatic_bonds_are_not_counted_as_single():
    """Benzene's carbons are (2 aromatic, 2 or 1 other); EDM's rule calls them unstable, this one does not."""
    samples = molecule_set(BENZENE, HCN, METHYL)
    rows, correct = valency_metrics(samples, perceive(samples))
    assert correct.tolist() == [True, True, False]
    assert by_name(rows)["valency_molecules"].value == pytest.approx(2 / 3)
    # The refused molecule's atoms all count as wrong.
    assert by_name(rows)["valency_atoms"].value == pytest.approx(15 / 19)
