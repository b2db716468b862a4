"""`molgen train-predictor` as a user meets it, and what the trained predictor is good for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.predictors.evaluation import Labels, require_enough
from molgen.cli import main
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.data.sources import split_data
from molgen.data.xyz import write_xyz
from molgen.predictors import load_predictor
from molgen.train_predictor import comparable

SMALL = ["--settings", "{hidden_nf: 16, n_layers: 1, n_radial: 8}", "--batch-size", "16", "--measure-every", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set of 200 molecules with a property that counts atoms and is missing for some, and one that has one value."""
    folder = tmp_path_factory.mktemp("predictor")
    molecules = load().select(np.arange(0, 12000, 60))
    count = molecules.num_atoms.astype(np.float64)
    properties = {"size": np.where(np.arange(200) % 9 == 0, np.nan, count), "same": np.ones(200)}
    properties["gap_ev"] = molecules.properties["gap_ev"]
    named = MoleculeSet(molecules.numbers, molecules.positions, molecules.offsets, properties, molecules.smiles)
    named.save(folder / "mine.npz")
    return folder


def train(folder: Path, *arguments: str) -> int:
    return main(["train-predictor", "--data", str(folder / "mine.npz"), "--device", "cpu", *SMALL, *arguments])


def test_a_predictor_of_ones_own_column_is_trained_resumed_and_used_as_a_reward(folder, capsys):
    run = folder / "run"
    request = ["--property", "size", "--output-dir", str(run)]
    assert train(folder, *request, "--steps", "5") == 0
    out = capsys.readouterr().out
    assert "held-out errors" in out
    assert "published" not in out
    assert train(folder, *request, "--steps", "80", "--resume", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["training"]["steps"] == 80
    measured = found["quality"]["size"]
    # The composition alone tells the number of atoms.
    assert measured["mae"] < 0.2 * measured["constant_mae"]
    assert 0 <= measured["coverage_error"] <= 1
    assert found["quality"] == json.loads((run / "model" / "model.json").read_text())["quality"]
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 1

    molecules = load().select(range(20, 26))
    write_xyz(folder / "some.xyz", molecules)
    reward = f"predicted_size({run})"
    assert main(["score", str(folder / "some.xyz"), "--reward", f"{reward}=60±1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "outside the training data, which range from" in captured.err
    predicted = json.loads(captured.out)["molecules"]
    values = [row[reward] for row in predicted]
    assert values == pytest.approx(molecules.num_atoms.tolist(), abs=2.5)


def test_the_equivariant_architecture_trains_on_one_half(folder, capsys):
    run = folder / "e3nn"
    settings = ["--settings", "{scalars: 8, vectors: 2, tensors: 2, n_layers: 1}"]
    arguments = ["--property", "gap", "--architecture", "e3nn", "--half", "b", "--steps", "3"]
    assert train(folder, *arguments, *settings, "--output-dir", str(run)) == 0
    assert "molecules" in (err := capsys.readouterr().err)
    assert "80 molecules" in err
    description = load_predictor(run).description
    assert (description["network"]["name"], description["half"]) == ("e3nn", "b")


def test_the_same_seed_gives_the_same_predictor(folder):
    weights = []
    for name in ("first", "second"):
        assert train(folder, "--property", "gap", "--steps", "4", "--output-dir", str(folder / name)) == 0
        weights.append(load_predictor(folder / name).network.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_parts_are_those_of_everybody_and_hold_only_what_can_be_known(folder, caplog):
    """Whoever leaves large molecules out, or asks again, splits the same data in the same way."""
    molecules = load().select(np.arange(0, 12000, 60))
    places = split_data("mine.npz", molecules)
    parts = {name: molecules.select(indices) for name, indices in places.items()}
    small = comparable(parts, max_atoms=14)
    assert all(0 < len(small[name]) < len(parts[name]) for name in parts)
    assert all((part.num_atoms <= 14).all() for part in small.values())
    strange = MoleculeSet.concatenate([parts["test"], MoleculeSet.from_molecules([([35, 1], np.eye(2, 3) * 1.4)])])
    assert len(comparable({**parts, "test": strange})["test"]) == len(parts["test"])
    assert "1 molecules of the test part have elements that the training part lacks" in caplog.text


def test_published_numbers_stand_beside_ours_where_the_data_are_theirs():
    from molgen.cli.train_predictor import published_errors

    assert published_errors("gdb7-xtb") == {}
    found = published_errors("qm9")
    assert len(found) == 6
    assert (found["gap_ev"], found["alpha_bohr3"]) == pytest.approx((0.064, 0.10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to predict; give --property"),
        (["--property", "sise"], "no numeric property 'sise'; found: gap_ev, same, size"),
        (["--property", "same"], "all of them the same; expected at least 10 that differ"),
        (["--property", "size", "--architecture", "e3n"], "did you mean 'e3nn'?"),
        (["--property", "size", "--half", "c"], "expected one of all, a, b"),
        (["--property", "size", "--steps", "0"], "got --steps 0, expected at least 1"),
        (["--property", "size", "--settings", "{hiden_nf: 3}"], "did you mean 'hidden_nf'?"),
        (["--property", "size", "--noise", "{types: 0.1, coords: 1}"], "did you mean 'coordinates'?"),
        (["--property", "size", "--noise", "{types: -1}"], "expected 0 or more"),
        (["--property", "size", "--optimiser", "{name: sgd}"], "expected one of adamw, muon"),
    ],
)
def test_bad_requests_are_one_line_and_leave_no_folder(folder, capsys, arguments, message):
    run = folder / "refused"
    assert train(folder, "--output-dir", str(run), *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not run.exists()


def test_too_few_labels_to_calibrate_are_refused_before_the_work():
    from common.errors import InputError

    few = {"val": Labels(np.ones((9, 1))), "test": Labels(np.ones((9, 1)))}
    with pytest.raises(InputError, match="size has 9 values in the val part"):
        require_enough(["size"], few)
