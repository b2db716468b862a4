"""The shipped set and the pipeline that builds it."""

import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem

from common.errors import InputError
from common.workers import Failure, WorkerPool
from molgen.data import gdb7_xtb
from molgen.data.enumeration import MAX_HEAVY_ATOMS, broken_rule, heavy_atoms
from molgen.data.molecules import MoleculeSet

COLUMNS = ["mu_d", "alpha_bohr3", "homo_ev", "lumo_ev", "gap_ev", "energy_hartree"]
SMILES = ["CCO", "C#N", "c1cc[nH]c1", "O=CC1CC1", "C1=C2CC1C2", "CC(F)C", "NC=O", "C", "CCOC", "C1CO1"]


def properties(item):
    """In a worker: tblite must not share a process with torch."""
    from molgen.chemistry.xtb import properties as oracle

    return oracle(*item)


@pytest.fixture(scope="module")
def shipped() -> MoleculeSet:
    return gdb7_xtb.load()


def test_shipped_set_is_large_whole_and_of_our_chemistry(shipped: MoleculeSet):
    assert len(shipped) >= 10_000
    assert list(shipped.properties) == COLUMNS
    assert all(np.isfinite(values).all() for values in shipped.properties.values())
    assert np.isfinite(shipped.positions).all()
    assert set(np.unique(shipped.numbers)) == {1, 6, 7, 8, 9}
    assert len(set(shipped.smiles)) == len(shipped)
    assert max(heavy_atoms(text) for text in shipped.smiles) == MAX_HEAVY_ATOMS
    assert np.mean(["F" in text for text in shipped.smiles]) <= 0.15
    np.testing.assert_allclose(
        shipped.properties["gap_ev"], shipped.properties["lumo_ev"] - shipped.properties["homo_ev"], atol=1e-9
    )
    assert (shipped.properties["alpha_bohr3"] > 0).all()


def test_shipped_smiles_are_canonical_and_pass_the_rules(shipped: MoleculeSet):
    for index in range(0, len(shipped), 97):
        molecule = Chem.MolFromSmiles(shipped.smiles[index])
        assert Chem.MolToSmiles(molecule) == shipped.smiles[index]
        assert broken_rule(molecule) is None


def test_shipped_bonds_are_those_of_the_smiles(shipped: MoleculeSet):
    for index in range(0, len(shipped), 97):
        numbers, positions = shipped[index]
        molecule = Chem.AddHs(Chem.MolFromSmiles(shipped.smiles[index]))
        bonds = sorted(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in molecule.GetBonds())
        assert [atom.GetAtomicNum() for atom in molecule.GetAtoms()] == numbers.tolist()
        assert gdb7_xtb.bonds_by_distance(numbers, positions).tolist() == bonds


def test_oracle_gives_the_shipped_labels_back(shipped: MoleculeSet):
    indices = np.random.default_rng(0).choice(len(shipped), 5, replace=False)
    with WorkerPool(properties, workers=1) as pool:
        results = dict(pool.map([shipped[i] for i in indices]))
    for position, index in enumerate(indices):
        for column, values in shipped.properties.items():
            assert results[position][column] == pytest.approx(values[index], abs=1e-6), (shipped.smiles[index], column)


def test_any_slice_is_a_fair_sample(shipped: MoleculeSet):
    first, second = np.array_split(shipped.properties["gap_ev"], 2)
    assert abs(first.mean() - second.mean()) < 4 * shipped.properties["gap_ev"].std() / np.sqrt(len(first) / 2)


def test_split_is_disjoint_complete_and_fixed():
    parts = gdb7_xtb.split(1003)
    assert [len(part) for part in parts] == [802, 100, 101]
    assert sorted(np.concatenate(parts)) == list(range(1003))
    assert parts[0][:3].tolist() == np.random.default_rng(0).permutation(1003)[:3].tolist()
    assert gdb7_xtb.split(1003, seed=1)[0][:5].tolist() != parts[0][:5].tolist()


def test_bonds_by_distance_sees_a_broken_bond():
    numbers = np.array([6, 6])
    near, far = np.array([[0.0, 0, 0], [1.54, 0, 0]]), np.array([[0.0, 0, 0], [2.2, 0, 0]])
    assert gdb7_xtb.bonds_by_distance(numbers, near).tolist() == [[0, 1]]
    assert gdb7_xtb.bonds_by_distance(numbers, far).tolist() == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An uninterrupted build of a few molecules, one of which cannot be embedded."""
    directory = tmp_path_factory.mktemp("built")
    molecules, report = gdb7_xtb.build(directory, seed=3, workers=2, smiles=SMILES, chunk_size=4)
    return directory, molecules, report


def test_build_keeps_the_order_and_counts_failures(built):
    directory, molecules, report = built
    assert molecules.smiles.tolist() == [text for text in SMILES if text != "C1=C2CC1C2"]
    assert report.failures == Counter({"no embedding": 1})
    assert report.failed == [("C1=C2CC1C2", "no embedding")]
    assert (report.candidates, report.done, report.kept) == (10, 10, 9)
    assert json.loads((directory / "report.json").read_text())["kept"] == 9
    assert (directory / "gdb7_xtb.npz").exists()


def test_interrupted_and_resumed_equals_uninterrupted(built, tmp_path):
    directory, molecules, _ = built

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gdb7_xtb.build(tmp_path, seed=3, workers=1, smiles=SMILES, chunk_size=4, progress=interrupt)
    finished = list((tmp_path / "chunks").glob("*.json"))
    assert len(finished) == 1
    before = finished[0].stat().st_mtime_ns
    resumed, report = gdb7_xtb.build(tmp_path, seed=3, workers=2, smiles=SMILES, chunk_size=4)
    assert finished[0].stat().st_mtime_ns == before
    assert report.done == 10
    np.testing.assert_array_equal(resumed.numbers, molecules.numbers)
    np.testing.assert_array_equal(resumed.positions, molecules.positions)
    np.testing.assert_array_equal(resumed.smiles, molecules.smiles)
    for column in COLUMNS:
        np.testing.assert_array_equal(resumed.properties[column], molecules.properties[column])
    assert (tmp_path / "gdb7_xtb.npz").read_bytes() == (directory / "gdb7_xtb.npz").read_bytes()


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(built, tmp_path):
    directory, _, _ = built
    script = (
        "from molgen.data import gdb7_xtb; "
        f"gdb7_xtb.build({str(tmp_path)!r}, seed=3, workers=1, smiles={SMILES!r}, chunk_size=4)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 200
    while not list((tmp_path / "chunks").glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list((tmp_path / "chunks").glob("*.json"))
    gdb7_xtb.build(tmp_path, seed=3, workers=2, smiles=SMILES, chunk_size=4)
    assert (tmp_path / "gdb7_xtb.npz").read_bytes() == (directory / "gdb7_xtb.npz").read_bytes()


def test_a_finished_build_is_not_done_again(built):
    directory, molecules, _ = built
    calls = []
    again, _ = gdb7_xtb.build(directory, seed=3, smiles=SMILES, chunk_size=4, progress=calls.append)
    assert calls == []
    np.testing.assert_array_equal(again.positions, molecules.positions)


def test_stored_positions_are_those_that_were_labelled(built):
    directory, molecules, _ = built
    stored = MoleculeSet.load(directory / "gdb7_xtb.npz")
    with WorkerPool(properties, workers=1) as pool:
        labels = dict(pool.map([stored[0]]))[0]
    assert labels == {column: values[0] for column, values in molecules.properties.items()}


def test_another_plan_in_the_same_directory_is_refused(built):
    directory, _, _ = built
    with pytest.raises(InputError, match="another build \\(seed: 3, now 4\\)"):
        gdb7_xtb.build(directory, seed=4, smiles=SMILES, chunk_size=4)


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(InputError, match="none of 1 molecules survived"):
        gdb7_xtb.build(tmp_path, workers=1, smiles=["C1=C2CC1C2"])


def test_a_worker_that_dies_costs_one_molecule(tmp_path, monkeypatch):
    monkeypatch.setattr(gdb7_xtb, "make_molecule", die_on_water)
    molecules, report = gdb7_xtb.build(tmp_path, workers=1, smiles=["C", "O", "CC"])
    assert molecules.smiles.tolist() == ["C", "CC"]
    assert report.failures == Counter({"worker died": 1})


def die_on_water(item):
    """In a worker: one molecule that kills it."""
    import os

    if item[0] == "O":
        os._exit(1)
    return np.array([6], np.uint8), np.zeros((1, 3), np.float32), dict.fromkeys(COLUMNS, 1.0)


def test_make_molecule_reports_reasons():
    with WorkerPool(gdb7_xtb.make_molecule, workers=1) as pool:
        results = dict(pool.map([("not a molecule", 0), ("C.C", 0), ("O", 0)]))
    assert results[0] == Failure("unreadable SMILES", results[0].detail)
    assert results[1].reason == "several fragments"
    numbers, positions, values = results[2]
    assert numbers.tolist() == [8, 1, 1]
    assert positions.dtype == np.float32
    assert list(values) == COLUMNS


def test_data_card_counts_what_is_there(built):
    _, molecules, report = built
    card = gdb7_xtb.data_card(molecules, report)
    assert "9 small organic molecules" in card
    assert "| failed: no embedding | 1 |" in card
    assert "| F | 1 | 11.1% | 1 |" in card
    for column in COLUMNS:
        assert f"| {column} | {molecules.properties[column].mean():.3f} |" in card
