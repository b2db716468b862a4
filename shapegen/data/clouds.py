"""Point clouds in numpy files: one cloud (P, 3) or a stack of them (M, P, 3)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from common.errors import InputError
from shapegen.data.records import UP_AXES, ReadReport, Skipped, cloud_labels, points_problem, set_warnings
from shapegen.data.shapes import ShapeSet, read_npy_header
from shapegen.data.streams import MAX_ARRAY_BYTES, check_readable, unpacked_bytes

ARRAYS = (".npy", ".npz")
# Names that data sets in use give to the array of points.
_KEYS = ("points", "pointcloud", "point_cloud", "pc", "samples", "arr_0")


def read_array(path: Path, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """The points of a numpy file as (M, P, 3), M = 1 for a single cloud; an npy file is memory-mapped.

    Raises:
        InputError: not a numpy file, too large, not numbers, or another shape.
    """
    suffix = path.suffix.lower()
    check_readable(path, suffix, max_bytes)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False) if suffix == ".npy" else _from_npz(path, max_bytes)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot be read as {suffix[1:].upper()} ({error})") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"holds values of type {array.dtype}, expected numbers")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(f"holds an array of shape {array.shape}, expected (points, 3) or (shapes, points, 3)")
    return array


def _from_npz(path: Path, max_bytes: int) -> np.ndarray:
    total = unpacked_bytes(path)
    if total > max_bytes:
        raise InputError(f"unpacks to {total / 2**20:.0f} MiB, more than the limit of {max_bytes / 2**20:.0f} MiB")
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        known = [key for key in _KEYS if key in names] or (names if len(names) == 1 else [])
        if not known:
            raise InputError(f"holds the arrays {', '.join(names[:8])}, expected one called 'points'")
        member = archive.getinfo(f"{known[0]}.npy")
        with archive.open(member) as file:
            # A header may promise what the file does not hold, and memory is taken by the header.
            shape, _, dtype = read_npy_header(file)
            if int(np.prod(shape, dtype=object)) * dtype.itemsize > member.file_size:
                raise InputError(f"'{known[0]}' has a header of shape {shape} but less data; it is damaged")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[known[0]]


def stack_report(
    array: np.ndarray, path: Path, class_name: str, *, points: int, unit: str, up: str, seed: int
) -> ReadReport:
    """The report of a stack (M, P, 3) that is a set by itself; what needs no change stays memory-mapped.

    Raises:
        InputError: no cloud can be used.
    """
    problems = [points_problem(cloud) for cloud in array]
    skipped = [Skipped(f"{path.name}#{k}", problem) for k, problem in enumerate(problems) if problem]
    kept = np.flatnonzero([problem is None for problem in problems])
    if not len(kept):
        raise InputError(f"{path}: none of its {len(skipped)} clouds can be used; {skipped[0].reason}")
    stored = min(points, array.shape[1])
    if len(kept) < len(array):
        array = array[kept]
    if stored < array.shape[1]:
        rng = np.random.default_rng(seed)
        chosen = np.stack([rng.choice(array.shape[1], stored, replace=False) for _ in range(len(array))])
        array = np.take_along_axis(array, chosen[:, :, None], axis=1)
    if up != "z":
        array = np.asarray(array, np.float32) @ UP_AXES[up].T
    ids = np.array([f"{path.name}#{k}" for k in kept])
    shapes = ShapeSet(
        points=array,
        class_index=np.zeros(len(array), np.int64),
        class_names=(class_name,),
        unit=unit,
        properties=cloud_labels(np.asarray(array), unit),
        ids=ids,
    )
    warnings = set_warnings(shapes)
    if stored < points:
        warnings.insert(0, f"{stored} points a shape are stored instead of {points}: the file holds no more")
    return ReadReport(shapes, skipped, ids, None, warnings)
