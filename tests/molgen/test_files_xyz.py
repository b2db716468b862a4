"""XYZ and extended XYZ in and out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from molgen.data.files import read_molecules
from molgen.data.molecules import MoleculeSet
from molgen.data.streams import read_lines
from molgen.data.xyz import PERIODIC, read_xyz, write_xyz

WATER = "3\n{}\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


def read(tmp_path, text, **options):
    path = tmp_path / "a.xyz"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_molecules(path, **options)


def random_set(rng, sizes):
    # On a lattice of 1 Angstrom with some noise no two atoms come too close.
    molecules = []
    for n in sizes:
        cells = rng.permutation(125)[:n]
        grid = np.stack([cells // 25, cells // 5 % 5, cells % 5], axis=1)
        molecules.append((rng.integers(1, 119, n), grid + rng.uniform(-0.2, 0.2, (n, 3))))
    values = rng.normal(size=len(sizes)) * 10.0 ** rng.integers(-8, 8, len(sizes))
    values[rng.random(len(sizes)) < 0.3] = np.nan
    return MoleculeSet.from_molecules(
        molecules,
        {"gap_ev": values, "energy_hartree": rng.normal(size=len(sizes))},
        smiles=[f"C{i}=#[N+]" for i in range(len(sizes))],
        charges=rng.integers(-3, 4, len(sizes)),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_xyz_and_npz_give_back_what_they_were_given(tmp_path_factory, seed, sizes):
    folder = tmp_path_factory.mktemp("round")
    molecules = random_set(np.random.default_rng(seed), sizes)
    write_xyz(folder / "a.xyz", molecules)
    molecules.save(folder / "a.npz")
    for name, tolerance in (("a.xyz", 1e-6), ("a.npz", 6e-5)):
        got = read_molecules(folder / name).molecules
        assert np.array_equal(got.numbers, molecules.numbers)
        assert np.array_equal(got.offsets, molecules.offsets)
        assert np.abs(got.positions - molecules.positions).max() < tolerance
        assert list(got.smiles) == list(molecules.smiles)
        assert [got.charge(i) for i in range(len(got))] == list(molecules.charges)
        for column in got.properties:
            assert np.array_equal(got.properties[column], molecules.properties[column], equal_nan=True)


def test_plain_xyz_takes_the_comment_as_name(tmp_path):
    report = read(tmp_path, WATER.format("water 1") + "\n" + WATER.format("") + "\n\n")
    assert report.identifiers == ["water 1", ""]
    assert list(report.molecules.numbers) == [8, 1, 1] * 2
    assert report.molecules.properties == {}


def test_atomic_numbers_instead_of_symbols(tmp_path):
    assert list(read(tmp_path, "2\n\n6 0 0 0\n8\t0 0 1.13\n").molecules.numbers) == [6, 8]


def test_keys_of_the_comment_line(tmp_path):
    comment = (
        'Properties=species:S:1:forces:R:3:pos:R:3 gap_ev=4.5 energy=-76.4 name="my water" smiles=O charge=0 '
        'flag=T dipole="1 2 3" text=abc bad=inf'
    )
    rows = "O 9 9 9 0 0 0.1173\nH 9 9 9 0 0.7572 -0.4692\nH 9 9 9 0 -0.7572 -0.4692\n"
    report = read(tmp_path, f"3\n{comment}\n{rows}")
    assert {k: float(v[0]) for k, v in report.molecules.properties.items()} == {"gap_ev": 4.5, "energy": -76.4}
    assert report.identifiers == ["my water"]
    assert list(report.molecules.smiles) == ["O"]
    assert report.molecules.positions[0].tolist() == pytest.approx([0, 0, 0.1173])
    assert any("'energy' carries no unit" in line for line in report.warnings)


def test_texts_of_the_comment_line_stay_texts_and_smiles_are_canonical(tmp_path):
    frames = [
        'name=000123 smiles=F', 'name="1e5" smiles="OCC"', r"name='a b' smiles=C/C=C\C", 'smiles="no SMILES"'
    ]  # fmt: skip
    report = read(tmp_path, "".join(WATER.format(f"Properties=species:S:1:pos:R:3 {frame}") for frame in frames))
    assert report.identifiers == ["000123", "1e5", "a b", ""]
    assert list(report.molecules.smiles) == ["F", "CCO", "CC=CC", "no SMILES"]
    assert not report.molecules.properties


def test_periodic_frames_are_counted(tmp_path):
    report = read(tmp_path, WATER.format('Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"'))
    assert report.warnings == [f"1 {PERIODIC}"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("3\nlost one\nO 0 0 0\nH 0 0 1\n", "malformed frame"),
        ("2\n\nO 0 0 0\nH 0 0\n", "malformed frame"),
        ("2\n\nO 0 0 0\nH 0 0 x\n", "malformed frame"),
        ("2\n\nO 0 0 0\nHh 0 0 1\n", "unknown element 'Hh'"),
        ("2\n\nO 0 0 0\nX 0 0 1\n", "atom 2 is a dummy atom"),
        ("2\n\nO 0 0 0\nH 0 0 nan\n", "atom 2 has a coordinate that is not a finite number"),
        ("2\n\nO 0 0 0\nH 0 0 inf\n", "atom 2 has a coordinate that is not a finite number"),
        ("2\n\nO 0 0 0\nH 0 0 0.1\n", "atoms 1 and 2 are 0.10 Angstrom apart"),
        ("2\n\nO 0 0 0\nH 0 0 1e9\n", "beyond 100,000 Angstrom"),
        ("2\nProperties=nonsense\nO 0 0 0\nH 0 0 1\n", "malformed frame"),
        ("2\nProperties=species:S:1\nO\nH\n", "Angstrom apart"),
        ("1\ncharge=nan\nO 0 0 0\n", "charge nan is not a whole number"),
        ("1\ncharge=0.5\nO 0 0 0\n", "charge 0.5 is not a whole number"),
        ("1\ncharge=999\nO 0 0 0\n", "total charge 999"),
        ("1\nProperties=Z:I:1:pos:R:3\n300 0 0 0\n", "atom 1 is a dummy atom"),
        ("0\n\n", "no atoms"),
        ("three\n\nO 0 0 0\n", "expected a number of atoms, got 'three'"),
        ("999999999\n\nO 0 0 0\n", "at most 100000 are read"),
        (b"1\nna\xffme\nO 0 0 0\n", "not UTF-8"),
    ],
)
def test_a_broken_frame_is_skipped_and_the_next_one_found(tmp_path, broken, reason):
    broken = broken if isinstance(broken, bytes) else broken.encode()
    good = WATER.format("good").encode()
    report = read(tmp_path, good + broken + good)
    assert len(report.molecules) == 2
    [skipped] = report.skipped
    assert skipped.index == 2
    assert reason in skipped.reason
    assert "\n" not in skipped.reason
    with pytest.raises(InputError, match="can be used; record 1"):
        read(tmp_path, broken)


def test_file_that_ends_inside_a_frame(tmp_path):
    report = read(tmp_path, WATER.format("") + WATER.format("")[:-30])
    assert len(report.molecules) == 1
    assert report.skipped[0].reason.startswith(("file ends after", "malformed"))


def test_lengths_must_agree(tmp_path):
    molecules = random_set(np.random.default_rng(0), [2, 3])
    with pytest.raises(InputError, match="'gap_ev': 1 values for 2 molecules"):
        write_xyz(tmp_path / "a.xyz", molecules, {"gap_ev": [1.0]})


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123CHOX.= \"'{}[]-e\nProperties:SR\udcff\\"), max_size=120), st.booleans())
def test_no_text_makes_the_reader_raise(text, framed):
    text = f"1\n{text}\nC 0 0 0\n" if framed else text
    for item in read_xyz(text.split("\n")):
        assert item.index >= 1


def test_lines_are_streamed(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(WATER.format("") * 3)
    lines = read_lines(path)
    assert next(lines) == "3"
    assert next(read_xyz(lines)).index == 1
