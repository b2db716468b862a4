"""`molgen rewards` and `molgen score` as a user meets them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from contracts.chemistry_cases import TWO_WATERS, molecule_set

from molgen.cli import main
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.data.xyz import write_xyz

SCORE = "def score(mols):\n    print('noise')\n    return [None if m.GetNumAtoms() > 14 else 1.0 for m in mols]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    molecules = MoleculeSet.concatenate([load().select(range(4)), molecule_set(TWO_WATERS)])
    write_xyz(folder / "mine.xyz", molecules)
    molecules.save(folder / "samples.npz")
    (folder / "my_score.py").write_text(SCORE)
    return folder


def test_the_list_names_unit_needs_and_aims(capsys):
    assert main(["rewards"]) == 0
    text = capsys.readouterr().out
    assert "similarity(SMILES)" in text
    assert "gap=4.5±0.2" in text
    assert main(["rewards", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in listed["rewards"]}
    assert (rows["gap_ev"]["unit"], rows["gap_ev"]["needs"]) == ("eV", "3D, tblite")
    assert rows["gyration_radius_angstrom"]["differentiable"]
    assert rows["gap_ev"]["seconds_per_sample"] is None


def test_costs_are_measured_when_asked(capsys):
    assert main(["rewards", "--measure", "--num-molecules", "2", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    costs = {row["name"]: row["seconds_per_sample"] for row in listed["rewards"]}
    assert all(cost is not None and cost >= 0 for cost in costs.values())
    # The polarisability takes six more fields than the gap.
    assert costs["alpha_bohr3"] > costs["gap_ev"] > 0
    assert main(["rewards", "--measure", "--num-molecules", "0"]) == 2


def test_any_file_is_scored_and_every_part_is_shown(folder, capsys):
    output = folder / "scores.csv"
    arguments = ["score", str(folder / "mine.xyz"), "--reward", "gap=4.5±0.2", "--reward", "maximise qed, rings"]
    assert main([*arguments, "--reward=require valid", "--output", str(output), "--json", "--workers", "1"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert "gap_ev = 4.5 ± 0.2 eV" in captured.err
    assert list(result["columns"]) == ["gap_ev", "qed", "rings", "valid"]
    assert (result["n_molecules"], result["valid"], result["columns"]["qed"]["n"]) == (5, 4, 4)
    assert result["failures"] == {"qed: no bonds, disconnected": 1, "rings: no bonds, disconnected": 1}
    rows = list(csv.DictReader(output.open()))
    assert len(rows) == 5
    gap = np.array([float(row["gap_ev"]) for row in rows])
    np.testing.assert_allclose(gap[:4], load().properties["gap_ev"][:4], atol=2e-3)
    assert float(rows[0]["reward"]) == pytest.approx(-0.5 * ((gap[0] - 4.5) / 0.2) ** 2 + float(rows[0]["qed"]))
    assert (rows[4]["qed"], rows[4]["reward"], rows[4]["reward_valid"]) == ("", "", "False")
    assert rows[4]["failures"] == "qed: no bonds, disconnected; rings: no bonds, disconnected"


def test_a_run_is_scored_and_a_users_function_too(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["score", str(folder), "--reward", "my_score.py:score", "--cache", "scores.sqlite", "--workers", "1"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "loaded my_score.py:score from" in captured.err
    assert "unit not stated" in captured.err
    assert "maximise my_score.py:score" in captured.out
    assert "failed: 1 x my_score.py:score: None" in captured.out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"]["my_score.py:score"]["n"] == 3


def test_scores_are_told_apart_by_record_and_failures_by_what_they_said(folder, tmp_path, capsys):
    near = "2\n\nO 0 0 0\nH 0 0 0.41\n"
    (tmp_path / "some.xyz").write_text("3\n\nC 0 0 nan\nH 0 0 1\nH 0 1 0\n" + 2 * near)
    arguments = ["score", str(tmp_path / "some.xyz"), "--reward", "gap", "--workers", "1"]
    code = main([*arguments, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert [row["record"] for row in result["molecules"]] == [2, 3]
    assert code == 3
    assert result["details"] == {"gap_ev: clash": "two atoms 0.41 Angstrom apart"}
    assert main(arguments) == 3
    assert "2 x gap_ev: clash (two atoms 0.41 Angstrom apart)" in capsys.readouterr().out
    (tmp_path / "folder").mkdir()
    write_xyz(tmp_path / "folder" / "a.xyz", load().select(range(2)))
    assert main(["score", str(tmp_path / "folder"), "--reward", "rings", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["molecules"]] == ["a.xyz:1", "a.xyz:2"]
    assert (
        main(["score", str(folder / "mine.xyz"), "--reward", "rings", "--output", str(tmp_path / "no" / "a.csv")]) == 2
    )
    assert "does not exist; make it first" in capsys.readouterr().err


def test_brackets_of_names_survive_the_table(folder, capsys):
    assert main(["score", str(folder / "mine.xyz"), "--reward", "substructure([NX3,OX2])", "--workers", "1"]) == 0
    assert "substructure([NX3,OX2])" in capsys.readouterr().out.replace("\n", "")


def test_many_scores_come_in_several_tables(folder, capsys):
    names = ["valid", "stable", "atom_stability", "qed", "logp", "tpsa", "sa_score", "rings", "heavy_atoms"]
    assert main(["score", str(folder / "mine.xyz"), "--reward", ", ".join(names), "--workers", "1"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if "smiles" in line]
    assert [head.count("┃") for head in heads] == [11, 6]
    assert "sa_score" in heads[0]
    assert "heavy_atoms" in heads[1]


def test_a_yaml_file_composes_and_what_is_typed_beats_it(folder, capsys):
    config = folder / "aims.yaml"
    config.write_text("reward: ['qed=0.4±0.1', require valid]\naggregate: product\n")
    arguments = ["score", str(folder / "mine.xyz"), "--config", str(config), "--workers", "1", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["reward"].startswith("product of qed = 0.4 ± 0.1; require valid")
    assert main([*arguments, "--reward", "maximise qed", "--reward", "rings"]) == 0
    assert json.loads(capsys.readouterr().out)["reward"] == "product of maximise qed from 0 to 1; measure rings"


@pytest.mark.slow
def test_a_local_ray_gives_the_scores_of_the_pool(folder, capsys, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.chdir(folder)
    arguments = ["score", "mine.xyz", "--reward", "gap, qed", "--reward", "my_score.py:score", "--json"]
    try:
        found = []
        for workers in ("1", "ray"):
            assert main([*arguments, "--workers", workers]) == 0
            found.append(json.loads(capsys.readouterr().out))
    finally:
        ray.shutdown()
    assert found[0]["columns"]["gap_ev"]["n"] == 5
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to score; give --reward"),
        (["--reward", "gpa=4.5"], 2, "did you mean 'gap'"),
        (["--reward", "gap=4.5 meV"], 2, "gap_ev is in eV"),
        (["--reward", "maximise gap", "--aggregate", "product"], 2, "from LOW to HIGH"),
        (["--reward", "qed", "--aggregate", "produkt"], 2, "did you mean 'product'"),
        (["--reward", "qed", "--workers", "many"], 2, "expected a number from 1 on, or ray"),
        (["--reward", "qed", "--time-limit", "0"], 2, "expected more than 0"),
        (["--reward", "my.py:score"], 2, "no such file"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(folder, capsys, arguments, code, message):
    assert main(["score", str(folder / "mine.xyz"), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_where_nothing_could_be_scored_the_exit_code_says_so(folder, capsys):
    write_xyz(folder / "waters.xyz", molecule_set(TWO_WATERS))
    assert main(["score", str(folder / "waters.xyz"), "--reward", "qed", "--workers", "1"]) == 3
    assert "none of 1 molecules could be scored: qed: no bonds, disconnected" in capsys.readouterr().err
