import dataclasses

import numpy as np
import pytest

from common.errors import InputError
from molgen.data.molecules import MoleculeSet


def make(count: int, seed: int = 0, **extra) -> MoleculeSet:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, count)
    return MoleculeSet.from_molecules([(rng.integers(1, 10, n), rng.normal(size=(n, 3))) for n in sizes], **extra)


def test_select_keeps_order_and_everything_that_belongs_to_a_molecule():
    molecules = make(6, properties={"gap_ev": range(6)}, smiles=list("abcdef"), charges=[0, 1, -1, 0, 2, 0])
    chosen = molecules.select([4, 0, 4])
    assert chosen.properties["gap_ev"].tolist() == [4, 0, 4]
    assert chosen.smiles.tolist() == ["e", "a", "e"]
    assert [chosen.charge(i) for i in range(3)] == [2, 0, 2]
    for i, source in enumerate((4, 0, 4)):
        for found, expected in zip(chosen[i], molecules[source], strict=True):
            np.testing.assert_array_equal(found, expected)
    assert len(molecules.select(np.array([], dtype=int))) == 0
    assert len(molecules.select(molecules.num_atoms > 4)) == (molecules.num_atoms > 4).sum()


def test_save_and_load(tmp_path):
    molecules = make(5, properties={"gap_ev": [1, 2, np.nan, 4, 5]}, smiles=["C", "", "CC", "O", "N"])
    molecules.save(tmp_path / "set.npz")
    back = MoleculeSet.load(tmp_path / "set.npz")
    np.testing.assert_array_equal(back.numbers, molecules.numbers)
    np.testing.assert_allclose(back.positions, molecules.positions, atol=6e-5)
    np.testing.assert_array_equal(back.properties["gap_ev"], molecules.properties["gap_ev"])
    assert back.smiles.tolist() == molecules.smiles.tolist()
    assert back.digest() == molecules.digest()


def test_what_is_no_coordinate_stays_none(tmp_path):
    molecules = make(3)
    positions = molecules.positions.copy()
    positions[0], positions[1], positions[2, 1], positions[3, 2] = np.nan, np.inf, -1e9, 2.0e5
    broken = dataclasses.replace(molecules, positions=positions)
    broken.save(tmp_path / "set.npz")
    back = MoleculeSet.load(tmp_path / "set.npz")
    assert np.isnan(back.positions[:2]).all()
    assert np.isnan(back.positions[2]).tolist() == [False, True, False]
    assert back.positions[3, 2] == pytest.approx(2.0e5)
    np.testing.assert_allclose(back.positions[4:], positions[4:], atol=6e-5)
    assert back.digest() == broken.digest() != molecules.digest()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("text.npz", "foreign.npz", "pickled.npy"):
        with pytest.raises(InputError, match="not a molecule set"):
            MoleculeSet.load(tmp_path / name)


def test_concatenate_fills_missing_properties():
    both = MoleculeSet.concatenate([make(2, properties={"a": [1, 2]}), make(3, 1, smiles=["x", "y", "z"])])
    assert len(both) == 5
    assert both.smiles.tolist() == ["", "", "x", "y", "z"]
    np.testing.assert_array_equal(both.properties["a"], [1, 2, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(
    "broken", [{"positions": np.zeros((3, 3))}, {"offsets": np.array([0, 3])}, {"properties": {"a": np.zeros(2)}}]
)
def test_inconsistent_arrays_are_refused(broken):
    fields = {"numbers": np.ones(2, np.uint8), "positions": np.zeros((2, 3)), "offsets": np.array([0, 2])}
    with pytest.raises(InputError):
        MoleculeSet(**{**fields, **broken})
