"""`TargetLaw`: what to ask molecules for, drawn as the data are: a size, then a value at that size.

EDM's protocol of conditional generation (arXiv 2203.17003, section 5.2 and appendix E): M ~ p(M), then c ~ p(c | M), a
histogram of 1,000 bins for each size in which a value is uniform within its bin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.diffusion import sample_uniforms
from common.errors import InputError
from molgen.data.molecules import MoleculeSet
from molgen.model import SizeLaw

BINS = 1000
# Before the column of a property: what a sample was asked for.
ASKED = "asked_"
# Apart from the streams of a sample's noise and of its size.
_VALUE_STREAM = 2
_LAW = re.compile(r"\s*(?P<name>[^\s=<>±,()]+)\s*=\s*law\s*")


@dataclass(frozen=True)
class TargetLaw:
    """The joint law of size and property.

    Attributes:
        sizes: (S,) the different numbers of atoms, ascending.
        counts: (S,) molecules of each.
        edges: (S, bins + 1) edges of the bins at each size, ascending.
        cumulative: (S, bins + 1) share of the values below each edge.
    """

    sizes: np.ndarray
    counts: np.ndarray
    edges: np.ndarray
    cumulative: np.ndarray

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
        edges, cumulative = np.empty((len(sizes), bins + 1)), np.zeros((len(sizes), bins + 1))
        for k, size in enumerate(sizes):
            inside = values[num_atoms == size]
            # A hair more than the range, so that the largest value has a bin, and one value alone has a width.
            width = (np.ptp(inside) + 1e-12) / bins
            edges[k] = inside.min() + width * np.arange(bins + 1)
            place = np.minimum(((inside - inside.min()) / width).astype(int), bins - 1)
            cumulative[k, 1:] = np.cumsum(np.bincount(place, minlength=bins)) / len(inside)
        return cls(sizes, counts, edges, cumulative)

    @classmethod
    def of_molecules(cls, molecules: MoleculeSet, column: str) -> TargetLaw:
        """The law of the molecules that have a value of a property.

        Raises:
            InputError: none has.
        """
        values = molecules.properties.get(column, np.full(len(molecules), np.nan))
        known = np.isfinite(values)
        if not known.any():
            columns = ", ".join(molecules.properties) or "none"
            raise InputError(f"the data have no values of '{column}' to draw from; columns: {columns}")
        return cls.of(molecules.num_atoms[known], values[known])

    def draw(self, seed: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count,) sizes and (count,) values of the samples start, start + 1, ... of a run with `seed`.

        Each sample has streams of its own: what it is asked for depends on (seed, its index) alone.
        """
        sizes = SizeLaw(tuple(self.sizes.tolist()), tuple(self.counts.tolist())).draw(seed, start, count)
        return sizes, self.values_at(sizes, seed, start)

    def values_at(self, sizes: np.ndarray, seed: int, start: int = 0) -> np.ndarray:
        """(count,) values of samples start, start + 1, ... whose sizes (count,) are given; a size that the data lack
        gets the law of the nearest."""
        uniform = sample_uniforms(seed, start, len(sizes), _VALUE_STREAM)
        places = np.abs(sizes[:, None] - self.sizes).argmin(axis=1)
        values = [np.interp(u, self.cumulative[k], self.edges[k]) for u, k in zip(uniform, places, strict=True)]
        return np.array(values, dtype=np.float64)


def law_name(target: str) -> str | None:
    """`gap` of the target `gap=law`; None for another target."""
    found = _LAW.fullmatch(target)
    return found["name"] if found else None


def part_law(targets: Sequence[str]) -> tuple[str | None, list[str]]:
    """What is asked for by law (None for nothing), and the other targets.

    Raises:
        InputError: several laws: of two properties only a joint one would be drawn as the data are.
    """
    names, others = [], []
    for text in targets:
        parts = text.split(",")
        names += [name for name in map(law_name, parts) if name]
        rest = ",".join(part for part in parts if not law_name(part))
        others += [rest] if rest.strip() else []
    if len(names) > 1:
        raise InputError(f"got {', '.join(f'{name}=law' for name in names)}: one law at a time")
    return (names[0] if names else None), others
