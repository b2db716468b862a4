"""LDraw: the parts library itself (`parts/` and `p/`, .dat files), or sampled points with a table beside them.

File format: ldraw.org/article/218.html and, for the winding of faces (BFC), 415.html. One LDraw unit is 0.4 mm, -Y is
up. Studs and other primitives are sub-files; everything is resolved inside the library folder.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh

from common.errors import InputError
from common.workers import Failure
from shapegen.data.clouds import read_array
from shapegen.data.files import describe_failure, run_readers
from shapegen.data.meshes import MAX_FACES, MAX_MEMORY_BYTES, limit_memory, sample_mesh
from shapegen.data.records import UP_AXES, ReadReport, Sample, Skipped, cloud_labels, gather, set_warnings
from shapegen.data.shapes import ShapeSet
from shapegen.data.streams import read_bytes

logger = logging.getLogger(__name__)

MM_PER_UNIT = 0.4
TABLE = "parts.csv"
_CACHED_TRIANGLES = 2000
# Lines of a part's head in which its category may stand.
_HEAD_LINES = 40


@dataclass(frozen=True)
class Part:
    """A part of the library.

    Attributes:
        triangles: (T, 3, 3) float64 in LDraw units and axes.
        certified: all of its faces have a declared winding, so that normals point outwards.
    """

    triangles: np.ndarray
    certified: bool


@dataclass
class Library:
    """The .dat files of one LDraw library, by their names in lower case.

    Attributes:
        folder: holds `parts` and `p`.
        paths: name as files write it (`3001.dat`, `s/3001s01.dat`, `48/4-4edge.dat`) -> file.
    """

    folder: Path
    paths: dict[str, Path] = field(default_factory=dict)
    _cache: dict[str, Part] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Library:
        """Index a library.

        Raises:
            InputError: the folder lacks `parts` or `p`.
        """
        paths: dict[str, Path] = {}
        # Parts win over primitives of the same name, as in LDraw's search order.
        for inner in ("p", "parts"):
            root = next((child for child in folder.iterdir() if child.is_dir() and child.name.lower() == inner), None)
            if root is None:
                raise InputError(f"{folder}: holds no folder '{inner}'; expected an LDraw library with parts and p")
            paths |= {p.relative_to(root).as_posix().lower(): p for p in sorted(root.rglob("*")) if _is_dat(p)}
        return cls(folder, paths)

    def part_names(self) -> list[str]:
        """Names of the parts themselves: no sub-parts, no primitives."""
        return sorted(
            name for name, path in self.paths.items() if "/" not in name and path.parent.name.lower() == "parts"
        )

    def header(self, name: str) -> tuple[str, str]:
        """Description and category of a part; the category is the description's first word where none is declared."""
        description, category = "", ""
        with open(self.paths[name], encoding="utf-8", errors="replace") as file:
            for number, line in zip(range(_HEAD_LINES), file, strict=False):
                words = line.split()
                if number == 0 and words[:1] == ["0"]:
                    description = " ".join(words[1:])
                elif words[:2] == ["0", "!CATEGORY"]:
                    category = " ".join(words[2:])
                elif words[:1] in (["1"], ["3"], ["4"]):
                    break
        if not category and description:
            category = description.split()[0].strip("~=_|")
        return description, category

    def resolve(self, name: str) -> Part:
        """All triangles of a part, its sub-files included.

        Raises:
            InputError: a sub-file is missing or contains itself, a line is broken, or there are too many faces.
        """
        return self._resolve(name.lower().replace("\\", "/"), ())

    def _resolve(self, name: str, inside: tuple[str, ...]) -> Part:
        if name in self._cache:
            return self._cache[name]
        if name not in self.paths:
            raise InputError(f"sub-file '{name}' is not in the library")
        if name in inside:
            raise InputError(f"sub-file '{name}' contains itself")
        try:
            content = read_bytes(self.paths[name], ".dat")
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        part = self._parse(content.decode("utf-8", errors="replace"), name, inside)
        # Primitives come back in many parts; a part itself does not.
        if inside and len(part.triangles) <= _CACHED_TRIANGLES:
            self._cache[name] = part
        return part

    def _parse(self, text: str, name: str, inside: tuple[str, ...]) -> Part:
        """The lines of one file. Faces that a line `BFC CW` declares clockwise are turned."""
        certified: bool | None = None
        clockwise = invert_next = False
        faces: list[np.ndarray] = []
        blocks: list[np.ndarray] = []
        count = 0
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            kind = words[0]
            if kind == "0":
                if len(words) > 2 and words[1] == "BFC":
                    invert_next = "INVERTNEXT" in words
                    if "CERTIFY" in words or "NOCERTIFY" in words:
                        certified = "NOCERTIFY" not in words
                    if "CW" in words or "CCW" in words:
                        clockwise = "CW" in words
                continue
            if kind == "1" and len(words) >= 15:
                matrix = _numbers(words[2:14], name, number)
                sub = self._resolve(" ".join(words[14:]).lower().replace("\\", "/"), (*inside, name))
                turn = matrix[3:].reshape(3, 3)
                moved = sub.triangles @ turn.T + matrix[:3]
                # A mirroring matrix turns the winding round, and so does INVERTNEXT; both together leave it.
                if (np.linalg.det(turn) < 0) != invert_next:
                    moved = moved[:, ::-1]
                blocks.append(moved)
                count += len(moved)
                certified = certified if sub.certified or not len(moved) else False
            elif kind in ("3", "4") and len(words) >= (11 if kind == "3" else 14):
                corners = _numbers(words[2 : 11 if kind == "3" else 14], name, number).reshape(-1, 3)
                corners = corners[::-1] if clockwise else corners
                faces.append(corners[[0, 1, 2]])
                if kind == "4":
                    faces.append(corners[[0, 2, 3]])
            elif kind in ("1", "3", "4"):
                raise InputError(f"{name}, line {number}: {len(words)} fields are too few for a line of type {kind}")
            invert_next = False
            if count + len(faces) > MAX_FACES:
                raise InputError(f"{name}: more than {MAX_FACES} faces")
        if faces:
            blocks.append(np.stack(faces))
        triangles = np.concatenate(blocks) if blocks else np.empty((0, 3, 3))
        return Part(triangles, bool(certified) or not len(triangles))


@dataclass
class PartReader:
    """Reads parts in a worker: `folder` of the library, `points` on each, `seed` of the points."""

    folder: str
    points: int
    seed: int
    _library: Library | None = None

    def prepare(self) -> None:
        """Index the library once a worker."""
        limit_memory(MAX_MEMORY_BYTES)
        self._library = Library.open(Path(self.folder))

    def __call__(self, item: tuple[str, str]) -> Sample:
        """The sample, in mm and Z up, of (name of the part, category)."""
        name, category = item
        library = self._library or Library.open(Path(self.folder))
        part = library.resolve(name)
        if not len(part.triangles):
            raise InputError("has no faces")
        vertices = part.triangles.reshape(-1, 3) * MM_PER_UNIT @ UP_AXES["-y"].T.astype(float)
        mesh = trimesh.Trimesh(vertices, np.arange(len(vertices)).reshape(-1, 3), process=False)
        size = np.round(np.sort(np.ptp(vertices, axis=0)), 1)
        sample = Sample(
            f"{category}/{name}",
            category,
            np.empty((0, 3)),
            group=group_name(category, len(part.triangles), size),
            notes=(),
        )
        rng = np.random.default_rng([self.seed, len(part.triangles), *name.encode()])
        sample = sample_mesh(mesh, sample, self.points, "mm", rng)
        if not part.certified:
            sample.notes.append("parts declare no winding: their normals may point inwards")  # type: ignore[attr-defined]
        return sample


def group_name(category: str, num_triangles: int, size_mm: np.ndarray) -> str:
    """Near-duplicates (prints, other colours, moved holes) share category, number of triangles and size in mm."""
    return f"{category}/{num_triangles}/" + "x".join(f"{value:.1f}" for value in np.sort(size_mm))


def load_ldraw(
    folder: Path,
    *,
    points: int = 4096,
    classes: Sequence[str] | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> ReadReport:
    """The parts in a folder, in mm, Z up, a class a category.

    Args:
        folder: an LDraw library, or a folder with `parts.csv` and one npz of points.
        points: points to store of each part (of sampled points: at most what is there).
        classes: categories to read; None reads all (a whole library has over 20,000 parts).
        workers: processes; None takes all cores.
        seed: of the points.

    Raises:
        InputError: nothing of that kind there, or an unknown category.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put an LDraw library there (folders parts and p)")
    if (folder / TABLE).is_file():
        return _load_table(folder, points, classes, seed)
    library = Library.open(folder)
    items, categories = [], set()
    for name in library.part_names():
        description, category = library.header(name)
        # `~Moved to` names the new file of a renamed part; `~` and `_` mark what is not a part of its own.
        if description.startswith(("~", "_")) or not category:
            continue
        categories.add(category)
        if classes is None or category in classes:
            items.append((name, category))
    _check_classes(classes, categories, folder)
    samples, skipped = {}, []
    for index, result in run_readers(PartReader(str(folder), points, seed), items, workers):
        if isinstance(result, Failure):
            skipped.append(Skipped(items[index][0], describe_failure(result, ".dat")))
        else:
            samples[index] = result
    return gather([samples[k] for k in sorted(samples)], sorted(skipped), str(folder), points, "mm")


def _load_table(folder: Path, points: int, classes: Sequence[str] | None, seed: int) -> ReadReport:
    """Sampled points: int16 of the largest half-extent, and a table that gives the true size in mm."""
    arrays = sorted(folder.glob("*.npz"))
    if len(arrays) != 1:
        raise InputError(f"{folder}: holds {len(arrays)} npz files beside {TABLE}, expected one")
    try:
        clouds = read_array(arrays[0])
        with open(folder / TABLE, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        categories = np.array([row["category"] for row in rows], dtype=np.str_)
        sizes = np.array([[float(row[f"d{axis}_mm"]) for axis in "xyz"] for row in rows])
        triangles = [int(row["n_tri"]) for row in rows]
        names = [row["file"] for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: {arrays[0].name} and {TABLE} cannot be read ({error})") from error
    if len(rows) != len(clouds):
        raise InputError(f"{folder}: {len(rows)} rows in {TABLE} for {len(clouds)} clouds; they do not belong together")
    _check_classes(classes, set(categories), folder)
    kept = np.flatnonzero(np.isin(categories, list(classes or categories)) & (sizes.max(axis=1) > 0))
    stored = min(points, clouds.shape[1])
    rng = np.random.default_rng(seed)
    chosen = rng.permuted(np.tile(np.arange(clouds.shape[1]), (len(kept), 1)), axis=1)[:, :stored]
    integer = clouds.dtype.kind in "iu"
    unit_cloud = np.take_along_axis(clouds[kept], chosen[:, :, None], axis=1).astype(np.float32)
    unit_cloud /= np.float32(np.iinfo(clouds.dtype).max if integer else 1)
    half = (sizes[kept].max(axis=1) / 2).astype(np.float32)
    cloud = unit_cloud * half[:, None, None] @ UP_AXES["-y"].T
    class_names, class_index = np.unique(categories[kept], return_inverse=True)
    shapes = ShapeSet(
        points=cloud,
        class_index=class_index,
        class_names=tuple(class_names.tolist()),
        unit="mm",
        properties=cloud_labels(cloud, "mm"),
        ids=np.array([f"{categories[k]}/{names[k]}" for k in kept]),
    )
    groups = np.array([group_name(categories[k], triangles[k], sizes[k]) for k in kept])
    warnings = set_warnings(shapes)
    if stored < points:
        warnings.insert(0, f"{stored} points a shape are stored instead of {points}: the file holds no more")
    return ReadReport(shapes, [], groups, None, warnings)


def _is_dat(path: Path) -> bool:
    return path.suffix.lower() == ".dat" and path.is_file()


def _check_classes(classes: Sequence[str] | None, known: set[str], folder: Path) -> None:
    unknown = [name for name in classes or () if name not in known]
    if unknown:
        raise InputError(f"{folder}: no category is called '{unknown[0]}'; found: {', '.join(sorted(known)[:40])}")


def _numbers(words: Sequence[str], name: str, number: int) -> np.ndarray:
    try:
        return np.array(words, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{name}, line {number}: a coordinate is no number") from error
