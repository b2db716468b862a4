import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from common.errors import InputError
from molgen.chemistry.order import bonded_order
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet


def embed(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return np.array([a.GetAtomicNum() for a in mol.GetAtoms()]), mol.GetConformer().GetPositions()


def shuffled(molecules: MoleculeSet, seed: int) -> MoleculeSet:
    rng = np.random.default_rng(seed)
    spans = zip(molecules.offsets[:-1], molecules.offsets[1:], strict=True)
    return molecules.reorder(np.concatenate([start + rng.permutation(stop - start) for start, stop in spans]))


@pytest.fixture
def molecules() -> MoleculeSet:
    return MoleculeSet.from_molecules([embed(s) for s in ("CCO", "OC1CC1N", "C#CC(=O)F", "c1ccoc1", "C")])


def test_hydrogens_follow_their_heavy_atom(molecules):
    ordered = molecules.reorder(bonded_order(molecules))
    assert ordered[0][0].tolist() == [6, 1, 1, 1, 6, 1, 1, 8, 1]
    for numbers, positions in ordered:
        for i in np.flatnonzero(numbers == 1):
            parent = np.flatnonzero(numbers[:i] != 1)[-1]
            assert np.linalg.norm(positions[i] - positions[parent]) < 1.2


def test_order_of_the_input_plays_no_part(molecules):
    expected = molecules.reorder(bonded_order(molecules))
    for seed in range(5):
        mixed = shuffled(molecules, seed)
        found = mixed.reorder(bonded_order(mixed))
        np.testing.assert_array_equal(found.numbers, expected.numbers)
        np.testing.assert_array_equal(found.offsets, expected.offsets)


def test_every_atom_once_and_in_its_molecule(molecules):
    order = bonded_order(molecules)
    owner = np.repeat(np.arange(len(molecules)), molecules.num_atoms)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
    np.testing.assert_array_equal(owner[order], owner)


def test_odd_molecules_have_an_order():
    far = np.arange(3)[:, None] * np.array([[50.0, 0, 0]])
    odd = MoleculeSet.from_molecules(
        [(np.array([1, 1]), np.eye(2, 3)), (np.array([1, 6, 8]), far), (np.array([1]), np.zeros((1, 3)))]
    )
    order = bonded_order(odd)
    assert sorted(order.tolist()) == list(range(6))
    assert order[:2].tolist() == [0, 1]
    assert odd.reorder(order)[1][0].tolist() in ([6, 1, 8], [8, 6, 1])
    assert bonded_order(MoleculeSet.from_molecules([])).tolist() == []


def test_codec_arranges_only_when_asked(molecules):
    elements = (1, 6, 7, 8, 9)
    assert MoleculeCodec(elements).arrange(molecules) is molecules
    arranged = MoleculeCodec(elements, order="bonded").arrange(molecules)
    assert arranged[0][0].tolist() == [6, 1, 1, 1, 6, 1, 1, 8, 1]
    with pytest.raises(InputError, match="got order 'sorted', expected one of given, bonded"):
        MoleculeCodec(elements, order="sorted")
