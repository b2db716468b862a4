import json
import math

import pytest
from contracts.chemistry_cases import BROKEN, ETHYLENE, GOOD, METHANE, METHYL, QM9, WATER, molecule_set, padded_file

from common.errors import InputError
from molgen.chemistry.perception import perceive
from molgen.data.molecules import MoleculeSet
from molgen.metrics import posebusters
from molgen.metrics.reference import Reference
from molgen.metrics.report import evaluate


def test_every_sample_has_a_row_and_the_metrics_agree_with_the_rows():
    samples = molecule_set(*GOOD.values(), METHANE, *BROKEN)
    result = evaluate(samples, molecule_set(METHANE, ETHYLENE))
    assert len(result.rows) == len(result.perceived) == len(samples)
    assert [row["index"] for row in result.rows] == list(range(len(samples)))
    assert result["validity"].value == pytest.approx(sum(row["valid"] for row in result.rows) / len(samples))
    covered = [row["edm_stable"] for row in result.rows if row["edm_stable"] is not None]
    assert result["molecule_stability"].value == pytest.approx(sum(covered) / len(covered))
    assert result["edm_validity"].value == pytest.approx(sum(row["edm_valid"] for row in result.rows) / len(samples))
    assert result["connectedness"].value == pytest.approx(
        sum(row["fragments"] == 1 for row in result.rows) / len(samples)
    )
    assert sum(result.reasons.values()) == sum(not row["valid"] for row in result.rows)
    assert result["novelty"].value == pytest.approx(3 / 5)
    assert [row["novel"] for row in result.rows][:6] == [False, True, False, True, True, False]
    assert all(row["novel"] is None for row in result.rows[6:])
    names = [metric.name for metric in result.metrics]
    assert len(names) == len(set(names))
    json.dumps(result.as_json(), allow_nan=False)
    json.dumps(result.rows, allow_nan=False)


def test_without_a_reference_it_says_what_is_missing():
    result = evaluate(molecule_set(METHANE))
    assert set(result.omitted) == {"novelty", "distances", "posebusters"}
    assert math.isnan(result.value("novelty"))
    with pytest.raises(KeyError):
        result["novelty"]


def test_known_smiles_alone_allow_novelty():
    result = evaluate(molecule_set(METHANE, WATER), known_smiles=["[H]O[H]"])
    assert result["novelty"].value == pytest.approx(0.5)
    assert "distances" in result.omitted


def test_nothing_in_undefined_out():
    result = evaluate(MoleculeSet.from_molecules([]), molecule_set(METHANE), posebusters=5)
    assert result.rows == ()
    assert all(math.isnan(metric.value) for metric in result.metrics)


def test_only_broken_samples():
    result = evaluate(molecule_set(*BROKEN), molecule_set(METHANE), posebusters=5)
    assert result["validity"].value == 0
    assert result["posebusters"].value == 0
    assert math.isnan(result["uniqueness"].value)
    assert math.isnan(result["bond_length_w1_angstrom"].value)


def test_a_reference_is_prepared_once():
    molecules = MoleculeSet.from_molecules([METHANE, WATER], smiles=["C", "CCO"])
    reference = Reference.from_molecules(molecules)
    assert reference.smiles == {"C", "O", "CCO"}
    assert reference.with_smiles(["C(N)"]).smiles == {"C", "O", "CCO", "CN"}
    samples = molecule_set(METHANE, ETHYLENE)
    assert evaluate(samples, reference).metrics == evaluate(samples, molecules).metrics


def test_the_same_seed_gives_the_same_report():
    molecules, _ = padded_file(QM9)
    samples, reference = molecules.select(range(100)), molecules.select(range(100, 200))
    first, second = (evaluate(samples, reference, seed=1).as_json() for _ in range(2))
    assert first == second
    value = {row["name"]: row["value"] for row in first["metrics"]}
    assert value["validity"] > 0.97
    assert value["novelty"] > 0.97


@pytest.mark.slow
def test_posebusters_passes_ethanol_and_fails_what_was_not_perceived():
    pytest.importorskip("posebusters")
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    ethanol = [atom.GetAtomicNum() for atom in mol.GetAtoms()], mol.GetConformer().GetPositions()
    perceived = perceive(molecule_set(ethanol, METHYL))
    rows, passed = posebusters.posebusters_metrics(perceived, limit=10, workers=1)
    assert passed == {0: True, 1: False}
    assert (rows[0].value, rows[0].n) == (0.5, 2)
    assert {row.name for row in rows} >= {"posebusters[bond_lengths]", "posebusters[internal_energy]"}


def test_posebusters_absent_is_an_omission_or_one_line(monkeypatch):
    monkeypatch.setattr(posebusters, "installed_version", lambda: None)
    with pytest.raises(InputError, match="not installed"):
        posebusters.posebusters_metrics([], limit=1)
    monkeypatch.setattr("molgen.metrics.report.installed_version", lambda: None)
    assert "not installed" in evaluate(molecule_set(METHANE), posebusters=1).omitted["posebusters"]
