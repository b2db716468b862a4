"""`MoleculeSet`: the one container for molecules as numbers, from files to samples to metrics.

Molecules are ragged, so they are stored flat (compressed sparse rows): molecule i owns the atoms
`offsets[i]:offsets[i + 1]`. Flat arrays memory-map, compress and slice; padding happens only where a batch is made.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.atomic import atomic_writer
from common.errors import InputError

# Coordinates are stored as integers of this many Angstrom: 0.0001 A is far below any geometry's error.
_QUANTUM = 1e-4
# Stands for a coordinate that is no number, or too far away to be stored.
_NO_NUMBER = np.iinfo(np.int32).min


@dataclass(frozen=True)
class MoleculeSet:
    """A set of M molecules with A atoms in all.

    Attributes:
        numbers: (A,) uint8, atomic numbers.
        positions: (A, 3) float32, Angstrom.
        offsets: (M + 1,) int64, offsets[0] = 0, offsets[-1] = A.
        properties: name -> (M,) float64; NaN where the value is missing. The unit stands in the name
            (`gap_ev`, `alpha_bohr3`), see `molgen.data.properties`.
        smiles: (M,) array of str, empty string where unknown; None where no molecule has one.
        charges: (M,) int8 total molecular charge; None means all neutral.
    """

    numbers: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    smiles: np.ndarray | None = None
    charges: np.ndarray | None = None

    def __post_init__(self) -> None:
        n_atoms, n_molecules = len(self.numbers), len(self.offsets) - 1
        if self.positions.shape != (n_atoms, 3):
            raise InputError(f"positions have shape {self.positions.shape}, expected {(n_atoms, 3)}")
        if n_molecules < 0 or self.offsets[0] != 0 or self.offsets[-1] != n_atoms:
            raise InputError("offsets must run from 0 to the number of atoms")
        if np.any(np.diff(self.offsets) < 0):
            raise InputError("offsets must not decrease")
        for name, values in self.properties.items():
            if len(values) != n_molecules:
                raise InputError(f"property '{name}' has {len(values)} values for {n_molecules} molecules")
        for name in ("smiles", "charges"):
            values = getattr(self, name)
            if values is not None and len(values) != n_molecules:
                raise InputError(f"{name} has {len(values)} entries for {n_molecules} molecules")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers (n,) and positions (n, 3) of one molecule, as views."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"molecule {index} of {len(self)}")
        index %= len(self)
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.numbers[start:stop], self.positions[start:stop]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    @property
    def num_atoms(self) -> np.ndarray:
        """(M,) number of atoms of each molecule."""
        return np.diff(self.offsets)

    def charge(self, index: int) -> int:
        """Total charge of one molecule."""
        return 0 if self.charges is None else int(self.charges[index])

    def select(self, indices: np.ndarray | Sequence[int]) -> MoleculeSet:
        """The molecules at `indices` (integers or a boolean mask), in that order."""
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        sizes = self.num_atoms[indices]
        offsets = _offsets(sizes)
        # Atom k of the selection is atom (k - new offset + old offset) of this set.
        atoms = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], sizes)
        return MoleculeSet(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            offsets=offsets,
            properties={name: np.asarray(values)[indices] for name, values in self.properties.items()},
            smiles=None if self.smiles is None else self.smiles[indices],
            charges=None if self.charges is None else self.charges[indices],
        )

    def reorder(self, order: np.ndarray) -> MoleculeSet:
        """The same molecules with atom order[k] (A,) at place k; each atom has to stay in its molecule."""
        return replace(self, numbers=self.numbers[order], positions=self.positions[order])

    @classmethod
    def from_molecules(
        cls,
        molecules: Sequence[tuple[np.ndarray, np.ndarray]],
        properties: Mapping[str, Sequence[float]] | None = None,
        smiles: Sequence[str] | None = None,
        charges: Sequence[int] | None = None,
    ) -> MoleculeSet:
        """Build a set from (atomic numbers (n,), positions (n, 3) in Angstrom) pairs."""
        sizes = np.array([len(numbers) for numbers, _ in molecules], dtype=np.int64)
        return cls(
            numbers=np.concatenate([np.asarray(n, dtype=np.uint8) for n, _ in molecules] or [np.empty(0, np.uint8)]),
            positions=np.concatenate(
                [np.asarray(p, dtype=np.float32).reshape(-1, 3) for _, p in molecules] or [np.empty((0, 3), np.float32)]
            ),
            offsets=_offsets(sizes),
            properties={name: np.asarray(v, dtype=np.float64) for name, v in (properties or {}).items()},
            smiles=None if smiles is None else np.array(smiles, dtype=np.str_),
            charges=None if charges is None else np.asarray(charges, dtype=np.int8),
        )

    @classmethod
    def concatenate(cls, sets: Sequence[MoleculeSet]) -> MoleculeSet:
        """One set after the other. Properties that only some of the sets have become NaN in the others."""
        names = list(dict.fromkeys(name for s in sets for name in s.properties))
        with_smiles = any(s.smiles is not None for s in sets)
        with_charges = any(s.charges is not None for s in sets)
        missing = {id(s): np.full(len(s), np.nan) for s in sets}
        return cls(
            numbers=np.concatenate([s.numbers for s in sets]),
            positions=np.concatenate([s.positions for s in sets]),
            offsets=_offsets(np.concatenate([s.num_atoms for s in sets])),
            properties={n: np.concatenate([s.properties.get(n, missing[id(s)]) for s in sets]) for n in names},
            smiles=np.concatenate([np.full(len(s), "") if s.smiles is None else s.smiles for s in sets])
            if with_smiles
            else None,
            charges=np.concatenate([np.zeros(len(s), np.int8) if s.charges is None else s.charges for s in sets])
            if with_charges
            else None,
        )

    def digest(self) -> str:
        """Hash of atoms and coordinates, which tells one data set from another in a run's provenance."""
        content = hashlib.sha256()
        for array in (self.numbers, _quantised(self.positions).astype(np.int64), self.offsets):
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write a compressed npz, all or nothing.

        Coordinates are rounded to 0.0001 Angstrom; those that are not finite, or beyond 214,748 Angstrom, come back as
        NaN.
        """
        arrays: dict[str, np.ndarray] = {
            "numbers": self.numbers.astype(np.uint8),
            "positions": _quantised(self.positions),
            "num_atoms": self.num_atoms.astype(np.int32),
        }
        arrays |= {f"property/{name}": values for name, values in self.properties.items()}
        if self.smiles is not None:
            # Joined text compresses ten times better than numpy's fixed-width unicode.
            arrays["smiles"] = np.frombuffer("\n".join(self.smiles).encode(), dtype=np.uint8)
        if self.charges is not None:
            arrays["charges"] = self.charges.astype(np.int8)
        with atomic_writer(path, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> MoleculeSet:
        """Read what `save` wrote. Raises `InputError` for any other file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            stored = arrays["positions"]
            positions = stored.astype(np.float32) * np.float32(_QUANTUM)
            positions[stored == _NO_NUMBER] = np.nan
            return cls(
                numbers=arrays["numbers"],
                positions=positions,
                offsets=_offsets(arrays["num_atoms"].astype(np.int64)),
                properties={
                    key.removeprefix("property/"): values
                    for key, values in arrays.items()
                    if key.startswith("property/")
                },
                smiles=_split_lines(arrays["smiles"], len(arrays["num_atoms"])) if "smiles" in arrays else None,
                charges=arrays.get("charges"),
            )
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a molecule set written by this program ({type(error).__name__}: {error})"
            ) from error


def _quantised(positions: np.ndarray) -> np.ndarray:
    """Coordinates (A, 3) in Angstrom as int32 multiples of `_QUANTUM`, `_NO_NUMBER` where that cannot be."""
    scaled = np.round(positions / _QUANTUM)
    # As what must hold, so that NaN fails. float32 has no 2^31 - 1, so one float short of 2^31 is the last to fit.
    fits = np.abs(scaled) < 2.0**31
    return np.where(fits, scaled, 0).astype(np.int32) + np.where(fits, 0, _NO_NUMBER).astype(np.int32)


def _split_lines(text: np.ndarray, count: int) -> np.ndarray:
    # No lines at all and one empty line are the same text.
    return np.array(text.tobytes().decode().split("\n")[:count], dtype=np.str_)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
