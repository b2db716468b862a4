"""SDF in and out: round trips, and every way in which a record can be broken."""

import gzip
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from common.errors import InputError
from molgen.data.files import read_molecules
from molgen.data.molecules import MoleculeSet
from molgen.data.sdf import NO_HYDROGENS, read_sdf, write_sdf

SMILES = ["CCO", "c1ccncc1", "C[N+](=O)[O-]", "N#Cc1ccco1"]


@pytest.fixture(scope="module")
def mols():
    made = []
    for smiles in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        made.append(mol)
    return made


def as_set(mols, **properties):
    pairs = [([a.GetAtomicNum() for a in mol.GetAtoms()], mol.GetConformer().GetPositions()) for mol in mols]
    return MoleculeSet.from_molecules(pairs, properties)


def record(atoms, name="x", header="     RDKit          3D", bonds=(), tags=""):
    lines = [name, header, "", f"{len(atoms):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"{x:>10}{y:>10}{z:>10} {e:<3} 0  0  0  0  0  0  0  0  0  0  0  0" for e, x, y, z in atoms]
    lines += [f"{i:3d}{j:3d}{k:3d}  0" for i, j, k in bonds]
    return "\n".join([*lines, "M  END", tags.rstrip("\n"), "$$$$", ""]).replace("\n\n$$$$", "\n$$$$")


WATER = record(
    [("O", "0.0000", "0.0000", "0.1173"), ("H", "0.0000", "0.7572", "-0.4692"), ("H", "0.0000", "-0.7572", "-0.4692")],
    "water",
    bonds=[(1, 2, 1), (1, 3, 1)],
)


def read(tmp_path, text, name="a.sdf", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_molecules(path, **options)


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz"])
def test_round_trip_with_bonds(tmp_path, mols, suffix):
    molecules = as_set(mols, gap_ev=[4.1, np.nan, 1 / 3, -2e-12], steps=[1, 2, 3, 4])
    path = tmp_path / "a.sdf"
    write_sdf(path, molecules, mols, names=["a", "b", "c", "d"])
    if suffix == ".sdf.gz":
        (tmp_path / "a.sdf.gz").write_bytes(gzip.compress(path.read_bytes()))
    report = read_molecules(tmp_path / f"a{suffix}")
    got = report.molecules
    assert np.array_equal(got.numbers, molecules.numbers)
    assert np.abs(got.positions - molecules.positions).max() < 1e-4
    assert list(got.smiles) == [Chem.CanonSmiles(s) for s in SMILES]
    assert np.array_equal(got.properties["gap_ev"], molecules.properties["gap_ev"], equal_nan=True)
    assert list(got.properties["steps"]) == [1, 2, 3, 4]
    assert report.missing == {"gap_ev": 1}
    assert report.identifiers == ["a", "b", "c", "d"]
    assert set(got.properties) == {"gap_ev", "steps"}


def test_other_readers_see_what_was_written(tmp_path, mols):
    write_sdf(tmp_path / "a.sdf", as_set(mols), [mols[0], None, mols[2], mols[3]], ["", "time-out", "", ""])
    seen = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf"), removeHs=False))
    assert [mol is None for mol in seen] == [False] * 4
    assert [mol.GetProp("bonds") for mol in seen] == ["perceived", "failed: time-out", "perceived", "perceived"]
    assert seen[1].GetNumBonds() == 0
    assert seen[1].GetNumAtoms() == mols[1].GetNumAtoms()
    assert not any(atom.GetTotalNumHs() for atom in seen[1].GetAtoms())


def test_a_sample_without_bonds_comes_back_without_smiles(tmp_path, mols):
    molecules = as_set(mols)
    write_sdf(tmp_path / "a.sdf", molecules)
    report = read_molecules(tmp_path / "a.sdf")
    assert np.array_equal(report.molecules.numbers, molecules.numbers)
    assert report.molecules.smiles is None
    assert report.warnings == []


def test_smiles_keep_no_hydrogen_that_marks_a_configuration(tmp_path):
    mol = Chem.AddHs(Chem.MolFromSmiles("C/C=N/[H]"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    write_sdf(tmp_path / "a.sdf", as_set([mol]), [mol])
    assert list(read_molecules(tmp_path / "a.sdf").molecules.smiles) == ["CC=N"]


def test_charge_of_an_ion(tmp_path):
    mol = Chem.AddHs(Chem.MolFromSmiles("C[NH3+]"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    write_sdf(tmp_path / "a.sdf", as_set([mol]), [mol])
    assert read_molecules(tmp_path / "a.sdf").molecules.charge(0) == 1


def test_charge_of_what_has_no_bonds(tmp_path):
    ion = MoleculeSet.from_molecules([([7, 1, 1, 1, 1], np.arange(15.0).reshape(5, 3))], charges=[1])
    write_sdf(tmp_path / "a.sdf", ion)
    back = read_molecules(tmp_path / "a.sdf").molecules
    assert (back.charge(0), back.num_atoms.tolist()) == (1, [5])


def test_v3000(tmp_path, mols):
    text = "".join(Chem.MolToV3KMolBlock(mol) + "$$$$\n" for mol in mols)
    assert list(read(tmp_path, text).molecules.smiles) == [Chem.CanonSmiles(s) for s in SMILES]


def test_values_that_could_break_the_format(tmp_path, mols):
    hostile = ["$$$$", "> <gap_ev>", "two\n\nlines", ""]
    write_sdf(tmp_path / "a.sdf", as_set(mols), mols, properties={"note": hostile, "gap_ev": [1.0, 2.0, 3.0, 4.0]})
    report = read_molecules(tmp_path / "a.sdf")
    assert len(report.molecules) == 4
    assert list(report.molecules.properties["gap_ev"]) == [1, 2, 3, 4]


def test_tag_that_sdf_cannot_hold(tmp_path, mols):
    with pytest.raises(InputError, match="'gap eV' cannot be an SDF tag"):
        write_sdf(tmp_path / "a.sdf", as_set(mols), properties={"gap eV": [0.0] * 4})
    assert not list(tmp_path.iterdir())


def test_more_mols_than_molecules(tmp_path, mols):
    with pytest.raises(InputError, match="mols: 3 values for 4 molecules"):
        write_sdf(tmp_path / "a.sdf", as_set(mols), mols[:3])


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("$$$$\n", "record is empty"),
        ("only\na\n$$$$\n", "ends before its counts line"),
        ("n\n\n\n  x  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n", "counts line is unreadable"),
        (record([]), "no atoms"),
        (WATER.replace("M  END\n", ""), "ends after|cut off"),
        ("n\n\n\n  3  0  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.0000 O   0  0\nM  END\n$$$$\n",
         "ends after 1 of 3 atoms"),
        (WATER.replace("0.1173", "   nan"), "atom 1 has a coordinate that is not a finite number"),
        (WATER.replace("0.1173", "  zero"), "atom 1 has unreadable coordinates"),
        (WATER.replace("O ", "Xx"), "atom 1 is the unknown element 'Xx'"),
        (WATER.replace("O ", "* "), "atom 1 is a dummy atom"),
        (WATER.replace("O ", "R "), "atom 1 is a dummy atom"),
        (WATER.replace("-0.7572", " 0.7572"), "atoms 2 and 3 are 0.00 Angstrom apart"),
        (WATER.replace("  1  3  1", "  1  9  1"), "bonds"),
        (WATER.replace("water", "wat\udcffer"), "not UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_record_is_skipped_named_and_explained(tmp_path, broken, reason):
    text = (WATER + broken + WATER).encode("utf-8", "surrogateescape")
    report = read(tmp_path, text)
    assert len(report.molecules) == 2
    assert list(report.indices) == [1, 3]
    [skipped] = report.skipped
    assert skipped.index == 2
    assert re.search(reason, skipped.reason), skipped.reason
    assert "\n" not in skipped.reason
    with pytest.raises(InputError, match=r"none of its 2 records can be used; record 1.*") as error:
        read(tmp_path, (broken + broken).encode("utf-8", "surrogateescape"))
    assert "\n" not in str(error.value)


def test_last_record_without_delimiter(tmp_path):
    assert len(read(tmp_path, WATER + WATER.removesuffix("$$$$\n")).molecules) == 2
    report = read(tmp_path, WATER + WATER[:120])
    assert [s.index for s in report.skipped] == [2]


def test_windows_line_ends(tmp_path):
    report = read(tmp_path, (WATER * 2).replace("\n", "\r\n"))
    assert list(report.molecules.smiles) == ["O", "O"]


def test_max_atoms(tmp_path, mols):
    write_sdf(tmp_path / "a.sdf", as_set(mols), mols)
    report = read_molecules(tmp_path / "a.sdf", max_atoms=9)
    assert list(report.molecules.num_atoms) == [9, 7]
    assert [s.reason for s in report.skipped] == [
        "11 atoms, more than max_atoms = 9",
        "10 atoms, more than max_atoms = 9",
    ]


def test_record_past_the_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("molgen.data.sdf.MAX_RECORD_BYTES", 2000)
    long = WATER.replace("$$$$", ">  <x>\n" + "1\n" * 2000 + "$$$$")
    report = read(tmp_path, WATER + long + WATER)
    assert [(s.index, s.reason) for s in report.skipped] == [(2, "record is larger than 2000 bytes")]


def test_tags_become_columns(tmp_path):
    tags = ">  <Gap (eV)>  (1)\n4.5\n\n> <gap>\n0.2\n\n>  <note>\nnice\n\n>  <yield>\n{}\n\n>  <1st>\n3\n"
    text = WATER.replace("$$$$", tags.format("80") + "$$$$") + WATER.replace("$$$$", tags.format("n/a") + "$$$$")
    report = read(tmp_path, text)
    assert set(report.molecules.properties) == {"gap_ev", "gap", "yield", "property_1st"}
    assert report.missing == {"yield": 1}
    assert any("'gap' carries no unit" in line and "gap_ev" in line for line in report.warnings)
    assert set(read(tmp_path, text, properties=["gap_ev"]).molecules.properties) == {"gap_ev"}
    with pytest.raises(InputError, match="no numeric property 'alpha'; found: gap, gap_ev"):
        read(tmp_path, text, properties=["alpha"])


def methane(header, z):
    corners = [(0.63, 0.63, z), (-0.63, -0.63, z), (-0.63, 0.63, -z), (0.63, -0.63, -z)]
    atoms = [("C", "0.0000", "0.0000", "0.0000")] + [("H", *(f"{v:.4f}" for v in corner)) for corner in corners]
    return record(atoms, header=header, bonds=[(1, k, 1) for k in range(2, 6)])


BENZENE_FLAT = [(f"{1.39 * np.cos(a):.4f}", f"{1.39 * np.sin(a):.4f}", "0.0000") for a in np.arange(6) * np.pi / 3]


@pytest.mark.parametrize("header", ["     RDKit          2D", "", "     RDKit          3D"])
def test_a_drawing_is_refused_or_embedded(tmp_path, header):
    text = WATER + methane(header, 0.0)
    report = read(tmp_path, text)
    assert [s.index for s in report.skipped] == [2]
    assert "embed_2d" in report.skipped[0].reason
    embedded = read(tmp_path, text, embed_2d=True, workers=1)
    assert not embedded.skipped
    assert list(embedded.molecules.smiles) == ["O", "C"]
    numbers, positions = embedded.molecules[1]
    assert np.allclose(np.linalg.norm(positions[1:] - positions[0], axis=1), 1.09, atol=0.03)
    assert list(numbers) == [6, 1, 1, 1, 1]


def test_geometry_with_depth_is_no_drawing_whatever_its_header_says(tmp_path):
    assert len(read(tmp_path, methane("     RDKit          2D", 0.63)).molecules) == 1


def test_a_flat_molecule_declared_3d_is_kept_and_counted_as_bare(tmp_path):
    bonds = [(i + 1, (i + 1) % 6 + 1, 1 + i % 2) for i in range(6)]
    report = read(tmp_path, record([("C", *p) for p in BENZENE_FLAT], bonds=bonds))
    assert list(report.molecules.smiles) == ["c1ccccc1"]
    assert report.warnings == [f"1 {NO_HYDROGENS}"]


def test_bonds_that_cannot_be_sanitised_leave_the_geometry(tmp_path):
    atoms = [("F", "0.0000", "0.0000", "0.1000")] + [("H", f"{x}", f"{y}", "0.5000") for x, y in ((0.9, 0), (-0.9, 0))]
    report = read(tmp_path, WATER + record(atoms, bonds=[(1, 2, 1), (1, 3, 1)]))
    assert list(report.molecules.smiles) == ["O", ""]
    assert "cannot sanitise" in report.warnings[0]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_damage_makes_the_reader_raise(seed):
    rng = np.random.default_rng(seed)
    text = list(WATER + WATER)
    for place in rng.integers(0, len(text), rng.integers(1, 8)):
        text[place] = rng.choice(
            ["", "9", " ", "-", "\n", "X", "V3000", "\udcff", "\x01", "M  END\n", "$$$$\n", "M  CHG  1   1  99\n"]
        )
    for item in read_sdf("".join(text).split("\n"), embed_2d=True):
        assert item.index >= 1
