"""Clouds and meshes to files for printers and scenes, in worker processes: one bad shape never stops the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from common.atomic import atomic_writer
from common.errors import InputError
from common.workers import Failure, WorkerPool, available_cores
from shapegen.data.items import ShapeItem, describe_item_failure, limit_worker, read_item
from shapegen.data.records import UP_AXES
from shapegen.data.shapes import METRES, UNITLESS
from shapegen.geometry.clouds import check_cloud, spacing
from shapegen.geometry.meshes import FORMATS, MeshReport, check_mesh, export_mesh, in_file_frame, inspect, repair
from shapegen.geometry.reconstruction import check_resolution, reconstruct

# Below so many points, walls and rods of everyday objects get thinner than the points can tell.
FINE_POINTS = 8192
CLOUD_FORMATS = ("ply", "glb")
_TIME_LIMIT_S = 900.0


@dataclass(frozen=True)
class Exported:
    """What became of one shape.

    Attributes:
        name, source: as in `ShapeItem`.
        files: names of the files written.
        points: of the cloud that came in; 0 for a mesh.
        report: on the mesh as it was read back, lengths in millimetres; None for a cloud, or where it failed.
        extents_mm: (x, y, z) size in the files, Z up.
        wall_mm: walls thinner than this may be lost: the spacing of the points; None for a mesh.
        stray_points: points that were left out as far from all others.
        bridged: share of the surface that no point is near to (`geometry.reconstruction`); None if not reconstructed.
        occupancy_mm3: volume by the occupancy of the field, without the mesh; None if not reconstructed.
        problem: why there are no files; empty where all is well.
    """

    name: str
    source: str
    files: tuple[str, ...] = ()
    points: int = 0
    report: MeshReport | None = None
    extents_mm: tuple[float, float, float] | None = None
    wall_mm: float | None = None
    stray_points: int = 0
    bridged: float | None = None
    occupancy_mm3: float | None = None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return {**vars(self), "report": None if self.report is None else self.report.as_json()}


@dataclass(frozen=True)
class ShapeExporter:
    """Writes the files of one shape in a worker.

    Attributes:
        folder: where they go; it exists.
        formats: of `FORMATS`; of `CLOUD_FORMATS` for points.
        mesh: reconstruct a surface from points; a mesh stays a mesh.
        watertight: mend what is open.
        scale_mm: the longest side in millimetres; None keeps the recorded size.
        up: the axis that is up in files that do not say it.
        resolution: grid cells along the longest side; None chooses by the spacing of the points.
    """

    folder: str
    formats: tuple[str, ...]
    mesh: bool = True
    watertight: bool = False
    scale_mm: float | None = None
    up: str = "z"
    resolution: int | None = None

    def check(self) -> None:
        """Raise `InputError` for what no shape could be exported with."""
        known = FORMATS if self.mesh else CLOUD_FORMATS
        for kind in self.formats:
            if kind not in known:
                hint = "; --mesh makes surfaces of points" if kind in FORMATS else ""
                raise InputError(f"got the format '{kind}', expected some of {', '.join(known)}{hint}")
        if not self.formats:
            raise InputError(f"got no format, expected some of {', '.join(known)}")
        if self.scale_mm is not None and not 0 < self.scale_mm < 1e6:
            raise InputError(f"got a size of {self.scale_mm} mm, expected more than 0 and less than 1,000,000")
        if self.up not in UP_AXES:
            raise InputError(f"got the up axis '{self.up}', expected one of {', '.join(UP_AXES)}")
        check_resolution(self.resolution)
        if self.watertight and not self.mesh:
            raise InputError("points cannot be watertight; add --mesh to make surfaces of them")

    def prepare(self) -> None:
        """Limit this process."""
        limit_worker()

    def __call__(self, item: ShapeItem) -> Exported:
        """Write the files of one shape.

        Raises:
            InputError: why it cannot be done. Anything else that is raised is counted by the caller.
        """
        shape, unit = read_item(item, self.up)
        if unit == UNITLESS and self.scale_mm is None:
            raise InputError("has no unit, so its size is unknown; give --scale-mm, or --unit for what it is in")
        unit_mm = 1000 * METRES.get(unit, 1.0)
        if isinstance(shape, trimesh.Trimesh):
            if not self.mesh:
                raise InputError("is a mesh; add --mesh to write it as one")
            return self._write_mesh(Exported(item.name, item.source), shape, unit_mm)
        points = check_cloud(shape)
        pitch = spacing(np.unique(points, axis=0))
        made = Exported(item.name, item.source, points=len(points))
        if not self.mesh:
            factor = self._factor(points, unit_mm)
            return self._write_cloud(replace(made, wall_mm=pitch * factor), points * factor)
        found = reconstruct(points, self.resolution)
        made = self._write_mesh(made, found.mesh, unit_mm)
        factor = self._factor(found.mesh.vertices, unit_mm)
        return replace(
            made,
            wall_mm=pitch * factor,
            stray_points=found.stray_points,
            bridged=found.bridged,
            occupancy_mm3=found.occupancy * factor**3,
        )

    def _factor(self, points: np.ndarray, unit_mm: float) -> float:
        """Millimetres in the files for one unit of the shape."""
        return unit_mm if self.scale_mm is None else self.scale_mm / float(np.ptp(points, axis=0).max())

    def _write_mesh(self, made: Exported, mesh: trimesh.Trimesh, unit_mm: float) -> Exported:
        check_mesh(mesh)
        if self.watertight and not inspect(mesh).watertight:
            mesh = repair(mesh)
        files, reports = [], []
        for kind in self.formats:
            files.append(f"{made.name}.{kind}")
            path = Path(self.folder, files[-1])
            reports.append(_in_mm(export_mesh(mesh, path, scale_mm=self.scale_mm, unit_mm=unit_mm), kind))
        # The worst file speaks for the shape: no defect is hidden.
        worst = min(reports, key=lambda report: report.watertight)
        return replace(made, files=tuple(files), report=worst, extents_mm=worst.extents)

    def _write_cloud(self, made: Exported, points_mm: np.ndarray) -> Exported:
        files = []
        for kind in self.formats:
            files.append(f"{made.name}.{kind}")
            cloud = trimesh.PointCloud(in_file_frame(points_mm, kind))
            with atomic_writer(Path(self.folder, files[-1]), "wb") as file:
                file.write(cloud.export(file_type=kind))
        width, depth, height = np.ptp(points_mm, axis=0).tolist()
        return replace(made, files=tuple(files), extents_mm=(width, depth, height))


def export_shapes(
    items: Sequence[ShapeItem],
    exporter: ShapeExporter,
    workers: int | None = None,
    time_limit_s: float = _TIME_LIMIT_S,
) -> Iterator[tuple[int, Exported]]:
    """Yield (index, outcome) as shapes are done, in no fixed order; a shape that fails has its reason in `problem`.

    Args:
        items: from `find_items`.
        exporter: what to write, and where.
        workers: processes; None takes all cores.
        time_limit_s: for one shape.
    """
    if not items:
        return
    with WorkerPool(exporter, min(workers or available_cores(), len(items)), timeout_s=time_limit_s) as pool:
        for index, result in pool.map(items):
            if isinstance(result, Failure):
                result = Exported(items[index].name, items[index].source, problem=describe_item_failure(result))
            yield index, result


def _in_mm(report: MeshReport, kind: str) -> MeshReport:
    """A file's report in millimetres, Z up."""
    if kind != "glb":
        return report
    width, height, depth = report.extents
    return replace(
        report,
        hole_lengths=tuple(1e3 * length for length in report.hole_lengths),
        extents=(1e3 * width, 1e3 * depth, 1e3 * height),
        area=1e6 * report.area,
        volume=None if report.volume is None else 1e9 * report.volume,
    )
