"""Our own enumeration of small organic molecules: every graph of C, N, O and F that passes a visible set of rules.

Three stages, each closed under its own edit and deduplicated by RDKit's canonical SMILES:
  1. saturated carbon skeletons, grown atom by atom and by closing rings;
  2. unsaturation, one bond order at a time;
  3. substitution of carbon by nitrogen, oxygen or fluorine, one atom at a time.
Every molecule is neutral and closed shell, has its valences (C 4, N 3, O 2, F 1) filled with hydrogen, and carries no
stereo mark. Enumerating graphs under valence, strain and stability rules is the idea of the GDB databases (Fink and
Reymond, J. Chem. Inf. Model. 2007, 47, 342; Ruddigkeit et al., ibid. 2012, 52, 2864); the rules here are our own and
lean towards the plausible: a rule may well forbid a compound that somebody has made.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from common.errors import InputError

logger = logging.getLogger(__name__)

VALENCE = {6: 4, 7: 3, 8: 2, 9: 1}
MAX_HEAVY_ATOMS = 7
MAX_HETEROATOMS = 3
MAX_RINGS = 2

_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


@dataclass(frozen=True)
class Rule:
    """A substructure that no molecule of the set may hold.

    Attributes:
        name: what the report counts it under.
        smarts: the forbidden pattern.
        reason: why.
        cuts: True where a molecule that holds the pattern keeps it whatever carbon is substituted next, so that
            the whole branch can be cut at once.
    """

    name: str
    smarts: str
    reason: str
    cuts: bool = False


RULES = (
    # Bonds between heteroatoms.
    Rule("peroxide", "[#8]-[#8]", "weak, explosive bond", cuts=True),
    Rule("heteroatom chain", "[#7,#8]~[#7,#8]~[#7,#8]", "triazanes, nitramines, azides: energetic", cuts=True),
    Rule("heteroatom fluoride", "[#7,#8,#9]-[#9]", "oxidiser", cuts=True),
    Rule("bare diatomic", "[#7,#8;!$(*~[#6])]~[#7,#8;!$(*~[#6])]", "dinitrogen, hydrazine and the like"),
    Rule("hydrogen fluoride", "[FH]", "an acid, not a molecule anybody wants designed"),
    Rule("cyclic hydroxylamine", "[NX3;!a]@-[OX2;!a]", "weak bond; oximes and isoxazoles stay"),
    Rule("cyclic hydrazine", "[NX3;!a]@-[NX3;!a]", "weak bond; hydrazones and pyrazoles stay"),
    Rule("N-hydroxy or N-amino in a ring", "[NX3;R]-[NX3,OX2;!R]", "weak bond"),
    Rule("N-hydroxy azole", "[OX2H]-[n]", "tautomer of an N-oxide, acidic"),
    Rule("O-amino", "[NX3H2]-[OX2]", "aminates"),
    Rule("azo", "[#7;!a]=[#7;!a]", "loses dinitrogen"),
    Rule("nitroso", "[NX2]=[OX1]", "dimerises"),
    # Fluorine.
    Rule("acyl fluoride", "[F]-[#6]=[#7,#8]", "hydrolyses at once"),
    Rule("alpha-fluoro amine or ether", "[F]-[CX4]-[#7,#8]", "loses HF"),
    Rule("fluorinated heteroalkene", "[F]-[#6;!a]=[#6;!a]-[#7,#8]", "enol or enamine of an acyl fluoride"),
    # Carbons that carry two heteroatoms.
    Rule("hemiacetal or hemiaminal", "[OX2H]-[CX4]-[#7,#8]", "in balance with the carbonyl, mostly on its side"),
    Rule("aminal", "[NX3;!$(N-C=[O,N])]-[CX4]-[NX3,OX2;!$(*-C=[O,N])]", "loses the amine"),
    Rule("imine at an aminal", "[#7]=[#6]-[#7,#8]-[CX4]-[#7,#8]", "hydrolyses"),
    Rule("alpha-imino amine or ether", "[NX2;!a]-[CX4]-[#7,#8]", "loses the amine"),
    Rule("cyanohydrin", "[OX2H,NX3H2]-[CX4]-C#N", "loses HCN"),
    Rule("orthoester", "[#7,#8]-[CX4](-[#7,#8])-[#7,#8]", "hydrolyses"),
    Rule("carbonic or carbamic acid", "[OX2H]-C(=O)-[#7,#8]", "loses carbon dioxide"),
    Rule("hydroxyimine", "[OX2H]-[#6;!a]=[#7]", "tautomer of an amide"),
    # Tautomers and other reactive double bonds.
    Rule("enol", "[OX2H]-[#6;!a]=[#6;!a]", "tautomer of a carbonyl"),
    Rule("hydroxy azine", "[OX2H]-c~[n]", "tautomer of a lactam"),
    Rule("hydroxy furan or pyrrole", "[OX2H]-[c;r5]", "tautomer of a lactone"),
    Rule("enamine with N-H", "[NX3;H1,H2]-[#6;!a]=[#6;!a;!$(C-[C,N]=,#[O,N])]", "tautomer of an imine"),
    Rule("imine with N-H", "[NX2H]=[#6;!$(C-N)]", "hydrolyses or trimerises; amidines stay"),
    Rule("formaldimine", "[CX3H2]=[NX2]", "trimerises"),
    Rule("N-acyl imine", "[#6]=[NX2;!a]-[#6;!a]=[#7,#8]", "hydrolyses"),
    Rule("2-azadiene", "[#6]=[NX2;!a]-[#6;!a]=[#6;!a]", "polymerises"),
    Rule("iminocarbonyl", "[#7;!a]=[#6;!a]-[#6;!a]=[#7,#8]", "condenses with itself"),
    Rule("vinyl oxime ether", "[#6;!a]=[#6;!a]-[OX2,NX3]-[#7]", "rearranges by itself (3,3-shift)"),
    Rule("oxime or hydrazone ester", "[#6;!a]=[#7;!a]-[#7,#8;!a]-[#6;!a]=,#*", "weak N-O bond"),
    Rule("heteroatom on a triple bond", "[#7,#8,F]-C#*", "ynol, ynamine, cyanate, cyanamide"),
    Rule("cyano imine", "[#7]=[#6]-C#N", "polymerises"),
    Rule("vicinal tricarbonyl", "[#7,#8]=[#6]-[#6](=[#7,#8])-[#6]=[#7,#8]", "reactive"),
    Rule("formic anhydride", "[CX3](=O)-O-[CX3]=O", "decomposes"),
    Rule("cross-conjugated ring", "[#6,#7]=[a]", "exocyclic double bond on a ring written as aromatic"),
    # Strain.
    Rule("unsaturated atom in a three-ring", "[r3]=*", "cyclopropanones, methylenecyclopropanes, cyclopropenes"),
    Rule("heteroatom pair in a small ring", "[#7,#8;r3,r4]@[#7,#8;r3,r4]", "diaziridines, oxaziridines, diazetidines"),
    Rule("imine in a small ring", "[r4]=[#7;r4]", "azetines"),
    Rule("diene on a four-ring", "*=[r4]~[r4]=*", "antiaromatic or strained"),
    Rule("double bond at a ring fusion", "[x3,x4;!a]=*", "strained (Bredt, and small fused rings)"),
    Rule("aromatic ring fused to a small one", "[a;x3]", "strained"),
    Rule("cumulated double bonds", "*=*=*", "allenes, ketenes, isocyanates: reactive", cuts=True),
    Rule("triple bond in a ring", "*@#*", "strained below nine atoms", cuts=True),
)


def enumerate_smiles(
    max_heavy_atoms: int = MAX_HEAVY_ATOMS,
    elements: tuple[int, ...] = (6, 7, 8, 9),
    unsaturated: bool = True,
    report: Counter[str] | None = None,
) -> list[str]:
    """Every molecule that passes the rules, as sorted canonical SMILES (by heavy atoms, then text).

    Args:
        max_heavy_atoms: 1 to 9 (time and memory grow sevenfold with each atom: 7 takes about half a minute).
        elements: atomic numbers out of C, N, O and F; carbon must be among them.
        unsaturated: False stops after the saturated graphs.
        report: if given, how many graphs each rule refused is added to it (a graph counts once, under the first
            rule that it breaks; branches that were cut early are not followed and not counted).

    Raises:
        InputError: an element without a valence in `VALENCE`, no carbon, or a size outside 1 to 9.
    """
    if not 1 <= max_heavy_atoms <= 9:
        raise InputError(f"max_heavy_atoms is {max_heavy_atoms}, expected 1 to 9")
    if 6 not in elements or not set(elements) <= set(VALENCE):
        raise InputError(f"elements are {elements}, expected 6 and any of {sorted(VALENCE)}")
    patterns = {rule: Chem.MolFromSmarts(rule.smarts) for rule in RULES}
    cutting = [patterns[rule] for rule in RULES if rule.cuts]

    methane = Chem.RWMol()
    methane.AddAtom(Chem.Atom(6))
    skeletons = _closure([methane], lambda m: _grow(m, max_heavy_atoms))
    graphs = [molecule for molecule in skeletons.values() if _rings_allowed(molecule)]
    if unsaturated:
        graphs = list(_closure(graphs, lambda m: _raise_bond_orders(m, cutting)).values())
    heteroatoms = sorted(set(elements) - {6})
    smiles = _closure(graphs, lambda m: _substitute(m, heteroatoms, cutting))
    kept = []
    for text in smiles:
        broken = broken_rule(Chem.MolFromSmiles(text), patterns)
        if broken is None:
            kept.append(text)
        elif report is not None:
            report[broken.name] += 1
    logger.info("%d graphs under the valences, %d pass the rules", len(smiles), len(kept))
    return sorted(kept, key=lambda text: (heavy_atoms(text), text))


def select(smiles: Iterable[str], budget: int, seed: int = 0, max_fluorine_share: float = 0.1) -> list[str]:
    """A seeded subset of at most `budget` molecules: all of the small ones, a random part of the largest.

    Molecules with fluorine make up at most `max_fluorine_share` of the subset; the small ones of them come first.

    Args:
        smiles: canonical SMILES, as from `enumerate_smiles`.
        budget: the largest number of molecules.
        seed: of the random choice.
        max_fluorine_share: between 0 and 1.
    """
    if budget < 1:
        raise InputError(f"budget is {budget}, expected at least 1 molecule")
    smiles = list(smiles)
    rng = np.random.default_rng(seed)
    order = [smiles[i] for i in rng.permutation(len(smiles))]
    order.sort(key=heavy_atoms)  # stable: random within a size
    with_fluorine = [text for text in order if "F" in text]
    without = [text for text in order if "F" not in text]
    n_fluorine = min(len(with_fluorine), int(max_fluorine_share * budget))
    chosen = with_fluorine[:n_fluorine] + without[: budget - n_fluorine]
    return sorted(chosen, key=lambda text: (heavy_atoms(text), text))


def heavy_atoms(smiles: str) -> int:
    """The number of heavy atoms of a SMILES of C, N, O and F without explicit charges (every letter but H)."""
    return sum(letter in "CNOFcno" for letter in smiles)


def broken_rule(molecule: Chem.Mol, patterns: dict[Rule, Chem.Mol] | None = None) -> Rule | None:
    """The first rule of `RULES` that a sanitised molecule breaks, or None."""
    patterns = patterns or {rule: Chem.MolFromSmarts(rule.smarts) for rule in RULES}
    return next((rule for rule, pattern in patterns.items() if molecule.HasSubstructMatch(pattern)), None)


def _closure(seeds: Iterable[Chem.RWMol], edits: Callable[[Chem.RWMol], Iterator[Chem.RWMol]]) -> dict[str, Chem.RWMol]:
    """Everything that `edits` reaches from `seeds`: canonical SMILES -> Kekule graph without hydrogens, in order."""
    seen = {_canonical(molecule): molecule for molecule in seeds}
    frontier = list(seen.values())
    while frontier:
        found = []
        for molecule in frontier:
            for edited in edits(molecule):
                text = _canonical(edited)
                if text not in seen:
                    seen[text] = edited
                    found.append(edited)
        frontier = found
    return seen


def _canonical(molecule: Chem.RWMol) -> str:
    copy = Chem.Mol(molecule)  # sanitising aromatises, and the edits work on Kekule bonds
    Chem.SanitizeMol(copy)
    return Chem.MolToSmiles(copy)


def _valence(atom: Chem.Atom) -> int:
    return int(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()))


def _free(atom: Chem.Atom) -> int:
    return VALENCE[atom.GetAtomicNum()] - _valence(atom)


def _num_rings(molecule: Chem.Mol) -> int:
    return molecule.GetNumBonds() - molecule.GetNumAtoms() + 1


def _grow(molecule: Chem.RWMol, max_heavy_atoms: int) -> Iterator[Chem.RWMol]:
    """One more carbon on any atom, or one more ring bond between two."""
    open_atoms = [atom.GetIdx() for atom in molecule.GetAtoms() if _free(atom) > 0]
    for i in open_atoms:
        if molecule.GetNumAtoms() < max_heavy_atoms:
            edited = Chem.RWMol(molecule)
            edited.AddBond(i, edited.AddAtom(Chem.Atom(6)), Chem.BondType.SINGLE)
            yield edited
        if _num_rings(molecule) < MAX_RINGS:
            for j in open_atoms:
                if j < i and molecule.GetBondBetweenAtoms(i, j) is None:
                    edited = Chem.RWMol(molecule)
                    edited.AddBond(i, j, Chem.BondType.SINGLE)
                    yield edited


def _rings_allowed(molecule: Chem.RWMol) -> bool:
    """No two rings of three or four atoms may share an atom: bicyclobutanes, spiropentanes and bicyclo[1.1.1]pentane
    go, bicyclo[3.1.0]hexane and norbornanes stay."""
    Chem.GetSSSR(molecule)
    rings = [set(ring) for ring in molecule.GetRingInfo().AtomRings()]
    small = [ring for ring in rings if len(ring) <= 4]
    return not any(a & b for i, a in enumerate(small) for b in small[:i])


def _raise_bond_orders(molecule: Chem.RWMol, cutting: list[Chem.Mol]) -> Iterator[Chem.RWMol]:
    """One bond's order raised by one, where both ends have a hydrogen to lose."""
    for bond in molecule.GetBonds():
        order = int(bond.GetBondTypeAsDouble())
        if order < 3 and _free(bond.GetBeginAtom()) > 0 and _free(bond.GetEndAtom()) > 0:
            edited = Chem.RWMol(molecule)
            edited.GetBondWithIdx(bond.GetIdx()).SetBondType(_BOND_TYPES[order + 1])
            Chem.FastFindRings(edited)
            if not any(edited.HasSubstructMatch(pattern) for pattern in cutting):
                yield edited


def _substitute(molecule: Chem.RWMol, heteroatoms: list[int], cutting: list[Chem.Mol]) -> Iterator[Chem.RWMol]:
    """One carbon replaced by a heteroatom whose valence its bonds fit."""
    carbons = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 6]
    if molecule.GetNumAtoms() - len(carbons) >= MAX_HETEROATOMS:
        return
    for atom in carbons:
        for number in heteroatoms:
            if _valence(atom) <= VALENCE[number]:
                edited = Chem.RWMol(molecule)
                edited.GetAtomWithIdx(atom.GetIdx()).SetAtomicNum(number)
                Chem.FastFindRings(edited)
                if not any(edited.HasSubstructMatch(pattern) for pattern in cutting):
                    yield edited
