"""SMILES to 3D: deterministic, right atoms and bonds, a reason for each failure."""

import numpy as np
import pytest
from rdkit import Chem

from common.errors import InputError
from common.workers import Failure
from molgen.chemistry.conformers import Conformer, ConformerError, embed, embed_many, seed_of


def test_atoms_bonds_and_geometry():
    ethanol = embed("OCC")
    assert ethanol.smiles == "CCO"
    assert ethanol.numbers.tolist() == [6, 6, 8] + [1] * 6
    assert ethanol.bonds.tolist()[:2] == [[0, 1], [0, 3]]
    assert len(ethanol.bonds) == 8
    assert ethanol.charge == 0
    lengths = np.linalg.norm(np.diff(ethanol.positions[ethanol.bonds], axis=1)[:, 0], axis=1)
    assert lengths.min() > 0.9
    assert lengths.max() < 1.6
    np.testing.assert_allclose(ethanol.positions.mean(axis=0), 0, atol=1e-12)


def test_same_seed_same_coordinates_however_written():
    first, second = embed("CC(=O)NCCO", seed=5), embed("OCCNC(C)=O", seed=5)
    np.testing.assert_array_equal(first.positions, second.positions)
    assert not np.array_equal(first.positions, embed("CC(=O)NCCO", seed=6).positions)


def test_seed_is_stable():
    assert seed_of("CCO", 0) == 2036824805
    assert 0 <= seed_of("CCO", 1) < 2**31


def test_more_conformers_never_raise_the_energy():
    from rdkit.Chem import rdForceFieldHelpers

    def energy(conformer: Conformer) -> float:
        molecule = Chem.AddHs(Chem.MolFromSmiles(conformer.smiles))
        space = Chem.Conformer(len(conformer.numbers))
        space.SetPositions(conformer.positions)
        molecule.AddConformer(space)
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
        return rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, parameters).CalcEnergy()

    assert energy(embed("OCCCCCO", 0, 8)) <= energy(embed("OCCCCCO", 0, 1)) + 1e-9


def test_charge_and_marked_stereo_are_kept():
    assert embed("C[NH3+]").charge == 1
    assert embed("F/C=C\\F").smiles == Chem.CanonSmiles("F/C=C\\F")


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "unreadable SMILES"),
        ("", "unreadable SMILES"),
        ("F(C)C", "unreadable SMILES"),
        ("C.C", "several fragments"),
        ("C[Pt]C", "no MMFF94 parameters"),
        ("C1=C2CC1C2", "no embedding"),
    ],
)
def test_failures_have_reasons(smiles: str, reason: str):
    with pytest.raises(ConformerError) as caught:
        embed(smiles)
    assert caught.value.reason == reason
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)


def test_embed_many_keeps_the_order_and_equals_embed():
    results = embed_many(["CCO", "broken(", "C#N", "C.C"], seed=3, workers=2)
    assert [r.reason if isinstance(r, Failure) else r.smiles for r in results] == [
        "CCO",
        "unreadable SMILES",
        "C#N",
        "several fragments",
    ]
    np.testing.assert_array_equal(results[0].positions, embed("CCO", 3).positions)
    assert embed_many([]) == []
