"""`read_shapes`: any folder or file of shapes in, a `ShapeSet` and an account of what was left out."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.workers import DIED, TIME_LIMIT, Failure, WorkerPool, available_cores
from shapegen.data.clouds import ARRAYS, read_array, stack_report
from shapegen.data.meshes import MeshFile, MeshReader
from shapegen.data.records import UP_AXES, ReadReport, Sample, Skipped, cloud_labels, gather, points_problem
from shapegen.data.shapes import UNITLESS, UNITS, ShapeSet, is_shape_set
from shapegen.data.streams import ARCHIVES, MAX_FILE_BYTES, PICKLES, check_address
from shapegen.data.synsets import SYNSETS

logger = logging.getLogger(__name__)

# What each suffix means to a user.
FORMATS = {
    ".obj": "Wavefront OBJ mesh",
    ".ply": "PLY mesh or point cloud",
    ".stl": "STL mesh, text or binary",
    ".off": "OFF mesh",
    ".glb": "binary glTF mesh, metres, Y up",
    ".npy": "point cloud (P, 3) or a stack of them (M, P, 3)",
    ".npz": "shape set of this program, or point clouds in an array called 'points'",
}
# Files that lie beside meshes and are no shapes.
_COMPANIONS = {".mtl", ".png", ".jpg", ".jpeg", ".tga", ".bmp", ".txt", ".md", ".json", ".csv", ".bin", ".html", ""}
_PART_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MAX_FILES = 300_000
TIME_LIMIT_S = 120.0


def read_shapes(
    path: str | Path,
    *,
    points: int = 4096,
    unit: str | None = None,
    up: str = "z",
    classes: Sequence[str] | None = None,
    workers: int | None = None,
    seed: int = 0,
    max_bytes: int = MAX_FILE_BYTES,
) -> ReadReport:
    """Read shapes from a folder (a class is a sub-folder; a flat folder is one class) or from one file.

    Sub-folders called `train`, `val` and `test`, above or below the classes, are a published split. Folders named by a
    ShapeNet synset get the name of its class. Meshes are sampled by area, with normals and labels, in worker processes
    with limits on time and memory; a file that cannot be used is skipped and accounted for. Everything comes out Z up.

    Args:
        path: the folder or file, see `FORMATS`.
        points: points to store of each shape; clouds with more are cut at random, see `records.gather` for fewer.
        unit: of the files that do not say theirs: `m`, `cm`, `mm`, or None for unknown (`unitless`; GLB is metres).
        up: the axis that is up in files that do not say it: `z`, `y` or `-y` (GLB has Y up by definition).
        classes: names of the classes to read; None reads all.
        workers: processes; None takes all cores.
        seed: of the points.
        max_bytes: larger mesh files are skipped.

    Raises:
        InputError: nothing usable there, an unknown class, or an option outside its values.
    """
    check_address(path)
    path = Path(path)
    if up not in UP_AXES:
        raise InputError(f"got up axis '{up}', expected one of {', '.join(UP_AXES)}")
    if unit is not None and unit not in UNITS:
        raise InputError(f"got unit '{unit}', expected one of {', '.join(UNITS)}")
    if points < 1:
        raise InputError(f"got {points} points a shape, expected at least 1")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        files, skipped = _list_folder(path, classes)
    else:
        problem = suffix_problem(path)
        if problem is not None:
            raise InputError(f"{path}: {problem}")
        if path.suffix.lower() in ARRAYS:
            return _log(path, _read_array_file(path, points, unit, up, classes, seed))
        files, skipped = [MeshFile(str(path), path.name, path.stem)], []
    if unit is None:
        unit = "m" if files and all(Path(f.path).suffix.lower() == ".glb" for f in files) else UNITLESS
    reader = MeshReader(points, unit, up, seed, max_bytes)
    samples: list[Sample] = []
    for found in _read_files(files, reader, workers):
        (samples if isinstance(found, Sample) else skipped).append(found)  # type: ignore[arg-type]
    warnings = _remarks(files, samples, unit)
    return _log(path, gather(samples, skipped, str(path), points, unit, warnings))


def suffix_problem(path: Path) -> str | None:
    """Why a file of this name is not read, or None."""
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        return "archives are not read; unpack it"
    if suffix in PICKLES:
        return "is a pickle or weights, which could run code when read; save the points as .npy"
    if suffix == ".gltf":
        return "glTF in several files is not read; export it as .glb"
    if suffix not in FORMATS:
        return f"unknown format '{suffix}'; known: {', '.join(FORMATS)}"
    return None


def describe_failure(failure: Failure, suffix: str) -> str:
    """The reason for the user why a worker could not read a file."""
    if failure.reason == "InputError":
        return failure.detail
    if failure.reason == TIME_LIMIT:
        return f"takes {failure.detail} to read; simplify it"
    if failure.reason == DIED:
        return f"ended its reader ({failure.detail}); damaged or too large"
    if "MemoryError" in failure.reason:
        return "needs more memory than the limit; simplify it"
    return f"cannot be read as {suffix[1:].upper()} ({failure.reason}: {failure.detail[:100]})"


def run_readers(reader: Any, items: Sequence[Any], workers: int | None) -> Iterator[tuple[int, Any]]:
    """(index, `Sample` or `Failure`) of each item, from a pool of worker processes, in no fixed order."""
    if items:
        count = min(available_cores() if workers is None else max(1, workers), len(items))
        with WorkerPool(reader, count, timeout_s=TIME_LIMIT_S) as pool:
            yield from pool.map(items)


def _read_files(files: list[MeshFile], reader: MeshReader, workers: int | None) -> list[Sample | Skipped]:
    """One or more entries a file, in the order of the files."""
    found: list[list[Sample | Skipped]] = [[] for _ in files]
    pooled = []
    for k, file in enumerate(files):
        if Path(file.path).suffix.lower() in ARRAYS:
            found[k] = list(_array_samples(file, reader))
        else:
            pooled.append(k)
    for index, result in run_readers(reader, [files[k] for k in pooled], workers):
        file = files[pooled[index]]
        if isinstance(result, Failure):
            result = Skipped(file.name, describe_failure(result, Path(file.path).suffix.lower()))
        elif not result.properties:  # a cloud in a PLY file
            result = replace(result, properties=_row(cloud_labels(result.points[None], reader.unit), 0))
        found[pooled[index]] = [result]
    return [entry for entries in found for entry in entries]


def _array_samples(file: MeshFile, reader: MeshReader) -> Iterator[Sample | Skipped]:
    try:
        array = read_array(Path(file.path))
    except InputError as error:
        yield Skipped(file.name, str(error))
        return
    for k, cloud in enumerate(array):
        name = file.name if len(array) == 1 else f"{file.name}#{k}"
        problem = points_problem(cloud)
        if problem is not None:
            yield Skipped(name, problem)
            continue
        rng = np.random.default_rng([reader.seed, zlib.crc32(name.encode())])
        chosen = rng.permutation(len(cloud))[: reader.points]
        points = np.asarray(cloud[chosen], np.float32) @ UP_AXES[reader.up].T
        labels = _row(cloud_labels(points[None], reader.unit), 0)
        yield Sample(name, file.class_name, points, properties=labels, part=file.part)


def _row(columns: dict[str, np.ndarray], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in columns.items()}


def _read_array_file(
    path: Path, points: int, unit: str | None, up: str, classes: Sequence[str] | None, seed: int
) -> ReadReport:
    if is_shape_set(path):
        shapes = ShapeSet.load(path)
        if classes is not None:
            shapes = shapes.select_classes(classes)
        if not len(shapes):
            raise InputError(f"{path}: holds no shapes")
        ids = np.array([str(k) for k in range(len(shapes))]) if shapes.ids is None else shapes.ids
        return ReadReport(shapes, groups=ids)
    try:
        array = read_array(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return stack_report(array, path, path.stem, points=points, unit=unit or UNITLESS, up=up, seed=seed)


def _list_folder(root: Path, classes: Sequence[str] | None) -> tuple[list[MeshFile], list[Skipped]]:
    """The files that may be shapes, sorted, with class and part; and those that are none, with the reason."""
    files, skipped, known = [], [], set()
    count = 0
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root).parts
        class_name, part = _class_and_part(inside, root)
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise InputError(f"{root}: holds more than {MAX_FILES} files; name a smaller folder")
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() in _COMPANIONS:
                continue
            known.add(class_name)
            if classes is not None and class_name not in classes:
                continue
            problem = suffix_problem(path)
            relative = path.relative_to(root).as_posix()
            if problem is not None:
                skipped.append(Skipped(relative, problem))
            else:
                files.append(MeshFile(str(path), relative, class_name, part))
    unknown = [name for name in classes or () if name not in known]
    if unknown:
        raise InputError(f"{root}: no class is called '{unknown[0]}'; found: {', '.join(sorted(known)) or 'none'}")
    return files, skipped


def _class_and_part(inside: tuple[str, ...], root: Path) -> tuple[str, str]:
    """Class and published part of the files in a folder, by the names on the way to it."""
    part = next((_PART_FOLDERS[name.lower()] for name in inside[:2] if name.lower() in _PART_FOLDERS), "")
    names = [name for k, name in enumerate(inside) if not (k < 2 and name.lower() in _PART_FOLDERS)]
    name = names[0] if names else root.resolve().name
    return SYNSETS.get(name, name), part


def _remarks(files: list[MeshFile], samples: list[Sample], unit: str) -> list[str]:
    remarks = []
    copies = len(samples) - len({sample.group or sample.name for sample in samples})
    if copies:
        remarks.append(f"{copies} files are copies of others: they stay in one part of a split")
    if unit == UNITLESS:
        remarks.append("the unit of the files is unknown: sizes are kept as they are, without a unit")
        if any(Path(file.path).suffix.lower() == ".glb" for file in files):
            remarks.append("GLB files, which are in metres, lie among files of unknown unit: name the unit")
    top = [file for file in files if "/" not in file.name]
    if top and len(top) < len(files):
        remarks.append(f"{len(top)} files beside the class folders form the class '{top[0].class_name}'")
    return remarks


def _log(path: Path, report: ReadReport) -> ReadReport:
    if report.skipped or report.warnings:
        logger.warning("%s: %s", path, "; ".join(report.lines()))
    return report
