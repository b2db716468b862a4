"""Stability: do the atoms have allowed valences? By EDM's distance rule and by the corrected table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.metrics import Metric, clustered_proportion, proportion
from molgen.chemistry import valence
from molgen.chemistry.bonds import Stability, edm_stability, per_molecule, uncovered_numbers
from molgen.chemistry.elements import MAX_NUMBER, symbols
from molgen.chemistry.perception import Perceived
from molgen.data.molecules import MoleculeSet

EDM_RULE = "EDM distance table, margins 10/5/3 pm (arXiv 2203.17003)"
VALENCY_RULE = "(aromatic bonds, other valence) per element and charge (arXiv 2505.00169) on RDKit-perceived molecules"


def stability_metrics(samples: MoleculeSet, stability: Stability | None = None) -> list[Metric]:
    """EDM's `atom_stability` (over atoms) and `molecule_stability` (over molecules).

    Molecules with an element for which EDM names no valence cannot be judged: they are left out and `rule` says so.
    An empty or broken molecule counts as unstable.
    """
    stability = edm_stability(samples) if stability is None else stability
    covered = stability.covered
    stable_atoms = per_molecule(stability.atoms, samples.offsets)[covered]
    note = _coverage_note(samples, covered)
    return [
        clustered_proportion("atom_stability", stable_atoms, samples.num_atoms[covered], f"atoms, {EDM_RULE}{note}"),
        proportion(
            "molecule_stability",
            int(stability.molecules[covered].sum()),
            int(covered.sum()),
            f"molecules, {EDM_RULE}{note}",
        ),
    ]


def valency_metrics(samples: MoleculeSet, perceived: Sequence[Perceived]) -> tuple[list[Metric], np.ndarray]:
    """`valency_atoms` and `valency_molecules` by the corrected rule, over all samples, and (M,) bool by molecule.

    A molecule that perception refused counts with all its atoms as wrong: without bonds there is no valence.
    """
    sizes = samples.num_atoms
    right = np.zeros(len(samples), np.int64)
    uncovered = 0
    for i, one in enumerate(perceived):
        if one.mol is not None:
            right[i] = sum(valence.correct_atoms(one.mol))
            uncovered += not valence.is_covered(one.mol)
    correct = (right == sizes) & np.array([one.valid for one in perceived], bool)
    note = f"; {uncovered} of {len(samples)} have elements that the table lacks, counted as wrong" * bool(uncovered)
    rows = [
        clustered_proportion("valency_atoms", right, sizes, f"atoms, {VALENCY_RULE}{note}"),
        proportion("valency_molecules", int(correct.sum()), len(samples), f"molecules, {VALENCY_RULE}{note}"),
    ]
    return rows, correct


def _coverage_note(samples: MoleculeSet, covered: np.ndarray) -> str:
    if covered.all():
        return ""
    names = (symbols()[z] if 1 <= z <= MAX_NUMBER else f"number {z}" for z in uncovered_numbers(samples))
    return f"; {int((~covered).sum())} of {len(samples)} molecules left out, no rule for {', '.join(names)}"
