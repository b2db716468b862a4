import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molgen.chemistry import elements
from molgen.chemistry.view3d import figure, formula_svg, traces, unbonded
from molgen.cli import main
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.data.xyz import write_xyz

BALL_VERTICES, STICK_VERTICES = 162, 20


def molecule(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


@pytest.mark.parametrize(
    ("smiles", "atoms", "sticks"), [("C", 5, 4), ("C=C", 6, 6), ("C#N", 3, 4), ("c1ccccc1", 12, 15), ("[H][H]", 2, 1)]
)
def test_every_atom_is_a_ball_and_every_bond_as_many_sticks_as_its_order(smiles, atoms, sticks):
    mesh, names = traces(molecule(smiles))
    assert len(mesh.x) == atoms * BALL_VERTICES + 2 * sticks * STICK_VERTICES
    assert max(mesh.i) < len(mesh.x)
    assert len(names.x) == atoms


def test_colours_are_those_of_the_elements():
    mesh, names = traces(molecule("O"))
    scale = [colour for _, colour in mesh.colorscale]
    assert scale == [elements.colour(1), elements.colour(8)]
    near_oxygen = np.asarray(mesh.intensity)[:BALL_VERTICES]
    assert (near_oxygen == 1).all()
    assert names.text[0] == "O (atom 1)"
    lone, _ = traces(molecule("[H][H]"))
    assert [stop for stop, _ in lone.colorscale] == [0, 1]


def test_balls_are_where_the_atoms_are_and_double_bonds_lie_in_their_plane():
    mol = molecule("C=C")
    places = mol.GetConformer().GetPositions()
    mesh, names = traces(mol)
    shown = np.stack([names.x, names.y, names.z], axis=1)
    np.testing.assert_allclose(np.ptp(shown, axis=0), np.ptp(places, axis=0), atol=1e-5)
    sticks = np.stack([mesh.x, mesh.y, mesh.z], axis=1)[6 * BALL_VERTICES :]
    *_, normal = np.linalg.svd(shown - shown.mean(axis=0))[2]
    assert np.abs(sticks @ normal - shown.mean(axis=0) @ normal).max() < 0.15


def test_charges_are_named_and_the_molecule_is_left_alone():
    mol = molecule("C[N+](C)(C)C")
    assert "N1+ (atom 2)" in traces(mol)[1].text
    ring = molecule("c1ccccc1")
    traces(ring)
    assert all(bond.GetIsAromatic() for bond in ring.GetBonds() if bond.IsInRing())
    assert figure(ring, 300).layout.height == 300
    assert "<svg" in formula_svg(ring)


def test_atoms_without_valid_bonds_are_joined_where_they_are_close():
    good = load().select([3])
    mol = unbonded(good, 0)
    assert mol is not None
    assert mol.GetNumAtoms() == good.num_atoms[0]
    assert mol.GetNumBonds() >= mol.GetNumAtoms() - 1
    assert len(traces(mol)) == 2
    numbers, positions = good[0]
    broken = MoleculeSet.from_molecules([(numbers, positions * np.nan), (numbers[:0], positions[:0])])
    assert unbonded(broken, 0) is None
    assert unbonded(broken, 1) is None


def test_the_verb_shows_a_file(tmp_path, capsys):
    molecules = load().select(range(6))
    numbers, positions = molecules[0]
    # Atoms on top of each other have no bonds; the page says so and shows the rest.
    mixed = MoleculeSet.concatenate([MoleculeSet.from_molecules([(numbers, positions * 0.7)]), molecules])
    write_xyz(tmp_path / "mine.xyz", mixed)
    page = tmp_path / "page.html"
    arguments = ["view", str(tmp_path / "mine.xyz"), "--output", str(page), "--json"]
    assert main([*arguments, "--count", "4"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["shown"], result["samples"]) == (4, 7)
    assert "no valid bonds" in page.read_text()
    assert main([*arguments, "--valid"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 6
    assert "no valid bonds" not in page.read_text()


def test_a_run_is_shown_with_its_table(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    load().select(range(3)).save(run / "samples.npz")
    rows = ["index,valid,smiles,gap_ev", "0,True,C,4.5", "1,False,,", "2,True,N,3.25"]
    (run / "samples.csv").write_text("\n".join(rows) + "\n")
    assert main(["view", str(run)]) == 0
    assert "3 samples" in capsys.readouterr().out
    page = (run / "view.html").read_text()
    assert '"gap_ev": 4.5, ' in page
    assert '"valid": true' in page
    (run / "samples.csv").write_text("index\n0\n")
    assert main(["view", str(run)]) == 0
    assert "captions without them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.sdf"], "nowhere.sdf: no such file"),
        (["FOLDER"], "holds no samples"),
        (["MINE", "--count", "0"], "got --count 0"),
        (["MINE", "--output", "a.pdf"], "ends in .html"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    write_xyz(tmp_path / "mine.xyz", load().select([0]))
    places = {"FOLDER": str(tmp_path), "MINE": str(tmp_path / "mine.xyz")}
    assert main(["view", *(places.get(word, word) for word in arguments)]) == 2
    assert message in capsys.readouterr().err
