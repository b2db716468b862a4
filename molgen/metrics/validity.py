"""Validity, uniqueness, novelty and connectedness of a set of samples.

Two definitions of validity stand side by side. EDM's (arXiv 2203.17003) takes bonds from the distance table, asks
whether RDKit sanitises the result, and keeps the largest fragment: it is what most published tables quote, and it
accepts radicals and fragments. The strict one asks for a sanitised molecule in one piece with the right total charge,
from RDKit's own perception. Every share is over all samples unless its name says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from rdkit import Chem

from common.metrics import Metric, proportion
from molgen.chemistry.bonds import Bonds, count_fragments
from molgen.chemistry.perception import Perceived, edm_molecules, graph_smiles
from molgen.data.molecules import MoleculeSet

EDM_VALID = "bonds from EDM's distance table, RDKit sanitises, largest fragment (arXiv 2203.17003)"
PERCEIVED_VALID = "RDKit-perceived bonds, sanitised, right total charge, one fragment"


def edm_smiles(
    samples: MoleculeSet, single_only: bool = False, bonds: Bonds | None = None
) -> tuple[list[str | None], list[str]]:
    """EDM's identity of each sample and the graph behind it.

    Returns:
        explicit: (M,) SMILES with explicit H of the largest fragment, None where EDM calls the sample invalid.
        flat: (M,) the same fragment's canonical SMILES with implicit H and no stereochemistry, "" where invalid.

    `single_only` makes every bond single: EDM's way with GEOM-Drugs.
    """
    explicit: list[str | None] = []
    flat: list[str] = []
    for mol in edm_molecules(samples, single_only, bonds):
        if mol is None:
            explicit.append(None)
            flat.append("")
            continue
        largest = max(Chem.GetMolFrags(mol, asMols=True), key=lambda fragment: fragment.GetNumAtoms())
        explicit.append(Chem.MolToSmiles(largest))
        flat.append(graph_smiles(largest))
    return explicit, flat


def edm_validity_metrics(explicit: Sequence[str | None], single_only: bool = False) -> list[Metric]:
    """`edm_validity`, `edm_uniqueness` (among valid) and `edm_validity_x_uniqueness` (over all samples)."""
    rule = EDM_VALID + "; all bonds single" * single_only
    return _validity_rows("edm_", [smiles or "" for smiles in explicit], rule, "explicit-H SMILES")


def validity_metrics(perceived: Sequence[Perceived]) -> list[Metric]:
    """`validity`, `uniqueness` (among valid) and `validity_x_uniqueness` (over all samples) of perceived molecules, and
    `charge_separation`: perception can save a distorted molecule by opposite charges on its atoms."""
    identities = [one.flat_smiles if one.valid else "" for one in perceived]
    charged = [any(atom.GetFormalCharge() for atom in one.mol.GetAtoms()) for one in perceived if one.valid and one.mol]
    return [
        *_validity_rows("", identities, PERCEIVED_VALID, "SMILES without stereochemistry"),
        proportion("charge_separation", sum(charged), len(charged), "valid molecules with formal charges on atoms"),
    ]


def uniqueness(name: str, identities: Sequence[str], rule: str) -> Metric:
    """Share of distinct ones among identities; undefined (NaN), never 1, where there are none.

    The interval is Wilson's for "this sample repeats no earlier one". A bootstrap would not do: a resample holds
    repeats by construction.
    """
    return proportion(name, len(set(identities)), len(identities), rule)


def novelty(identities: Sequence[str], known: Collection[str], source: str) -> tuple[Metric, np.ndarray]:
    """Share of the distinct valid molecules that `known` lacks, and (M,) bool whether each sample is novel.

    Args:
        identities: (M,) SMILES without stereochemistry and explicit H; "" for an invalid sample.
        known: SMILES of the reference in the same form (`perception.flat_smiles`).
        source: what the reference is, for the rule's text.
    """
    distinct = {text for text in identities if text}
    known = known if isinstance(known, set | frozenset) else frozenset(known)
    row = proportion(
        "novelty",
        len(distinct - known),
        len(distinct),
        f"distinct valid molecules whose flat SMILES is not in {source}",
    )
    return row, np.array([bool(text) and text not in known for text in identities], bool)


def connectedness(samples: MoleculeSet, fragments: np.ndarray | None = None) -> Metric:
    """Share of all samples that are one piece, atoms being joined below 1.3 times the sum of covalent radii."""
    fragments = count_fragments(samples) if fragments is None else fragments
    return proportion(
        "connectedness", int((fragments == 1).sum()), len(samples), "one fragment at 1.3 x sum of covalent radii"
    )


def _validity_rows(prefix: str, identities: Sequence[str], rule: str, identity: str) -> list[Metric]:
    valid = [text for text in identities if text]
    n = len(identities)
    distinct = len(set(valid))
    return [
        proportion(f"{prefix}validity", len(valid), n, f"over all samples; {rule}"),
        uniqueness(f"{prefix}uniqueness", valid, f"distinct {identity} among valid; {rule}"),
        proportion(
            f"{prefix}validity_x_uniqueness", distinct, n, f"distinct valid {identity} over all samples; {rule}"
        ),
    ]
