"""Shapes one by one and as they are, all points and all faces: what export and view take."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh

from common.errors import InputError
from common.workers import DIED, TIME_LIMIT, Failure, WorkerPool, available_cores
from shapegen.data.clouds import ARRAYS, read_array
from shapegen.data.files import TIME_LIMIT_S, suffix_problem
from shapegen.data.meshes import MAX_MEMORY_BYTES, limit_memory, parse_mesh
from shapegen.data.records import UP_AXES
from shapegen.data.shapes import METRES, UNITLESS, ShapeSet, is_shape_set
from shapegen.data.streams import check_address, read_bytes


@dataclass(frozen=True)
class ShapeItem:
    """One shape, or where it is.

    Attributes:
        name: no other of the same call to `find_items` has it, and it can be the name of a file.
        source: where it is, for messages.
        points: (P, 3) in `unit`, Z up; None where it is still in the file `source`.
        unit: `m`, `cm`, `mm` or `unitless`.
        class_name: empty where unknown.
        problem: why it cannot be read, where that is known already.
    """

    name: str
    source: str
    points: np.ndarray | None
    unit: str
    class_name: str = ""
    problem: str = ""


# A mesh, or points (P, 3); Z up; and their unit.
Shape = tuple[np.ndarray | trimesh.Trimesh, str]


@dataclass(frozen=True)
class ItemReader:
    """`read_item` in a worker, within limits on memory; `up` is the axis that is up in files that do not say it."""

    up: str = "z"

    def prepare(self) -> None:
        """Limit this process."""
        limit_worker()

    def __call__(self, item: ShapeItem) -> Shape:
        """The shape of an item."""
        return read_item(item, self.up)


def find_items(inputs: Sequence[str | Path], unit: str | None = None, count: int | None = None) -> list[ShapeItem]:
    """The shapes of runs, shape sets, arrays and files, each under a name of its own.

    Args:
        inputs: run directories with samples, `.npz` and `.npy` files, and whatever else `FORMATS` of the readers lists.
        unit: of what does not say its unit; None for unknown.
        count: at most so many of each input; None takes all.

    Raises:
        InputError: nothing there, or a format that is not read.
    """
    if unit is not None and unit not in METRES:
        raise InputError(f"got unit '{unit}', expected one of {', '.join(METRES)}")
    found = [item for given in inputs for item in itertools.islice(_items_of(Path(given), unit or UNITLESS), count)]
    taken: set[str] = set()
    named = []
    for item in found:
        # Names come from files and classes of anyone: nothing in them may lead out of the folder.
        plain = re.sub(r"[^\w.-]+", "_", item.name).lstrip(".") or "shape"
        choices = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        name = next(choice for choice in choices if choice not in taken)
        taken.add(name)
        named.append(replace(item, name=name))
    return named


def read_item(item: ShapeItem, up: str = "z") -> Shape:
    """The mesh or the points (P, 3) of a shape, Z up, and their unit; a closed mesh that is inside out is turned.

    Args:
        item: from `find_items`.
        up: the axis that is up in files that do not say it.

    Raises:
        InputError: the file cannot be read as its suffix says, or holds nothing.
    """
    if item.problem:
        raise InputError(item.problem)
    if item.points is not None:
        # Sets are Z up; bare arrays do not say it. NaN is for those to report who take the shape.
        with np.errstate(invalid="ignore"):
            return (item.points if item.class_name else item.points @ UP_AXES[up].T), item.unit
    suffix = Path(item.source).suffix.lower()
    content = read_bytes(Path(item.source), suffix)
    try:
        shape = parse_mesh(content, suffix)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a parser may raise anything on a damaged file
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(f"cannot be read as {suffix[1:].upper()} ({reason})") from error
    # GLB says its unit and its axes.
    turn = UP_AXES["y" if suffix == ".glb" else up].T.astype(float)
    unit = "m" if suffix == ".glb" else item.unit
    if isinstance(shape, np.ndarray):
        return shape @ turn, unit
    shape.vertices = shape.vertices @ turn
    # A format without shared vertices (STL) would seem all holes.
    shape.merge_vertices(merge_tex=True, merge_norm=True)
    if shape.is_watertight and shape.is_winding_consistent and shape.volume < 0:
        shape.invert()
    return shape, unit


def read_items(items: Sequence[ShapeItem], up: str = "z", workers: int | None = None) -> list[Shape | Failure]:
    """The shapes in their order; files are read by worker processes, and one that cannot be read gives a `Failure`."""
    found: list[Shape | Failure] = [Failure("not read")] * len(items)
    pooled = [k for k, item in enumerate(items) if item.points is None]
    for k in set(range(len(items))) - set(pooled):
        found[k] = read_item(items[k], up)
    if pooled:
        with WorkerPool(ItemReader(up), min(workers or available_cores(), len(pooled)), TIME_LIMIT_S) as pool:
            for index, result in pool.map(items[k] for k in pooled):
                found[pooled[index]] = result
    return found


def limit_worker() -> None:
    """What every worker that opens files of anyone begins with: a limit on memory, and quiet parsers."""
    # trimesh reports harmless oddities of files as warnings, one line each.
    logging.getLogger("trimesh").setLevel(logging.ERROR)
    limit_memory(MAX_MEMORY_BYTES)


def describe_item_failure(failure: Failure) -> str:
    """Why nothing came of a shape, for the user."""
    if failure.reason == "InputError":
        return failure.detail
    if failure.reason == TIME_LIMIT:
        return f"takes {failure.detail}; use fewer points, faces or grid cells"
    if failure.reason == DIED:
        return f"ended its worker ({failure.detail}); damaged or too large"
    if "MemoryError" in failure.reason:
        return "needs more memory than the limit; simplify it"
    return f"{failure.reason}: {failure.detail[:200]}"


def _items_of(path: Path, unit: str) -> Iterator[ShapeItem]:
    # Here, because it brings what draws pictures, which workers don't need.
    from shapegen.results import RAW_SAMPLES

    check_address(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        if not (path / RAW_SAMPLES).exists():
            raise InputError(
                f"{path}: holds no samples; expected a run of `shapegen generate`, or name files: {path}/*"
            )
        path = path / RAW_SAMPLES
    problem = suffix_problem(path)
    if problem is not None:
        raise InputError(f"{path}: {problem}")
    if is_shape_set(path):
        # Not checked here: a broken shape is an account of its own, not the end of the others.
        shapes = ShapeSet.load(path, memory_map=True)
        own = unit if shapes.unit == UNITLESS else shapes.unit
        for k, points in enumerate(shapes.points):
            name = shapes.class_names[shapes.class_index[k]]
            yield ShapeItem(f"{k:05d}-{name}", f"{path}#{k}", np.asarray(points), own, name)
    elif path.suffix.lower() in ARRAYS:
        try:
            clouds = read_array(path)
        except InputError as error:
            yield ShapeItem(path.stem, str(path), None, unit, problem=str(error))
            return
        for k, points in enumerate(clouds):
            single = len(clouds) == 1
            name = path.stem if single else f"{k:05d}-{path.stem}"
            yield ShapeItem(name, str(path) if single else f"{path}#{k}", np.asarray(points), unit)
    else:
        yield ShapeItem(path.stem, str(path), None, unit)
