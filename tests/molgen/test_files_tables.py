"""SMILES lists, CSV tables and numpy archives."""

import numpy as np
import pytest

from common.errors import InputError
from molgen.data.files import read_molecules
from molgen.data.properties import HARTREE_EV
from molgen.data.tables import write_csv


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_smiles_list(tmp_path):
    path = write(tmp_path, "a.smi", "smiles name\n# comment\nOCC ethanol drink\n\nnonsense bad\nC\nC.O\nC[NH3+]\tion\n")
    report = read_molecules(path, workers=1, seed=3)
    assert list(report.molecules.smiles) == ["CCO", "C", "C[NH3+]"]
    assert report.identifiers == ["ethanol drink", "", "ion"]
    assert list(report.indices) == [1, 3, 5]
    assert [(s.index, s.identifier) for s in report.skipped] == [(2, "bad"), (4, "")]
    assert [s.reason for s in report.skipped] == ["unreadable SMILES: nonsense", "several fragments: C.O"]
    assert list(report.molecules.num_atoms) == [9, 5, 8]
    assert report.molecules.charge(2) == 1
    again = read_molecules(path, workers=1, seed=3).molecules
    assert np.array_equal(again.positions, report.molecules.positions)


def test_list_without_any_molecule(tmp_path):
    with pytest.raises(InputError, match=r"none of its 1 records can be used; record 1 .world.: unreadable SMILES"):
        read_molecules(write(tmp_path, "a.txt", "hello world\n"), workers=1)
    with pytest.raises(InputError, match="holds no molecules"):
        read_molecules(write(tmp_path, "a.smi", "# nothing\n\n"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path, delimiter):
    rows = [
        ["ID", "Canonical_SMILES", "gap (eV)", "source", "logS", "row"],
        ["a", "CO", "4.5", "here", "-1.5", "1"],
        ["b", "C", "", "there", "n/a", "2"],
        ["c", "", "1", "x", "1", "3"],
        ["d", "C(", "1", "x", "1", "4"],
        ["e", "N", "nan", "x", "1_0"],
        ["f", "N", "1e400", "7", "2", "6"],
    ]
    path = write(tmp_path, "a.csv", "\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n\n")
    report = read_molecules(path, workers=1)
    assert report.identifiers == ["a", "b", "f"]
    columns = report.molecules.properties
    assert set(columns) == {"gap_ev", "logs", "row"}
    assert np.array_equal(columns["gap_ev"], [4.5, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(columns["logs"], [-1.5, np.nan, 2], equal_nan=True)
    assert report.missing == {"gap_ev": 2, "logs": 1}
    assert [s.reason.split(":")[0] for s in report.skipped] == [
        "no SMILES",
        "unreadable SMILES",
        "5 cells, expected 6",
    ]
    assert set(read_molecules(path, workers=1, properties=["gap"]).molecules.properties) == {"gap_ev"}


def test_csv_without_smiles_column(tmp_path):
    with pytest.raises(InputError, match="no column is called 'smiles'; columns: name, gap"):
        read_molecules(write(tmp_path, "a.csv", "name,gap\nx,1\n"))


def test_csv_row_that_is_not_utf8_or_not_csv(tmp_path):
    text = b"smiles,x\nC,1\n\xffC,2\nO,3\n" + b'"' + b"z" * 200_000 + b'",4\nN,5\n'
    report = read_molecules(write(tmp_path, "a.csv", text), workers=1)
    assert list(report.molecules.smiles) == ["C", "O", "N"]
    assert "not UTF-8" in report.skipped[0].reason
    assert "unreadable row" in report.skipped[1].reason


def test_write_csv(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, {"smiles": ["C", "O"], "gap_ev": np.array([1 / 3, np.nan]), "valid": [True, None], "n": [1, 2]})
    assert path.read_text() == f"smiles,gap_ev,valid,n\nC,{1 / 3!r},true,1\nO,,,2\n"
    with pytest.raises(InputError, match="differ in length"):
        write_csv(path, {"a": [1], "b": []})


def edm_arrays(**changes):
    arrays = {
        "num_atoms": np.array([2, 3]),
        "charges": np.array([[6, 8, 0], [8, 1, 1]]),
        "positions": np.array([[[0, 0, 0], [0, 0, 1.1], [0, 0, 0]], [[0, 0, 0], [0, 0.96, 0], [0.96, 0, 0]]]),
        "homo": np.array([-0.25, -0.3], np.float32),
        "lumo": np.array([0.05, 0.1], np.float32),
        "alpha": np.array([25.11, 6.31], np.float32),
        "U0": np.array([-113.3, -76.4]),
        "U0_thermo": np.array([-1.0, -2.0]),
        "index": np.array([7, 3]),
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def test_edm_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", **edm_arrays())
    report = read_molecules(tmp_path / "a.npz")
    molecules = report.molecules
    assert list(molecules.numbers) == [6, 8, 8, 1, 1]
    assert list(report.indices) == [7, 3]
    assert molecules.properties["homo_ev"].tolist() == [-0.25 * HARTREE_EV, -0.3 * HARTREE_EV]
    assert molecules.properties["gap_ev"].tolist() == pytest.approx([0.3 * HARTREE_EV, 0.4 * HARTREE_EV])
    assert molecules.properties["alpha_bohr3"].tolist() == [25.11, 6.31]
    assert molecules.properties["u0_hartree"].tolist() == [-113.3, -76.4]
    assert molecules.properties["u0_thermo"].tolist() == [-1, -2]
    assert "index" not in molecules.properties
    narrowed = read_molecules(tmp_path / "a.npz", properties=["gap", "alpha"], max_atoms=2)
    assert list(narrowed.molecules.properties) == ["gap_ev", "alpha_bohr3"]
    assert [tuple(s) for s in narrowed.skipped] == [(3, "", "3 atoms, more than max_atoms = 2")]
    with pytest.raises(InputError, match="no numeric property 'mu'"):
        read_molecules(tmp_path / "a.npz", properties=["mu"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"homo": np.array([-6.9, -7.1])}, "'homo' cannot be in Hartree"),
        ({"num_atoms": np.array([2, 2])}, "does not agree"),
        ({"num_atoms": np.array([2])}, "do not fit"),
        ({"charges": np.array([[6, 300, 0], [-8, 1, 1]])}, "none of its 2 molecules can be used; record 7: atom 2 is"),
        ({"charges": None}, "holds .*; expected numbers"),
        ({"smiles": np.array(["C"])}, "smiles must be an array of 2"),
        ({"num_atoms": np.array([0, 0]), "charges": np.zeros((2, 3), int)}, "none of its 2 molecules can be used"),
        ({"smiles": np.array([{}, {}], dtype=object)}, "pickle"),
    ],
)
def test_edm_arrays_that_do_not_fit(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **edm_arrays(**changes))
    with pytest.raises(InputError, match=message) as error:
        read_molecules(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_damaged_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **edm_arrays(mu=np.random.default_rng(0).normal(size=2)))
    whole = (tmp_path / "a.npz").read_bytes()
    for damaged in (b"", b"no archive", whole[:200], whole[:100] + bytes(200) + whole[300:]):
        with pytest.raises(InputError):
            read_molecules(write(tmp_path, "b.npz", damaged))
