"""Molecules made by hand (Angstrom) and real data for the tests of chemistry and metrics."""

from pathlib import Path

import numpy as np
import pytest

from molgen.data.molecules import MoleculeSet

QM9 = Path(__file__).resolve().parents[3] / "shared" / "data" / "qm9" / "qm9_13k.npz"
QM9_XTB = Path(__file__).resolve().parents[3] / "shared" / "data" / "qm9_xtb" / "qm9_xtb.npz"

_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)

METHANE = (np.array([6, 1, 1, 1, 1]), np.concatenate([np.zeros((1, 3)), 1.09 * _TETRAHEDRON]))
WATER = (np.array([8, 1, 1]), np.array([[0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0]]))
ETHYLENE = (
    np.array([6, 6, 1, 1, 1, 1]),
    np.array([[0.667, 0, 0], [-0.667, 0, 0], [1.23, 0.92, 0], [1.23, -0.92, 0], [-1.23, 0.92, 0], [-1.23, -0.92, 0]]),
)
HCN = (np.array([1, 6, 7]), np.array([[-1.064, 0, 0], [0, 0, 0], [1.156, 0, 0]]))
_RING = np.array([[np.cos(a), np.sin(a), 0] for a in np.arange(6) * np.pi / 3])
BENZENE = (np.array([6] * 6 + [1] * 6), np.concatenate([1.395 * _RING, 2.482 * _RING]))

# Broken ones.
METHYL = (METHANE[0][:4], METHANE[1][:4])
TWO_WATERS = (np.tile(WATER[0], 2), np.concatenate([WATER[1], WATER[1] + [0, 0, 6.0]]))
ON_ONE_SPOT = (np.array([6, 6, 1]), np.array([[0, 0, 0], [0, 0, 0], [1.09, 0, 0]]))
NOT_FINITE = (WATER[0], np.array([[0, 0, 0], [np.nan, 0, 0], [0, 0.96, 0]]))
NO_ELEMENT = (np.array([200, 1]), np.array([[0, 0, 0], [1.0, 0, 0]]))
EMPTY = (np.empty(0, int), np.empty((0, 3)))

GOOD = {"methane": METHANE, "water": WATER, "ethylene": ETHYLENE, "HCN": HCN, "benzene": BENZENE}
BROKEN = (METHYL, TWO_WATERS, ON_ONE_SPOT, NOT_FINITE, NO_ELEMENT, EMPTY)


def molecule_set(*molecules) -> MoleculeSet:
    return MoleculeSet.from_molecules(molecules)


def moved(molecules: MoleculeSet, seed: int = 0) -> MoleculeSet:
    """Every molecule rotated, reflected, shifted, and its atoms permuted."""
    rng = np.random.default_rng(seed)
    result = []
    for numbers, positions in molecules:
        matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        order = rng.permutation(len(numbers))
        result.append((numbers[order], (positions @ matrix + rng.normal(size=3))[order]))
    return MoleculeSet.from_molecules(result)


def padded_file(path: Path) -> tuple[MoleculeSet, dict[str, np.ndarray]]:
    """A padded npz of real data as (set, all its arrays); skips the test where the file is absent."""
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    real = arrays["charges"] > 0
    offsets = np.concatenate([[0], np.cumsum(arrays["num_atoms"])]).astype(np.int64)
    numbers, positions = arrays["charges"][real].astype(np.uint8), arrays["positions"][real].astype(np.float32)
    return MoleculeSet(numbers, positions, offsets), arrays
