"""EDM's six-property protocol (Hoogeboom et al., arXiv 2203.17003, section 5.2 and appendix E).

The training part is cut in two: a judge learns the property on D_a, the generator learns on D_b and never sees D_a.
What to ask for is drawn as the data are: a size M ~ p(M), then a value c ~ p(c | M), a histogram of 1,000 bins for each
size in which a value is uniform within its bin. The error is the mean |c - judge(sample)| over all samples.

Three rows need no generator. Upper bound: the data's own values against the same values shuffled. Number of atoms: the
best guess that knows the size alone. Lower bound: the judge's own error on D_b, which needs a judge.

On 13,083 molecules (the literature's test part, where the whole of QM9 is not at hand) the split is 10,000 / 1,500 /
1,583, and results do not compare with published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.benchmark.config import Benchmark
from common.benchmark.verdict import Column, Verdict, mean
from common.errors import InputError
from molgen.data.molecules import MoleculeSet
from molgen.data.qm9 import NUM_MOLECULES, NUM_TEST, edm_halves, edm_split, split_of_test_part
from molgen.data.sources import load_data

# Column of the data, unit of the published tables, and the factor between them.
SIX_PROPERTIES: Mapping[str, tuple[str, str, float]] = {
    "alpha": ("alpha_bohr3", "Bohr^3", 1.0),
    "gap": ("gap_ev", "meV", 1000.0),
    "homo": ("homo_ev", "meV", 1000.0),
    "lumo": ("lumo_ev", "meV", 1000.0),
    "mu": ("mu_d", "D", 1.0),
    "cv": ("cv_cal_mol_k", "cal/mol/K", 1.0),
}
BINS = 1000
NOT_COMPARABLE = "split of the 13,083 molecules of QM9's test part: not comparable with published numbers"


@dataclass(frozen=True)
class PropertySplit:
    """The parts of the protocol.

    Attributes:
        judge: D_a, indices.
        generator: D_b, indices.
        val, test: indices.
        note: what a reader should know; "" for the published split.
    """

    judge: np.ndarray
    generator: np.ndarray
    val: np.ndarray
    test: np.ndarray
    note: str = ""


def property_split(n_molecules: int) -> PropertySplit:
    """The split of QM9 in ascending gdb id, or of its test part.

    Raises:
        InputError: another number of molecules.
    """
    if n_molecules == NUM_MOLECULES:
        parts = edm_split(n_molecules)
        return PropertySplit(*edm_halves(parts["train"]), parts["val"], parts["test"])
    if n_molecules != NUM_TEST:
        raise InputError(
            f"got {n_molecules} molecules, expected the {NUM_MOLECULES} of QM9 or the {NUM_TEST} of its test part, for "
            "which the protocol has a split"
        )
    parts = split_of_test_part()
    return PropertySplit(*edm_halves(parts["train"]), parts["val"], parts["test"], NOT_COMPARABLE)


@dataclass(frozen=True)
class TargetLaw:
    """The joint law of size and property from which targets are drawn.

    Attributes:
        sizes: (S,) the different numbers of atoms, ascending.
        size_shares: (S,) their shares.
        lowest: (S,) the smallest value at each size.
        widths: (S,) width of a bin at each size.
        shares: (S, BINS) share of each bin.
    """

    sizes: np.ndarray
    size_shares: np.ndarray
    lowest: np.ndarray
    widths: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, num_atoms: np.ndarray, values: np.ndarray, bins: int = BINS) -> TargetLaw:
        """The law of M molecules.

        Args:
            num_atoms: (M,) with hydrogens.
            values: (M,) finite.
            bins: of each histogram.

        Raises:
            InputError: no molecule, or a value is missing.
        """
        if not len(values) or not np.isfinite(values).all():
            raise InputError(f"got {int((~np.isfinite(values)).sum())} missing of {len(values)} values, expected none")
        sizes, counts = np.unique(num_atoms, return_counts=True)
        lowest, widths, shares = np.empty(len(sizes)), np.empty(len(sizes)), np.zeros((len(sizes), bins))
        for k, size in enumerate(sizes):
            inside = values[num_atoms == size]
            lowest[k] = inside.min()
            # A hair more than the range, so that the largest value has a bin, and one value alone has a width.
            widths[k] = (np.ptp(inside) + 1e-12) / bins
            place = np.minimum(((inside - lowest[k]) / widths[k]).astype(int), bins - 1)
            shares[k] = np.bincount(place, minlength=bins) / len(inside)
        return cls(sizes, counts / counts.sum(), lowest, widths, shares)

    def sample(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(count,) sizes and (count,) values to ask for; the same seed gives the same."""
        rng = np.random.default_rng(seed)
        places = rng.choice(len(self.sizes), count, p=self.size_shares)
        bins = np.empty(count, np.int64)
        for k in np.unique(places):
            inside = places == k
            bins[inside] = rng.choice(self.shares.shape[1], int(inside.sum()), p=self.shares[k])
        values = self.lowest[places] + self.widths[places] * (bins + rng.random(count))
        return self.sizes[places], values


def shuffled_errors(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """(M,) |value - another molecule's value|: what a generator that ignores the target gets."""
    return np.abs(values - np.random.default_rng(seed).permutation(values))


def atom_count_errors(
    known_sizes: np.ndarray, known_values: np.ndarray, sizes: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """(M,) errors of the best guess that knows the number of atoms alone: the median at that size among the known.

    Published rows train a network on the size instead, whose optimum this is; a size never seen gets the median of all.
    """
    medians = {int(size): float(np.median(known_values[known_sizes == size])) for size in np.unique(known_sizes)}
    guess = np.array([medians.get(int(size), float(np.median(known_values))) for size in sizes])
    return np.abs(values - guess)


def columns(benchmark: Benchmark) -> list[Column]:
    """One column for each property, in the units of the published tables."""
    return [Column(f"mae[{name}]", f"{name} [{unit}]", -1) for name, (_, unit, _) in SIX_PROPERTIES.items()]


def references(benchmark: Benchmark) -> dict[str, tuple[str, Verdict]]:
    """The rows that need no generator, on D_b."""
    molecules = load_data(benchmark.data or "qm9", data_folder=benchmark.data_folder).molecules
    return {
        "U-bound": ("values of D_b against the same values shuffled", bound(molecules, "shuffled")),
        "number of atoms": ("median of D_a at each size, on D_b", bound(molecules, "size")),
    }


def bound(molecules: MoleculeSet, kind: str) -> Verdict:
    """The verdict of the row `shuffled` (upper bound) or `size` (number of atoms).

    Raises:
        InputError: a property or a split is missing.
    """
    parts = property_split(len(molecules))
    metrics = []
    for name, (column, unit, factor) in SIX_PROPERTIES.items():
        if column not in molecules.properties:
            raise InputError(f"the data lack '{column}', which the six-property protocol needs")
        values, sizes = molecules.properties[column], molecules.num_atoms
        if kind == "shuffled":
            errors = shuffled_errors(values[parts.generator])
        else:
            errors = atom_count_errors(
                sizes[parts.judge], values[parts.judge], sizes[parts.generator], values[parts.generator]
            )
        rule = f"mean absolute error in {unit} over D_b, {kind}"
        metrics.append(mean(f"mae[{name}]", factor * errors, rule))
    notes = (parts.note,) if parts.note else ()
    return Verdict(len(parts.generator), tuple(metrics), notes=notes)
