"""`ShapeSet`: the one container for shapes as numbers, from files to samples to metrics.

Every shape of a set has the same number of points, so a set is one array that memory-maps and slices. Points are a
sample of the surface: training draws a fresh subset of them each time.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np

from common.atomic import atomic_writer
from common.errors import InputError

# Metres in one unit. What has no unit cannot be converted.
METRES: Mapping[str, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001}
UNITLESS = "unitless"
UNITS = (*METRES, UNITLESS)

_FORMAT = "shapegen.ShapeSet/1"
# Shapes that are hashed or checked at a time: a memory-mapped set is never in memory whole.
_CHUNK = 256


@dataclass(frozen=True)
class ShapeSet:
    """A set of M shapes of P surface points each. Z is up.

    Attributes:
        points: (M, P, 3) float32, in `unit`; may be memory-mapped.
        class_index: (M,) int64, index into `class_names`.
        class_names: names of the classes, all different; a class may have no shape.
        unit: `m`, `cm`, `mm` or `unitless`.
        normals: (M, P, 3) float32 outward unit normals, or None.
        properties: name -> (M,) float64; NaN where the value is missing. The unit stands in the name, see
            `shapegen.families.labels`.
        ids: (M,) array of different str, or None.
    """

    points: np.ndarray
    class_index: np.ndarray
    class_names: tuple[str, ...]
    unit: str = UNITLESS
    normals: np.ndarray | None = None
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", np.asanyarray(self.points, dtype=np.float32))
        object.__setattr__(self, "class_index", np.asarray(self.class_index, dtype=np.int64))
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        if self.points.ndim != 3 or self.points.shape[2] != 3:
            raise InputError(f"points have shape {self.points.shape}, expected (shapes, points, 3)")
        if self.normals is not None:
            object.__setattr__(self, "normals", np.asanyarray(self.normals, dtype=np.float32))
            if self.normals.shape != self.points.shape:
                raise InputError(f"normals have shape {self.normals.shape}, expected {self.points.shape} as the points")
        for name, values in {"class_index": self.class_index, "ids": self.ids, **self.properties}.items():
            if values is not None and np.shape(values) != (len(self),):
                raise InputError(f"'{name}' has shape {np.shape(values)}, expected ({len(self)},): one value a shape")
        if len(self) and not 0 <= self.class_index.min() <= self.class_index.max() < len(self.class_names):
            raise InputError(
                f"class_index runs from {self.class_index.min()} to {self.class_index.max()}, "
                f"expected 0 to {len(self.class_names) - 1}: one of {len(self.class_names)} class names"
            )
        if len(set(self.class_names)) != len(self.class_names):
            raise InputError(f"class names are {self.class_names}, expected different ones")
        if self.unit not in UNITS:
            raise InputError(f"got unit '{self.unit}', expected one of {', '.join(UNITS)}")

    def __len__(self) -> int:
        return len(self.points)

    @property
    def num_points(self) -> int:
        """P, the stored points of each shape."""
        return self.points.shape[1]

    @property
    def class_counts(self) -> dict[str, int]:
        """Class name -> number of shapes, in the order of `class_names`."""
        counts = np.bincount(self.class_index, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    @property
    def extents(self) -> np.ndarray:
        """(M, 3) size of each shape's bounding box, in `unit`."""
        parts = [np.ptp(self.points[k : k + _CHUNK], axis=1) for k in range(0, len(self), _CHUNK)]
        return np.concatenate(parts) if parts else np.empty((0, 3), np.float32)

    def select(self, indices: np.ndarray | Sequence[int]) -> ShapeSet:
        """The shapes at `indices` (integers or a boolean mask), in that order; all class names are kept."""
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        return replace(
            self,
            points=self.points[indices],
            class_index=self.class_index[indices],
            normals=None if self.normals is None else self.normals[indices],
            properties={name: np.asarray(values)[indices] for name, values in self.properties.items()},
            ids=None if self.ids is None else self.ids[indices],
        )

    def select_classes(self, names: Sequence[str]) -> ShapeSet:
        """The shapes of the named classes, in the order of the set; these names become `class_names`.

        Raises:
            InputError: a name that the set lacks.
        """
        unknown = [name for name in names if name not in self.class_names]
        if unknown:
            raise InputError(f"no class is called '{unknown[0]}'; known: {', '.join(self.class_names)}")
        new_index = np.full(len(self.class_names), -1)
        new_index[[self.class_names.index(name) for name in names]] = np.arange(len(names))
        kept = self.select(new_index[self.class_index] >= 0)
        return replace(kept, class_index=new_index[kept.class_index], class_names=tuple(names))

    def in_unit(self, unit: str) -> ShapeSet:
        """The same shapes in another unit; the properties, which carry their own units, stay.

        Raises:
            InputError: one of the two units is unknown or `unitless`.
        """
        if unit == self.unit:
            return self
        if self.unit not in METRES or unit not in METRES:
            raise InputError(f"cannot convert from '{self.unit}' to '{unit}', expected two of {', '.join(METRES)}")
        factor = np.float32(METRES[self.unit] / METRES[unit])
        return replace(self, points=self.points * factor, unit=unit)

    @classmethod
    def concatenate(cls, sets: Sequence[ShapeSet]) -> ShapeSet:
        """One set after the other; classes of one name are one. Properties that a set lacks become NaN there.

        Normals and ids stay only where every set has them.

        Raises:
            InputError: no set, or different units or numbers of points.
        """
        if not sets:
            raise InputError("got no shape set, expected at least one")
        if len({(s.unit, s.num_points) for s in sets}) > 1:
            found = ", ".join(sorted({f"{s.num_points} points in '{s.unit}'" for s in sets}))
            raise InputError(f"got sets of {found}, expected one unit and one number of points")
        class_names = tuple(dict.fromkeys(name for s in sets for name in s.class_names))
        class_index = [np.array([class_names.index(n) for n in s.class_names], int)[s.class_index] for s in sets]
        names = list(dict.fromkeys(name for s in sets for name in s.properties))
        normals = [s.normals for s in sets if s.normals is not None]
        ids = [s.ids for s in sets if s.ids is not None]
        return cls(
            points=np.concatenate([s.points for s in sets]),
            class_index=np.concatenate(class_index),
            class_names=class_names,
            unit=sets[0].unit,
            normals=np.concatenate(normals) if len(normals) == len(sets) else None,
            properties={n: np.concatenate([s.properties.get(n, np.full(len(s), np.nan)) for s in sets]) for n in names},
            ids=np.concatenate(ids) if len(ids) == len(sets) else None,
        )

    def digest(self) -> str:
        """Hash of points, classes and unit, which tells one data set from another in a run's provenance."""
        content = hashlib.sha256(f"{self.unit} {self.points.shape} {self.class_names}".encode())
        content.update(self.class_index.tobytes())
        for k in range(0, len(self), _CHUNK):
            content.update(np.ascontiguousarray(self.points[k : k + _CHUNK]).tobytes())
        return content.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write an npz, all or nothing; it is not compressed (noise does not compress), so that it memory-maps."""
        arrays: dict[str, np.ndarray] = {
            "format": np.array(_FORMAT),
            "points": self.points,
            "class_index": self.class_index,
            "class_names": np.array(self.class_names, dtype=np.str_),
            "unit": np.array(self.unit),
        }
        arrays |= {f"property/{name}": np.asarray(v, np.float64) for name, v in self.properties.items()}
        if self.normals is not None:
            arrays["normals"] = self.normals
        if self.ids is not None:
            arrays["ids"] = np.asarray(self.ids, dtype=np.str_)
        with atomic_writer(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path, memory_map: bool = False) -> ShapeSet:
        """Read what `save` wrote.

        Args:
            path: the file.
            memory_map: leave points and normals on the disk until they are used; they are then not checked.

        Raises:
            InputError: any other file, or points that are no numbers.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["format"]) != _FORMAT:
                    raise InputError(f"{path}: format '{file['format']}' is not known to this version of the program")
                large = ("points", "normals") if memory_map else ()
                arrays = {key: file[key] for key in file.files if key not in large}
                arrays |= {key: _map_member(path, key) for key in large if key in file.files}
            shapes = cls(
                points=arrays["points"],
                class_index=arrays["class_index"],
                class_names=tuple(arrays["class_names"].tolist()),
                unit=str(arrays["unit"]),
                normals=arrays.get("normals"),
                properties={
                    key.removeprefix("property/"): values
                    for key, values in arrays.items()
                    if key.startswith("property/")
                },
                ids=arrays.get("ids"),
            )
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a shape set written by this program ({type(error).__name__}: {error})"
            ) from error
        if not memory_map and not np.isfinite(shapes.points).all():
            raise InputError(f"{path}: holds points that are no numbers (NaN or infinite); it is damaged")
        return shapes


def is_shape_set(path: str | Path) -> bool:
    """Whether a file is an npz that `ShapeSet.save` wrote, by its members."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"format.npy", "points.npy", "class_index.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _map_member(path: str | Path, key: str) -> np.ndarray:
    """One array of an uncompressed npz as a read-only memory map."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"'{key}' is compressed and cannot be memory-mapped")
    with open(path, "rb") as file:
        # The central directory does not know the length of the local header: its name and extra fields.
        file.seek(member.header_offset + 26)
        name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
        file.seek(member.header_offset + 30 + name_length + extra_length)
        shape, fortran, dtype = read_npy_header(file)
        if fortran:
            raise ValueError(f"'{key}' is stored column by column")
        return np.memmap(path, dtype, mode="r", offset=file.tell(), shape=shape)


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, column order and type of the npy array that begins here; the file is left at its first value.

    Raises:
        ValueError: it is no npy array, or one of Python objects.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read: they could run code")
    return shape, fortran, dtype
