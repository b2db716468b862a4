"""How far the samples' bond lengths, bond angles, sizes and compositions lie from a reference's.

Lengths and angles are compared type by type (C-C, C=O, C:N aromatic; H-C-H, ...) by the 1-Wasserstein distance between
the two empirical distributions, in Angstrom and degrees: the mean shift that would turn one into the other.
Discrete distributions are compared by total variation: half the sum of absolute differences, 0 equal, 1 disjoint.
Samples without perceived bonds have no lengths: read these beside validity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.metrics import Metric, from_draws, resamples
from molgen.chemistry.elements import symbols
from molgen.chemistry.perception import Perceived
from molgen.data.molecules import MoleculeSet

# Types with a smaller share of the reference's bonds (angles) are noise; so are fewer values than this in the samples.
MIN_REFERENCE_SHARE = 0.01
MIN_VALUES = 20

_AROMATIC = 4
_BOND_SIGNS = {1: "-", 2: "=", 3: "#", _AROMATIC: ":"}


@dataclass(frozen=True)
class TypedValues:
    """Lengths or angles of a set of molecules.

    Attributes:
        types: (n,) int64 code of the type, comparable between sets.
        values: (n,) float64, Angstrom or degrees.
        owners: (n,) int64, index of the molecule.
        n_molecules: number of molecules in the set, those without values included.
    """

    types: np.ndarray
    values: np.ndarray
    owners: np.ndarray
    n_molecules: int


def bonds_and_angles(perceived: Sequence[Perceived]) -> tuple[TypedValues, TypedValues]:
    """All bond lengths (Angstrom) and bond angles (degrees) of the valid molecules.

    A bond's type is its two elements and its order (aromatic apart), an angle's its end elements and its centre.
    """
    numbers, positions, ends, orders = [], [], [], []
    atom_owner = []
    n_atoms = 0
    for k, one in enumerate(perceived):
        if one.mol is None or not one.valid:
            continue
        numbers.append([atom.GetAtomicNum() for atom in one.mol.GetAtoms()])
        positions.append(one.mol.GetConformer().GetPositions())
        atom_owner.append(np.full(one.mol.GetNumAtoms(), k))
        for bond in one.mol.GetBonds():
            ends.append((bond.GetBeginAtomIdx() + n_atoms, bond.GetEndAtomIdx() + n_atoms))
            orders.append(_AROMATIC if bond.GetIsAromatic() else int(bond.GetBondTypeAsDouble()))
        n_atoms += one.mol.GetNumAtoms()
    if not ends:
        empty = TypedValues(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), len(perceived))
        return empty, empty
    number = np.concatenate(numbers).astype(np.int64)
    position = np.concatenate(positions)
    owner = np.concatenate(atom_owner)
    end = np.array(ends, dtype=np.int64)
    pair = np.sort(number[end], axis=1)
    lengths = TypedValues(
        types=_code(pair[:, 0], pair[:, 1], np.array(orders, np.int64)),
        values=np.linalg.norm(position[end[:, 0]] - position[end[:, 1]], axis=1),
        owners=owner[end[:, 0]],
        n_molecules=len(perceived),
    )
    left, centre, right = _angle_triples(end)
    outer = np.sort(np.stack([number[left], number[right]], axis=1), axis=1)
    angles = TypedValues(
        types=_code(outer[:, 0], outer[:, 1], number[centre]),
        values=_angles_degree(position[left], position[centre], position[right]),
        owners=owner[centre],
        n_molecules=len(perceived),
    )
    return lengths, angles


def bond_type_name(code: int) -> str:
    """The name of a bond type, such as `C=O`; `:` stands for aromatic."""
    first, second, order = _decode(code)
    names = [symbols()[first], symbols()[second]]
    if names[0] == "H":  # codes sort by number, but one says C-H
        names.reverse()
    return _BOND_SIGNS.get(order, "~").join(names)


def angle_type_name(code: int) -> str:
    """The name of an angle type, end-centre-end, such as `H-C-O`."""
    first, second, centre = _decode(code)
    return f"{symbols()[first]}-{symbols()[centre]}-{symbols()[second]}"


def length_metrics(samples: TypedValues, reference: TypedValues, seed: int) -> list[Metric]:
    """`bond_length_w1_angstrom` (mean over types, weighted by the reference's shares), then one row for each type."""
    names = [f"[{bond_type_name(code)}]" for code in _frequent_types(reference)]
    return _distance_rows("bond_length_w1_angstrom", names, samples, reference, seed)


def angle_metrics(samples: TypedValues, reference: TypedValues, seed: int) -> list[Metric]:
    """`bond_angle_w1_degree` (mean over types, weighted by the reference's shares), then one row for each type."""
    names = [f"[{angle_type_name(code)}]" for code in _frequent_types(reference)]
    return _distance_rows("bond_angle_w1_degree", names, samples, reference, seed)


def bond_type_metric(samples: TypedValues, reference: TypedValues, seed: int) -> Metric:
    """`bond_type_tv`: total variation between the shares of bond types among all bonds."""
    codes = np.union1d(samples.types, reference.types)
    counts = [np.zeros((one.n_molecules, len(codes))) for one in (samples, reference)]
    for count, one in zip(counts, (samples, reference), strict=True):
        np.add.at(count, (one.owners, np.searchsorted(codes, one.types)), 1)
    return total_variation(
        "bond_type_tv", counts[0], counts[1], seed, "bond types (elements, order) of valid molecules"
    )


def atom_count_metric(samples: MoleculeSet, reference: MoleculeSet, seed: int) -> Metric:
    """`atom_count_tv`: total variation between the distributions of molecule sizes (atoms with H), all samples."""
    sizes = np.union1d(samples.num_atoms, reference.num_atoms)
    counts = [(one.num_atoms[:, None] == sizes).astype(float) for one in (samples, reference)]
    return total_variation("atom_count_tv", counts[0], counts[1], seed, "number of atoms of all samples")


def atom_type_metric(samples: MoleculeSet, reference: MoleculeSet, seed: int) -> Metric:
    """`atom_type_tv`: total variation between the shares of elements among all atoms, all samples."""
    numbers = np.union1d(samples.numbers, reference.numbers)
    counts = [np.zeros((len(one), len(numbers))) for one in (samples, reference)]
    for count, one in zip(counts, (samples, reference), strict=True):
        owners = np.repeat(np.arange(len(one)), one.num_atoms)
        np.add.at(count, (owners, np.searchsorted(numbers, one.numbers)), 1)
    return total_variation("atom_type_tv", counts[0], counts[1], seed, "elements of all atoms of all samples")


def total_variation(name: str, samples: np.ndarray, reference: np.ndarray, seed: int, what: str) -> Metric:
    """Total variation between two pooled histograms, with a bootstrap over the samples' molecules.

    Args:
        samples, reference: (M, K), (R, K) counts of K kinds by molecule.
    """
    rule = f"total variation, {what}; bootstrap over samples"
    used = int((samples.sum(axis=1) > 0).sum())
    if not samples.sum() or not reference.sum():
        return Metric.undefined(name, used, rule)
    target = reference.sum(axis=0) / reference.sum()

    def distance(counts: np.ndarray) -> np.ndarray:
        totals = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
        return 0.5 * np.abs(counts / totals - target).sum(axis=-1)

    resampled = distance(resamples(len(samples), seed) @ samples)
    return from_draws(name, float(distance(samples.sum(axis=0))), resampled, used, rule, most=1.0)


def wasserstein(
    samples: np.ndarray, reference: np.ndarray, owners: np.ndarray | None = None, draws: np.ndarray | None = None
) -> np.ndarray:
    """1-Wasserstein distances between (n,) samples and (m,) reference values: the area between their cumulatives.

    Args:
        owners: (n,) molecule of each sample value; by default each value is its own.
        draws: (D, M) weight of each molecule in each of D resamples; by default one draw with all weights 1.

    Returns (D,) distances, NaN where a draw holds no value.
    """
    owners = np.arange(len(samples)) if owners is None else owners
    draws = np.ones((1, len(samples)), np.int64) if draws is None else draws
    order = np.argsort(np.concatenate([samples, reference]), kind="stable")
    gaps = np.diff(np.concatenate([samples, reference])[order])
    is_sample = order < len(samples)
    below_reference = np.cumsum(~is_sample)[:-1] / max(1, len(reference))
    owner = owners[order[is_sample]]
    step = np.zeros(len(order))
    distances = np.full(len(draws), np.nan)
    for d, weights in enumerate(draws):
        step[is_sample] = weights[owner]
        below = np.cumsum(step)
        if len(owner) and below[-1] > 0:
            distances[d] = np.abs(below[:-1] / below[-1] - below_reference) @ gaps
    return distances


def _distance_rows(
    name: str, type_names: list[str], samples: TypedValues, reference: TypedValues, seed: int
) -> list[Metric]:
    rule = "1-Wasserstein, valid molecules; bootstrap over samples"
    codes = _frequent_types(reference)
    draws = np.concatenate(
        [np.ones((1, samples.n_molecules), np.int64), resamples(samples.n_molecules, seed)]
    )  # the first draw is the set itself
    rows, compared, shares = [], [], []
    for code, label in zip(codes, type_names, strict=True):
        mine, theirs = samples.types == code, reference.types == code
        n = int(mine.sum())
        if n < MIN_VALUES:
            rows.append(Metric.undefined(name + label, n, f"{rule}; fewer than {MIN_VALUES} values"))
            continue
        distances = wasserstein(samples.values[mine], reference.values[theirs], samples.owners[mine], draws)
        rows.append(from_draws(name + label, float(distances[0]), distances[1:], n, rule))
        compared.append(distances)
        shares.append(theirs.mean())
    if not compared:
        return [Metric.undefined(name, 0, f"{rule}; no type has values in both sets"), *rows]
    weights = np.array(shares) / np.sum(shares)
    # NaN where a resample lacks a rare type: it says nothing.
    mean = weights @ np.array(compared)
    rule = f"mean over {len(shares)} types with {np.sum(shares):.0%} of the reference's values; {rule}"
    return [from_draws(name, float(mean[0]), mean[1:], len(samples.values), rule), *rows]


def _frequent_types(reference: TypedValues) -> list[int]:
    codes, counts = np.unique(reference.types, return_counts=True)
    frequent = counts >= MIN_REFERENCE_SHARE * len(reference.types)
    return codes[frequent][np.argsort(-counts[frequent], kind="stable")].tolist()


def _code(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    return (first * 256 + second) * 256 + third


def _decode(code: int) -> tuple[int, int, int]:
    return code >> 16, (code >> 8) & 255, code & 255


def _angle_triples(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left, centre, right) atoms of every pair of bonds that share an atom, each pair once."""
    centre = np.concatenate([ends[:, 0], ends[:, 1]])
    neighbour = np.concatenate([ends[:, 1], ends[:, 0]])
    by_centre = np.argsort(centre, kind="stable")
    centre, neighbour = centre[by_centre], neighbour[by_centre]
    start = np.searchsorted(centre, np.arange(centre[-1] + 2))
    degree = np.diff(start)
    parts = []
    for d in np.unique(degree[degree >= 2]):
        atoms = np.flatnonzero(degree == d)
        i, j = np.triu_indices(d, k=1)
        first = start[atoms][:, None]
        parts.append(
            np.stack(
                [neighbour[first + i], np.broadcast_to(atoms[:, None], (len(atoms), len(i))), neighbour[first + j]]
            ).reshape(3, -1)
        )
    left, middle, right = np.concatenate(parts, axis=1) if parts else np.empty((3, 0), np.int64)
    return left, middle, right


def _angles_degree(left: np.ndarray, centre: np.ndarray, right: np.ndarray) -> np.ndarray:
    a, b = left - centre, right - centre
    # atan2 keeps its precision near 0 and 180 degrees, where arccos loses it.
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))
