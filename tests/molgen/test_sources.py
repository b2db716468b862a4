"""Named data sets: QM9 in all its layouts, GEOM-Drugs, splits, and the summary of a set."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from molgen.data.files import read_molecules
from molgen.data.geom import load_geom
from molgen.data.inspect import summarise
from molgen.data.molecules import MoleculeSet
from molgen.data.properties import HARTREE_EV
from molgen.data.qm9 import NUM_MOLECULES, NUM_TEST, edm_halves, edm_split, load_qm9, split_of_test_part
from molgen.data.sdf import write_sdf
from molgen.data.sources import SOURCES, find_source, load_data, split_data
from molgen.data.splits import split

QM9_13K = Path(__file__).parents[2].parent / "shared" / "data" / "qm9" / "qm9_13k.npz"
needs_qm9 = pytest.mark.skipif(not QM9_13K.exists(), reason="the shared QM9 test molecules are not here")

# The first file of QM9 (CC0), methane, as its authors publish it.
METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t\
-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
METHANE_VALUES = {
    "mu_d": 0.0,
    "alpha_bohr3": 13.21,
    "homo_ev": -0.3877 * HARTREE_EV,
    "lumo_ev": 0.1171 * HARTREE_EV,
    "gap_ev": 0.5048 * HARTREE_EV,
    "r2_bohr2": 35.3641,
    "zpve_ev": 0.044749 * HARTREE_EV,
    "u0_hartree": -40.47893,
    "u_hartree": -40.476062,
    "h_hartree": -40.475117,
    "g_hartree": -40.498597,
    "cv_cal_mol_k": 6.469,
}
UNCHARACTERISED = "#####\nHeading text\n Index  SMILES\n#####\n" + "\n" * 5
TABLE_HEADING = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom,u298_atom,h298_atom,g298_atom"
TABLE_COLUMNS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")


def close(molecules, expected, rel=1e-6):
    assert set(molecules.properties) >= set(expected)
    for name, values in expected.items():
        assert molecules.properties[name] == pytest.approx(values, rel=rel), name


def test_authors_xyz_files(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dsgdb9nsd_000001.xyz").write_text(METHANE)
    exponents = METHANE.replace("gdb 1\t", "gdb 3\t").replace("0.0002765748", "2.765748*^-4")
    (raw / "dsgdb9nsd_000003.xyz").write_text(exponents)
    (raw / "dsgdb9nsd_000002.xyz").write_text(METHANE.replace("gdb 1\t", "gdb 2\t"))
    (raw / "dsgdb9nsd_000004.xyz").write_text(METHANE.replace("gdb 1\t", "gdb 4\t").replace("C\t-0.01", "Q\t-0.01"))
    (raw / "dsgdb9nsd_000005.xyz").write_text(METHANE)
    (tmp_path / "uncharacterized.txt").write_text(UNCHARACTERISED + "    2   C   C\n\n#####\n")
    report = load_qm9(tmp_path)
    assert list(report.indices) == [1, 3]
    assert report.identifiers == ["gdb_1", "gdb_3"]
    assert list(report.molecules.smiles) == ["C", "C"]
    assert np.array_equal(report.molecules[0][1], report.molecules[1][1])
    assert report.molecules[0][1][2].tolist() == pytest.approx([1.0117308433, 1.4637511618, 0.0002765748])
    close(report.molecules.select([0]), METHANE_VALUES)
    assert [s.index for s in report.skipped] == [4, 5]
    assert any("instead of QM9's 133885" in line for line in report.warnings)


def raw_folder(folder, ids=(1, 2, 3)):
    """DeepChem's layout, of methane; gdb 2 is uncharacterised."""
    folder.mkdir(parents=True)
    xyz = folder / "methane.xyz"
    xyz.write_text("5\n\n" + "\n".join(line.rsplit("\t", 1)[0] for line in METHANE.split("\n")[2:7]) + "\n")
    methane = read_molecules(xyz).molecules
    xyz.unlink()
    write_sdf(folder / "gdb9.sdf", methane.select([0] * len(ids)), names=[f"gdb_{i}" for i in ids])
    numbers = METHANE.split("\n")[1].split()[2:]
    rows = [",".join([f"gdb_{i}", *numbers, "-1", "-1", "-1", "-1"]) for i in ids]
    (folder / "gdb9.sdf.csv").write_text("\n".join([TABLE_HEADING, *rows, ""]))
    (folder / "uncharacterized.txt").write_text(UNCHARACTERISED + "    2   C   C\n\n#####\n")
    return folder


@pytest.mark.parametrize("place", ["qm9", "qm9/raw"])
def test_deepchem_raw_files(tmp_path, place):
    raw_folder(tmp_path / place)
    report = load_data("qm9", data_folder=tmp_path)
    assert list(report.indices) == [1, 3]
    close(report.molecules.select([0]), METHANE_VALUES)
    close(report.molecules.select([1]), METHANE_VALUES)
    narrow = load_data("qm9", data_folder=tmp_path, properties=["gap"], max_atoms=9)
    assert list(narrow.molecules.properties) == ["gap_ev"]
    with pytest.raises(InputError, match="more than 4 atoms"):
        load_data("qm9", data_folder=tmp_path, max_atoms=4)


@pytest.mark.slow
def test_torch_geometric_reads_the_same_values(tmp_path):
    """torch-geometric's own loader processes the raw files; what it writes must read as the raw files do."""
    datasets = pytest.importorskip("torch_geometric.datasets")
    raw = raw_folder(tmp_path / "raw")
    # Its parser counts lines: nine before the list, and two after it.
    head = "".join(f"# {i}\n" for i in range(9))
    (raw / "uncharacterized.txt").write_text(head + "    2   C\n# end\n")
    bonded(raw / "gdb9.sdf")
    theirs = datasets.QM9(str(tmp_path))
    assert len(theirs) == 2
    ours = load_qm9(tmp_path)
    (raw / "gdb9.sdf").unlink()
    report = load_qm9(tmp_path)
    assert list(report.indices) == list(ours.indices) == [1, 3]
    assert np.array_equal(report.molecules.numbers, ours.molecules.numbers)
    assert np.allclose(report.molecules.positions, ours.molecules.positions)
    assert np.allclose(report.molecules.positions, np.concatenate([d.pos.numpy() for d in theirs]))
    assert list(report.molecules.smiles) == list(ours.molecules.smiles) == ["C", "C"]
    close(report.molecules.select([0]), METHANE_VALUES)
    assert float(theirs[0].y[0, 4]) == pytest.approx(METHANE_VALUES["gap_ev"])
    assert float(theirs[0].y[0, 7]) == pytest.approx(METHANE_VALUES["u0_hartree"] * HARTREE_EV)


def bonded(path):
    """Give the methanes of an SDF their bonds."""
    text = path.read_text().replace("  5  0  0", "  5  4  0")
    bonds = "".join(f"  1  {k}  1  0\n" for k in range(2, 6))
    path.write_text(text.replace("M  END", bonds + "M  END").replace(" 15  0", "  0  0"))


@needs_qm9
def test_raw_files_and_edm_arrays_agree_on_real_molecules(tmp_path):
    """Real molecules written as the raw files have them (Hartree) read as EDM's arrays of them do."""
    with np.load(QM9_13K) as file:
        arrays = {key: file[key][:40] for key in file.files}
    folder = tmp_path / "edm"
    folder.mkdir()
    for name, part in (("train", slice(0, 20)), ("valid", slice(30, 40)), ("test", slice(20, 30))):
        np.savez(folder / f"{name}.npz", **{key: values[part] for key, values in arrays.items()})
    edm = load_qm9(folder)
    assert np.all(np.diff(edm.indices) > 0)
    raw = tmp_path / "raw"
    raw.mkdir()
    symbols = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
    for k, gdb in enumerate(arrays["index"]):
        n = arrays["num_atoms"][k]
        values = "\t".join(str(arrays[key][k]) for key in TABLE_COLUMNS)
        atoms = zip(arrays["charges"][k, :n], arrays["positions"][k, :n], strict=True)
        rows = "".join(f"{symbols[z]}\t{x}\t{y}\t{w}\t0.0\n" for z, (x, y, w) in atoms)
        text = f"{n}\ngdb {gdb}\t1\t1\t1\t{values}\t\n{rows}1.0\t2.0\nC\tC\t\nInChI\tInChI\n"
        (raw / f"dsgdb9nsd_{gdb:06d}.xyz").write_text(text)
    (raw / "uncharacterized.txt").write_text(UNCHARACTERISED + " 133000 x\n")
    ours = load_qm9(raw)
    assert list(ours.indices) == list(edm.indices) == list(arrays["index"])
    assert np.allclose(ours.molecules.positions, edm.molecules.positions, atol=1e-6)
    close(ours.molecules, {name: edm.molecules.properties[name] for name in METHANE_VALUES})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: (raw / "uncharacterized.txt").unlink(), "uncharacterized.txt: no such file"),
        (lambda raw: (raw / "uncharacterized.txt").write_text("<html>\n"), "does not list gdb ids"),
        (lambda raw: (raw / "gdb9.sdf.csv").unlink(), "gdb9.sdf.csv: no such file"),
        (lambda raw: (raw / "gdb9.sdf.csv").write_text("smiles,gap\nC,1\n"), "expected mol_id"),
        (lambda raw: (raw / "gdb9.sdf.csv").write_text(f"{TABLE_HEADING}\ngdb_1,x\n"), "unreadable row"),
        (lambda raw: (raw / "gdb9.sdf.csv").write_text(TABLE_HEADING + "\n"), "has no row gdb_1"),
        (lambda raw: (raw / "gdb9.sdf").unlink(), "no QM9 here"),
        (lambda raw: (raw / "gdb9.sdf").write_text((raw / "gdb9.sdf").read_text().replace("gdb_1\n", "gdb_7\n")),
         "record 1 is gdb_7"),
    ],
)  # fmt: skip
def test_raw_files_that_do_not_fit(tmp_path, damage, message):
    raw = raw_folder(tmp_path / "raw")
    damage(raw)
    with pytest.raises(InputError, match=message):
        load_qm9(tmp_path)


def test_processed_file_that_is_a_pickle_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "processed").mkdir()
    path = tmp_path / "processed" / "data_v3.pt"
    torch.save(({"y": Path("/")}, {}, Path), path)
    with pytest.raises(InputError, match="not the file that torch_geometric"):
        load_qm9(tmp_path)
    path.write_bytes(b"\x80\x04junk")
    with pytest.raises(InputError, match="not the file"):
        load_qm9(tmp_path)


def test_edm_split():
    parts = edm_split()
    assert [len(parts[name]) for name in ("train", "val", "test")] == [100_000, 17_748, 13_083]
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(NUM_MOLECULES))
    judge, generator = edm_halves(parts["train"])
    assert len(judge) == len(generator) == 50_000
    assert not set(judge.tolist()) & set(generator.tolist())
    with pytest.raises(InputError, match="use a split by seed"):
        edm_split(1000)


@needs_qm9
def test_edm_split_is_the_published_one():
    """The gdb ids of the published test part: an id less its rank is the number of molecules excluded before it."""
    with np.load(QM9_13K) as file:
        ids = file["index"].astype(int)
    excluded_before = ids - 1 - edm_split()["test"]
    assert np.all(np.diff(excluded_before) >= 0)
    assert excluded_before[0] == 0
    assert 3000 < excluded_before[-1] <= 3054


def geom_molecules(n=7):
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 6, n)
    return [(rng.integers(1, 9, k), np.arange(3 * k).reshape(k, 3) + rng.uniform(-0.2, 0.2, (k, 3))) for k in sizes]


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 1000])
def test_geom_array(tmp_path, monkeypatch, rows_at_a_time):
    monkeypatch.setattr("molgen.data.geom._ROWS", rows_at_a_time)
    molecules = geom_molecules()
    rows = [np.column_stack([np.full(len(z), i), z, x]) for i, (z, x) in enumerate(molecules)]
    np.save(tmp_path / "geom_drugs_30.npy", np.vstack(rows))
    got = load_geom(tmp_path).molecules
    expected = MoleculeSet.from_molecules(molecules)
    assert np.array_equal(got.numbers, expected.numbers)
    assert np.array_equal(got.offsets, expected.offsets)
    assert np.array_equal(got.positions, expected.positions)
    assert len(load_geom(tmp_path, limit=3).molecules) == 3


def test_geom_msgpack(tmp_path):
    msgpack = pytest.importorskip("msgpack")
    molecules = geom_molecules(4)
    xyz = [np.column_stack([z, x]).tolist() for z, x in molecules]
    chunks = [
        {
            "C[NH3+]": {
                "charge": 1,
                "conformers": [
                    {"xyz": xyz[0], "totalenergy": -1.0},
                    {"xyz": xyz[1], "totalenergy": -2.0},
                    {"xyz": xyz[2], "totalenergy": -3.0},
                ],
            },
            "broken": {"conformers": [{"xyz": [[1, 2], [3]], "totalenergy": 0.0}]},
        },
        {"CCO": {"conformers": [{"xyz": xyz[3], "totalenergy": -5.0}]}},
    ]
    data = b"".join(msgpack.packb(chunk) for chunk in chunks)
    path = tmp_path / "drugs_crude.msgpack"
    path.write_bytes(data)
    report = load_geom(tmp_path, num_conformers=2)
    assert list(report.molecules.smiles) == ["C[NH3+]", "C[NH3+]", "CCO"]
    assert report.molecules.properties["energy_hartree"].tolist() == [-3, -2, -5]
    assert list(report.molecules.charges) == [1, 1, 0]
    assert np.array_equal(report.molecules[0][0], molecules[2][0])
    assert np.allclose(report.molecules[0][1], molecules[2][1])
    assert [s.index for s in report.skipped] == [3]
    assert list(report.indices) == [1, 2, 4]
    path.write_bytes(data[:-10])
    with pytest.raises(InputError, match="cut off or damaged after 4 conformers"):
        load_geom(tmp_path, num_conformers=3)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="not GEOM's msgpack file"):
        load_geom(tmp_path)


def test_geom_refusals(tmp_path):
    with pytest.raises(InputError, match="no GEOM-Drugs here"):
        load_geom(tmp_path)
    (tmp_path / "drugs").mkdir()
    (tmp_path / "drugs" / "a.pickle").write_bytes(b"")
    with pytest.raises(InputError, match="pickles, which could run code"):
        load_geom(tmp_path)
    np.save(tmp_path / "geom_drugs_30.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"\(3, 4\).*expected \(atoms, 5\)"):
        load_geom(tmp_path)
    np.save(tmp_path / "geom_drugs_30.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="not a numpy array of numbers"):
        load_geom(tmp_path)


def hydrogens(n, smiles=None):
    pair = (np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.74]]))
    return MoleculeSet.from_molecules([pair] * n, smiles=smiles)


def test_split_by_seed():
    molecules = hydrogens(1000)
    parts = split(molecules, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 800, "val": 100, "test": 100}
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1000))
    assert all(np.array_equal(parts[name], split(molecules, seed=1)[name]) for name in parts)
    assert not np.array_equal(parts["test"], split(molecules, seed=2)["test"])


def test_split_keeps_duplicates_together():
    rng = np.random.default_rng(0)
    smiles = [f"C{k}" if k else "" for k in rng.integers(0, 60, 500)]
    parts = split(hydrogens(500, smiles), seed=0)
    seen = [{smiles[i] for i in part} - {""} for part in parts.values()]
    assert sum(len(part) for part in seen) == len(set.union(*seen))
    assert sum(len(part) for part in parts.values()) == 500
    assert 350 < len(parts["train"]) < 450


def test_split_of_few_and_bad_fractions():
    assert sorted(len(part) for part in split(hydrogens(3)).values()) == [1, 1, 1]
    with pytest.raises(InputError, match="2 different molecules cannot be split into 3 parts"):
        split(hydrogens(2))
    with pytest.raises(InputError, match="must sum to 1"):
        split(hydrogens(9), fractions={"train": 0.5, "test": 0.4})


def test_names_and_paths(tmp_path):
    with pytest.raises(InputError, match="did you mean 'qm9'"):
        find_source("qm")
    with pytest.raises(InputError, match="did you mean 'geom-drugs'"):
        load_data("geom-drug", data_folder=tmp_path)
    with pytest.raises(InputError, match="no QM9 here"):
        load_data("qm9", data_folder=tmp_path)
    (tmp_path / "a.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n" * 20)
    report = load_data(tmp_path / "a.xyz")
    assert len(report.molecules) == 20
    assert len(split_data(tmp_path / "a.xyz", report.molecules)["train"]) == 16
    assert len(split_data("qm9", report.molecules)["train"]) == 16


def test_halves_of_the_training_part_share_no_molecule():
    molecules = load_data("gdb7-xtb").molecules
    whole = split_data("gdb7-xtb", molecules)
    a, b = (split_data("gdb7-xtb", molecules, half=half) for half in "ab")
    assert np.array_equal(np.sort(np.concatenate([a["train"], b["train"]])), whole["train"])
    assert abs(len(a["train"]) - len(b["train"])) < 100
    assert not set(molecules.smiles[a["train"]]) & set(molecules.smiles[b["train"]])
    assert np.array_equal(b["val"], whole["val"])


@pytest.mark.parametrize(
    ("name", "count", "train"),
    [
        ("qm9", NUM_MOLECULES, edm_split()["train"]),
        ("qm9-test", NUM_TEST, split_of_test_part()["train"]),
    ],
)
def test_halves_of_qm9_are_those_of_edm(name, count, train):
    atoms = MoleculeSet(np.ones(count, np.uint8), np.zeros((count, 3), np.float32), np.arange(count + 1))
    for half, expected in zip("ab", edm_halves(train), strict=True):
        assert np.array_equal(split_data(name, atoms, half=half)["train"], np.sort(expected))


def test_every_source_is_documented():
    readme = (Path(__file__).parents[2] / "data" / "README.md").read_text()
    for source in SOURCES.values():
        assert f"`{source.name}`" in readme
        assert source.licence
        assert all(name in readme for name in source.files.replace(",", " ").split() if name.endswith((".sdf", ".csv")))


def test_summary():
    pairs = [
        (np.array([8, 1, 1]), np.array([[0, 0, 0], [0, 0.96, 0], [0.96, 0, 0]])),
        (np.array([6, 8]), np.array([[0, 0, 0], [0, 0, 1.2]])),
        (np.array([6, 8]), np.array([[0, 0, 0], [0, 0, 4.0]])),
    ]
    summary = summarise(
        MoleculeSet.from_molecules(
            pairs, {"gap_ev": [1, np.nan, 4], "odd": [np.nan] * 3}, ["O", "[C-]#[O+]", ""], [0, 0, 1]
        )
    )
    assert dict(summary.elements) == {"O": 3, "H": 2, "C": 2}
    assert dict(summary.molecules_with) == {"O": 3, "H": 1, "C": 2}
    assert dict(summary.atom_counts) == {2: 2, 3: 1}
    assert dict(summary.heavy_atom_counts) == {1: 1, 2: 2}
    assert (summary.num_smiles, summary.num_unique_smiles, summary.num_charged) == (2, 2, 1)
    assert summary.num_without_hydrogen == 2
    assert summary.extent_angstrom == pytest.approx(2.0)
    gap, odd = summary.properties
    assert (gap.unit, gap.count, gap.missing, gap.mean, gap.maximum) == ("eV", 2, 1, 2.5, 4)
    assert (odd.count, odd.missing) == (0, 3)
    assert np.isnan(odd.mean)
    assert "gap_ev" in json.dumps(summary.to_dict())
    assert any("  2        2" in line for line in summary.lines())
    assert summarise(hydrogens(0)).num_molecules == 0
