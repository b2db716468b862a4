"""The enumeration: counts known by hand, every rule by example, canonical, deterministic."""

from collections import Counter

import pytest
from rdkit import Chem

from common.errors import InputError
from molgen.data.enumeration import (
    MAX_HETEROATOMS,
    MAX_RINGS,
    RULES,
    VALENCE,
    broken_rule,
    enumerate_smiles,
    heavy_atoms,
    select,
)

# One molecule that each rule exists for.
REFUSED = {
    "peroxide": "COOC",
    "heteroatom chain": "CN=[N+]=[N-]",
    "heteroatom fluoride": "CNF",
    "bare diatomic": "NN",
    "hydrogen fluoride": "F",
    "cyclic hydroxylamine": "C1CCNOC1",
    "cyclic hydrazine": "C1CCNNC1",
    "N-hydroxy or N-amino in a ring": "NN1CCCC1",
    "N-hydroxy azole": "On1cccc1",
    "O-amino": "CON",
    "azo": "CN=NC",
    "nitroso": "CN=O",
    "acyl fluoride": "CC(=O)F",
    "alpha-fluoro amine or ether": "COCF",
    "fluorinated heteroalkene": "FC=COC",
    "hemiacetal or hemiaminal": "COCO",
    "aminal": "CNCNC",
    "imine at an aminal": "CN=CNCOC",
    "alpha-imino amine or ether": "CC=NCOC",
    "cyanohydrin": "OCC#N",
    "orthoester": "COC(OC)OC",
    "carbonic or carbamic acid": "NC(=O)O",
    "hydroxyimine": "CC(O)=NC",
    "enol": "C=CO",
    "hydroxy azine": "Oc1ccccn1",
    "hydroxy furan or pyrrole": "Oc1ccco1",
    "enamine with N-H": "C=CN",
    "imine with N-H": "CC=N",
    "formaldimine": "C=NC",
    "N-acyl imine": "CC=NC=O",
    "2-azadiene": "CC=NC=C",
    "iminocarbonyl": "CN=CC=O",
    "vinyl oxime ether": "C=CON=CC",
    "oxime or hydrazone ester": "CC=NOC=O",
    "heteroatom on a triple bond": "C#CN",
    "cyano imine": "CN=CC#N",
    "vicinal tricarbonyl": "O=CC(=O)C=O",
    "formic anhydride": "O=COC=O",
    "cross-conjugated ring": "N=c1cccc[nH]1",
    "unsaturated atom in a three-ring": "C=C1CC1",
    "heteroatom pair in a small ring": "C1NO1",
    "imine in a small ring": "C1CN=C1",
    "diene on a four-ring": "C1=CC=C1",
    "double bond at a ring fusion": "C1=C2CC(C1)C2",
    "aromatic ring fused to a small one": "c1cc2c(o1)C2",
    "cumulated double bonds": "C=C=C",
    "triple bond in a ring": "C1#CCCCC1",
}


@pytest.fixture(scope="module")
def small() -> list[str]:
    return enumerate_smiles(5)


def test_alkanes_are_counted_as_by_cayley():
    saturated = enumerate_smiles(7, elements=(6,), unsaturated=False)
    acyclic = Counter(heavy_atoms(text) for text in saturated if "1" not in text)
    assert acyclic == {1: 1, 2: 1, 3: 1, 4: 2, 5: 3, 6: 5, 7: 9}


def test_saturated_monocycles():
    saturated = [Chem.MolFromSmiles(t) for t in enumerate_smiles(6, elements=(6,), unsaturated=False)]
    monocycles = Counter(m.GetNumAtoms() for m in saturated if m.GetRingInfo().NumRings() == 1)
    # Cycloalkane isomers C3 to C6 without stereo: OEIS A036671 (1, 2, 5, 12).
    assert monocycles == {3: 1, 4: 2, 5: 5, 6: 12}


def test_one_and_two_heavy_atoms_by_hand(small: list[str]):
    assert [t for t in small if heavy_atoms(t) == 1] == ["C", "N", "O"]
    assert [t for t in small if heavy_atoms(t) == 2] == ["C#C", "C#N", "C=C", "C=O", "CC", "CF", "CN", "CO"]


@pytest.mark.parametrize("text", ["c1cc[nH]c1", "C1CC1", "C1CO1", "NC=O", "CC(=O)O", "c1cnoc1", "C#CC=O", "CC=NO"])
def test_familiar_molecules_are_found(small: list[str], text: str):
    assert Chem.CanonSmiles(text) in small


def test_every_molecule_is_canonical_once_and_within_bounds(small: list[str]):
    assert len(set(small)) == len(small)
    for text in small:
        molecule = Chem.MolFromSmiles(text)
        assert Chem.MolToSmiles(molecule) == text
        assert heavy_atoms(text) == molecule.GetNumAtoms() <= 5
        assert molecule.GetNumBonds() - molecule.GetNumAtoms() + 1 <= MAX_RINGS
        assert sum(atom.GetAtomicNum() != 6 for atom in molecule.GetAtoms()) <= MAX_HETEROATOMS
        for atom in Chem.AddHs(molecule).GetAtoms():
            assert atom.GetFormalCharge() == atom.GetNumRadicalElectrons() == 0
            assert atom.GetTotalValence() == VALENCE.get(atom.GetAtomicNum(), 1)


def test_the_smaller_enumeration_is_the_beginning_of_the_larger(small: list[str]):
    upto_four = enumerate_smiles(4)
    assert small[: len(upto_four)] == upto_four
    assert all(heavy_atoms(text) == 5 for text in small[len(upto_four) :])


def test_every_rule_has_an_example():
    assert set(REFUSED) == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_refuses_its_example(rule):
    molecule = Chem.MolFromSmiles(REFUSED[rule.name])
    assert molecule.HasSubstructMatch(Chem.MolFromSmarts(rule.smarts))
    assert broken_rule(molecule) is not None


def test_no_molecule_breaks_a_rule(small: list[str]):
    assert [text for text in small if broken_rule(Chem.MolFromSmiles(text))] == []


def test_refusals_are_reported():
    report: Counter[str] = Counter()
    enumerate_smiles(3, report=report)
    assert report["enol"] >= 1
    assert set(report) <= {rule.name for rule in RULES}


def test_select_keeps_the_small_and_limits_fluorine(small: list[str]):
    chosen = select(small, 200, seed=1, max_fluorine_share=0.1)
    assert len(set(chosen)) == len(chosen) == 200
    assert sum("F" in text for text in chosen) == 20
    without_fluorine = [text for text in small if "F" not in text and heavy_atoms(text) <= 3]
    assert set(without_fluorine) <= set(chosen)
    assert select(small, 200, seed=1) == chosen
    assert select(small, 200, seed=2) != chosen


@pytest.mark.parametrize(
    "arguments", [{"max_heavy_atoms": 0}, {"elements": (7, 8)}, {"elements": (6, 16)}, {"max_heavy_atoms": 12}]
)
def test_bad_arguments_are_one_clear_line(arguments):
    with pytest.raises(InputError, match="expected"):
        enumerate_smiles(**arguments)
