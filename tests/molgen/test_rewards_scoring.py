"""Scores of molecules: right values, one calculation for many columns, failures that stay where they belong."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from contracts.chemistry_cases import BROKEN, GOOD, METHYL, molecule_set
from contracts.torch_free import calculate_and_look
from rdkit import Chem

from common.errors import InputError
from common.rewards import ScoreCache
from common.workers import Failure, WorkerPool
from molgen.chemistry import perception
from molgen.chemistry.descriptors import describe
from molgen.chemistry.perception import perceive
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.rewards import scoring
from molgen.rewards.calculation import GraphItem, PhysicsItem, calculate
from molgen.rewards.graph import FUNCTIONS
from molgen.rewards.physics import SINGLE_POINT, STRAIN
from molgen.rewards.scoring import MoleculeScorer
from molgen.rewards.table import REWARDS, Place, find_scorer


@pytest.fixture(scope="module")
def molecules() -> MoleculeSet:
    return load().select(range(4))


def score(molecules, *names, **options):
    scorers = [find_scorer(*name.rstrip(")").split("(")) if "(" in name else find_scorer(name) for name in names]
    with MoleculeScorer(scorers, workers=1, **options) as scorer:
        return scorer.score(molecules)


def test_the_table_is_complete_and_its_names_are_its_own():
    names = [name for s in REWARDS.values() for name in (s.name, *s.aliases)]
    assert len(set(names)) == len(names)
    rows = {place: {s.name for s in REWARDS.values() if s.place is place} for place in Place}
    assert rows[Place.GRAPH] == set(FUNCTIONS)
    assert rows[Place.PHYSICS] == {*SINGLE_POINT, STRAIN}
    assert all(s.on_set is not None for s in REWARDS.values() if s.place is Place.SET)
    assert all(s.on_states is not None and s.differentiable for s in REWARDS.values() if s.place is Place.STATE)
    for scorer in REWARDS.values():
        assert scorer.unit is not None, f"{scorer.name} states no unit"
        assert scorer.description
        assert (scorer.check is not None or scorer.resolve is not None) == bool(scorer.takes)


def test_graph_scores_are_those_of_the_descriptors(molecules):
    table = score(molecules, "qed", "logp", "tpsa", "mol_weight", "heavy_atoms")
    for i, one in enumerate(perceive(molecules, workers=1)):
        expected = describe(one.mol)
        for ours, theirs in (("mol_weight_g_mol", "mol_weight_g_mol"), ("heavy_atoms", "n_heavy_atoms")):
            assert table.values[ours][i] == pytest.approx(expected[theirs])
        for name in ("qed", "logp", "tpsa_angstrom2"):
            assert table.values[name][i] == pytest.approx(expected[name], abs=1e-6), name


def test_graph_scores_of_known_molecules():
    def graph(smiles, name, argument=""):
        return FUNCTIONS[name](Chem.MolFromSmiles(smiles), argument)

    assert graph("C1CC1CC1CCC1", "rings") == 2
    assert graph("C1CC1CC1CCC1", "strained_rings") == 2
    assert graph("c1ccccc1", "strained_rings") == 0
    assert graph("CCO", "similarity", "CCO") == 1
    assert 0 < graph("CCCO", "similarity", "CCO") < 1
    assert graph("CCO", "substructure", "[OX2H]") == 1
    assert graph("COC", "substructure", "[OX2H]") == 0
    assert 1 <= graph("CCO", "sa_score") < 2.5 < graph("C1C2C3C1N23", "sa_score") <= 10


def test_physics_scores_are_the_labels_of_the_embedded_set(molecules):
    table = score(molecules, "gap", "alpha", "mu", "homo", "lumo", "energy", "rms_force", "strain")
    for name in ("gap_ev", "alpha_bohr3", "mu_d", "homo_ev", "lumo_ev", "energy_hartree"):
        np.testing.assert_allclose(table.values[name], molecules.properties[name], atol=2e-3, err_msg=name)
    # These geometries are relaxed.
    assert (table.values["rms_force_ev_angstrom"] < 0.03).all()
    assert (np.abs(table.values["strain_kcal_mol"]) < 0.1).all()
    rng = np.random.default_rng(0)
    shaken = dataclasses.replace(
        molecules, positions=molecules.positions + 0.05 * rng.standard_normal(molecules.positions.shape, np.float32)
    )
    table = score(shaken, "rms_force", "strain")
    assert (table.values["rms_force_ev_angstrom"] > 0.5).all()
    assert (table.values["strain_kcal_mol"] > 1).all()


def test_broken_molecules_fail_where_they_must_and_nowhere_else():
    molecules = molecule_set(*GOOD.values(), *BROKEN)
    table = score(molecules, "valid", "stable", "atom_stability", "qed", "gap", "gyration_radius")
    n_good = len(GOOD)
    assert table.values["valid"].tolist() == [1] * n_good + [0] * len(BROKEN)
    assert not any(table.reasons["valid"])
    assert not np.isnan(table.values["qed"][:n_good]).any()
    assert table.reasons["qed"][n_good:] == [f"no bonds, {one.reason}" for one in perceive(molecule_set(*BROKEN))]
    # METHYL and two waters have electrons and energies though no sound bonds.
    assert np.isfinite(table.values["gap_ev"][: n_good + 2]).all()
    assert table.reasons["gap_ev"][n_good + 2 :] == ["clash", "bad geometry", "rejected by tblite", "bad geometry"]
    for name, column in table.values.items():
        assert [bool(reason) for reason in table.reasons[name]] == np.isnan(column).tolist(), name
    assert table.failures["gap_ev: bad geometry"] == 2


def test_what_occurs_again_is_not_unique():
    molecules = molecule_set(*GOOD.values(), *BROKEN)
    table = score(MoleculeSet.concatenate([molecules, molecules]), "unique")
    assert table.values["unique"].tolist() == [1] * len(GOOD) + [0] * (len(BROKEN) + len(molecules))


def test_the_total_charge_counts():
    charged = MoleculeSet.from_molecules([METHYL, METHYL], charges=[1, 0])
    table = score(charged, "energy", "valid")
    assert table.values["energy_hartree"][0] > table.values["energy_hartree"][1] + 0.2
    assert table.values["valid"].tolist() == [1, 0]


def test_no_geometry_is_scored_twice(molecules, tmp_path, monkeypatch):
    path = tmp_path / "scores.sqlite"
    twice = MoleculeSet.concatenate([molecules, molecules])
    first = score(twice, "qed", "gap", cache=ScoreCache(path=path))
    np.testing.assert_array_equal(first.values["gap_ev"][:4], first.values["gap_ev"][4:])

    def refuse(*_arguments):
        raise AssertionError("a pool was started")

    monkeypatch.setattr(scoring, "WorkerPool", refuse)
    again = score(twice, "qed", "gap", cache=ScoreCache(path=path))
    np.testing.assert_array_equal(first.values["qed"], again.values["qed"])
    with pytest.raises(AssertionError, match="a pool was started"):
        score(molecules, "logp", cache=ScoreCache(path=path))


def test_what_the_machine_may_be_at_fault_for_is_tried_again(molecules, tmp_path):
    path = tmp_path / "scores.sqlite"
    (sound,) = perceive(molecules.select([0]), workers=1)
    for reason in (f"{perception.CRASHED} (worker died exit status -9)", perception.TIME_OUT):
        with MoleculeScorer([find_scorer("qed")], 1, cache=ScoreCache(path=path)) as scorer:
            table = scorer.score(molecules.select([0]), [perception.Perceived(None, reason)])
            assert table.reasons["qed"] == [f"no bonds, {reason}"]
    with MoleculeScorer([find_scorer("qed")], 1, cache=ScoreCache(path=path)) as scorer:
        assert np.isfinite(scorer.score(molecules.select([0]), [sound]).values["qed"]).all()


def test_what_is_not_finite_says_so(molecules):
    positions = molecules.positions.copy()
    positions[0] = np.nan
    table = score(dataclasses.replace(molecules, positions=positions), "predicted_gap")
    assert table.reasons["predicted_gap_ev"] == ["coordinates not finite", *[""] * (len(molecules) - 1)]


def test_torch_and_tblite_never_share_a_process(molecules):
    (one,) = perceive(molecules.select([0]), workers=1)
    wanted = {"sa_score": ("sa_score", ""), "qed": ("qed", "")}
    items = [GraphItem(one.mol.ToBinary(), wanted), PhysicsItem(*molecules[0], 0, ("gap_ev",))]
    with WorkerPool(calculate_and_look, workers=1) as pool:
        results = dict(pool.map(items))
    assert [results[i][0] for i in (0, 1)] == [False, False]
    assert set(results[0][1]) == {"sa_score", "qed"}
    assert set(results[1][1]) == {"gap_ev"}


def test_a_scorer_that_fails_leaves_its_neighbours_alone():
    hydrogen = Chem.AddHs(Chem.MolFromSmiles("[H][H]")).ToBinary()
    names = ("sa_score", "similarity", "mol_weight_g_mol")
    scores = calculate(GraphItem(hydrogen, {name: (name, "not a SMILES") for name in names}))
    assert isinstance(scores["similarity"], Failure)
    assert scores["mol_weight_g_mol"] == pytest.approx(2.016, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("gpa", None, r"unknown reward 'gpa' \(did you mean 'gap'\?\)"),
        ("zzzzzz", None, "a function of yours is named my_score.py:score"),
        ("gap", "CCO", "takes nothing in parentheses"),
        ("similarity", None, r"similarity needs a SMILES in parentheses: similarity\(SMILES\)"),
        ("similarity", "C(", "expected a SMILES"),
        ("substructure", "[", "expected a SMARTS"),
        ("substructure", "C1=CC=CC=C1", "write aromatic rings in lower case: c1ccccc1"),
        ("absent.py:score", None, "no such file"),
    ],
)
def test_names_and_arguments_that_cannot_be_are_refused(name, argument, message):
    with pytest.raises(InputError, match=message):
        find_scorer(name, argument)


def test_scores_depend_on_argument_version_and_nothing_else():
    ethanol, propanol = find_scorer("similarity", "OCC"), find_scorer("similarity", "CCCO")
    assert ethanol.name == "similarity(CCO)"
    assert ethanol.fingerprint == find_scorer("similarity", "C(C)O").fingerprint != propanol.fingerprint
    assert "rdkit=" in ethanol.fingerprint
    with pytest.raises(InputError, match="each of them once"):
        MoleculeScorer([ethanol, ethanol])
    with pytest.raises(InputError, match="more than 0"):
        MoleculeScorer([ethanol], time_limit_s=0)
    lacking = dataclasses.replace(ethanol, packages=("no-such-package",))
    with pytest.raises(InputError, match="pip install no-such-package"):
        MoleculeScorer([lacking])


def test_an_empty_set_has_empty_columns():
    table = score(MoleculeSet.from_molecules([]), "valid", "qed", "gap", "gyration_radius")
    assert {name: column.shape for name, column in table.values.items()} == dict.fromkeys(table.values, (0,))
    assert table.failures == {}
    assert not math.isnan(len(table.values))
