"""Pictures of point clouds: a contact sheet of shaded clouds, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from scipy.ndimage import gaussian_filter, median_filter
from scipy.spatial import KDTree

from common.atomic import atomic_writer
from common.errors import InputError
from shapegen.geometry.clouds import spacing
from shapegen.geometry.meshes import upright
from shapegen.geometry.normals import principal_normals

MAX_SHAPES = 400
_INK, _PAPER = "#1f2933", "#ffffff"
# Towards the light, as seen by the viewer: from the upper left, a little behind the viewer.
_LIGHT = np.array([-0.40, 0.68, 0.61])
_DPI = 110
# Share of a cell that a cloud fills.
_FILL = 0.82


@dataclass(frozen=True)
class View:
    """An orthographic camera.

    Attributes:
        azimuth_deg: from where it looks, turning about the vertical; 0 looks from -Y.
        elevation_deg: above the horizon.
    """

    azimuth_deg: float = 35.0
    elevation_deg: float = 22.0

    def axes(self) -> np.ndarray:
        """(3, 3): rows are right, up and towards the viewer."""
        a, e = np.radians(self.azimuth_deg), np.radians(self.elevation_deg)
        towards = np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])
        right = np.array([np.cos(a), np.sin(a), 0.0])
        return np.stack([right, np.cross(towards, right), towards])


def contact_sheet(
    clouds: np.ndarray | Sequence[np.ndarray],
    path: str | Path,
    titles: Sequence[str] | None = None,
    *,
    up: str = "z",
    groups: Sequence[int] | None = None,
    normals: Sequence[np.ndarray] | None = None,
    same_scale: bool = False,
    columns: int | None = None,
    cell_inches: float = 1.7,
    view: View | None = None,
    heading: str | None = None,
) -> None:
    """Write a PNG with a small picture of each cloud.

    Points are shaded by their normals and by depth, hidden where they lie behind a surface, and stand on a soft shadow.

    Args:
        clouds: (M, P, 3), or M arrays (P, 3) of different lengths; at most 400 clouds.
        path: of the PNG, written whole or not at all.
        titles: one for each cloud.
        up: which axis points up.
        groups: an integer for each cloud, such as its class; equal ones get the same colour.
        normals: (P, 3) unit vectors for each cloud, signs arbitrary; estimated where None.
        same_scale: draw all clouds at the scale of the largest, so that sizes compare; else each fills its cell.
        columns: pictures in a row; about a square where None.
        cell_inches: side of a picture.
        view: the camera.
        heading: a line above all.

    Raises:
        InputError: no clouds, too many, wrong shapes, or NaN in them.
    """
    clouds = [np.asarray(cloud, dtype=np.float64) for cloud in clouds]
    _check(clouds, titles, groups, normals)
    view = view or View()
    axes3 = view.axes()
    columns = columns or max(1, min(len(clouds), int(np.ceil(np.sqrt(1.6 * len(clouds))))))
    rows = -(-len(clouds) // columns)
    top = 0.42 if heading else 0.08
    width, height = columns * cell_inches, rows * (cell_inches + 0.22) + top
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_PAPER)
    canvas = FigureCanvasAgg(figure)
    if heading:
        figure.text(0.5, 1 - 0.2 / height, heading, ha="center", va="center", color=_INK, fontsize=11)

    seen = [upright(cloud, up) @ axes3.T for cloud in clouds]
    middles = [(one.max(axis=0) + one.min(axis=0)) / 2 for one in seen]
    halves = [float(np.ptp(one[:, :2], axis=0).max() / 2) or 1.0 for one in seen]
    for k, one in enumerate(seen):
        row, column = divmod(k, columns)
        left = column / columns
        bottom = 1 - (top + row * (cell_inches + 0.22) + cell_inches) / height
        ax = _cell(figure, (left, bottom, 1 / columns, cell_inches / height))
        half = (max(halves) if same_scale else halves[k]) / _FILL
        colour = hue(groups[k] if groups is not None else 0)
        directions = None if normals is None else upright(np.asarray(normals[k], dtype=np.float64), up) @ axes3.T
        _draw(ax, (one - middles[k]) / half, directions, axes3, np.array(colour))
        if titles is not None:
            x, y = left + 0.5 / columns, bottom - 0.08 / height
            figure.text(x, y, titles[k], ha="center", va="center", color=_INK, fontsize=7.5)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    with atomic_writer(path, "wb") as file:
        file.write(buffer.getvalue())


def thumbnail(points: np.ndarray, group: int = 0, normals: np.ndarray | None = None, inches: float = 1.2) -> bytes:
    """A PNG of one cloud, as in a cell of the contact sheet.

    Args:
        points: (P, 3), Z up.
        group: an integer such as the class; equal ones get the same colour.
        normals: (P, 3) unit vectors, signs arbitrary; estimated where None.
        inches: side of the picture.

    Raises:
        InputError: a wrong shape, or NaN.
    """
    points = np.asarray(points, dtype=np.float64)
    _check([points], None, None, None if normals is None else [normals])
    axes3 = View().axes()
    seen = points @ axes3.T
    half = float(np.ptp(seen[:, :2], axis=0).max() / 2) or 1.0
    figure = Figure(figsize=(inches, inches), dpi=_DPI, facecolor=_PAPER)
    canvas = FigureCanvasAgg(figure)
    ax = _cell(figure, (0, 0, 1, 1))
    directions = None if normals is None else normals @ axes3.T
    middle = (seen.max(axis=0) + seen.min(axis=0)) / 2
    _draw(ax, (seen - middle) / (half / _FILL), directions, axes3, np.array(hue(group)))
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _cell(figure: Figure, rectangle: tuple[float, float, float, float]) -> Axes:
    """Bare axes from -1 to 1 at (left, bottom, width, height) of a figure."""
    ax = figure.add_axes(rectangle)
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(-1, 1)
    ax.set_ylim(-1, 1)
    return ax


def hue(group: int) -> tuple[float, float, float]:
    """Red, green, blue (0 to 1) of a class: twenty colours, the full ones first, then their lighter neighbours."""
    return colormaps["tab20"]((2 * group + (group // 10) % 2) % 20)[:3]


def _draw(ax: Axes, seen: np.ndarray, normals: np.ndarray | None, axes3: np.ndarray, hue: np.ndarray) -> None:
    """Draw one cloud in camera coordinates: x right, y up, z towards the viewer, within [-1, 1]."""
    drawable = len(seen) > 8 and np.ptp(seen, axis=0).max() > 0
    pitch = spacing(seen) if drawable else 0.05
    pitch = float(np.clip(pitch, 0.008, 0.1))
    _draw_shadow(ax, seen @ axes3, axes3)
    if normals is None:
        normals = principal_normals(seen, 12) if drawable else np.tile([0.0, 0.0, 1.0], (len(seen), 1))
    visible = _visible(seen, pitch)
    seen, normals = seen[visible], normals[visible]
    # Signs are unknown: a visible point's normal looks at the viewer.
    normals = np.where(normals[:, 2:] < 0, -normals, normals)
    light = np.clip(normals @ _LIGHT, 0, 1)
    # Estimated normals are noisy on thin walls: a point is lit as its visible neighbours are.
    _, near = KDTree(seen).query(seen, k=min(8, len(seen)))
    light = light[near].reshape(len(seen), -1).mean(axis=1)
    depth = (seen[:, 2] - seen[:, 2].min()) / max(float(np.ptp(seen[:, 2])), 1e-9)
    shade = ((0.22 + 0.78 * light) * (0.74 + 0.26 * depth))[:, None]
    # From a dark through the plain to a light tone of the hue.
    dark, bright = 0.25 * hue, 0.35 * hue + 0.65
    low, high = dark + (hue - dark) * (shade / 0.6), hue + (bright - hue) * ((shade - 0.6) / 0.4)
    tone = np.where(shade < 0.6, low, high)
    order = np.argsort(seen[:, 2], kind="stable")
    # Diameters in the unit of the picture. Points overlap, so surfaces look closed: less where that hides details.
    sizes = np.full(len(order), pitch * np.clip(2.2 - 25 * pitch, 1.4, 2.0))
    dots = EllipseCollection(
        sizes, sizes, np.zeros(len(order)), units="xy", offsets=seen[order, :2], offset_transform=ax.transData,
        facecolors=np.clip(tone[order], 0, 1), edgecolors="none", linewidths=0,
    )  # fmt: skip
    ax.add_collection(dots)


def _visible(seen: np.ndarray, pitch: float) -> np.ndarray:
    """(P,) bool: False for points far behind the nearest surface at their place of the picture.

    Nearer ones stay, as a face seen at a grazing angle runs away from the viewer as fast; dots in front cover them.
    """
    resolution = int(np.clip(2 / (1.5 * pitch), 4, 200))
    cells = np.clip(((seen[:, :2] + 1) / 2 * resolution).astype(int), 0, resolution - 1)
    nearest = np.full((resolution, resolution), -np.inf)
    np.maximum.at(nearest, (cells[:, 0], cells[:, 1]), seen[:, 2])
    # A cell that the front surface happens to leave empty would show what is behind.
    nearest = np.maximum(nearest, median_filter(nearest, 3))
    return seen[:, 2] >= nearest[cells[:, 0], cells[:, 1]] - 9 * pitch


def _draw_shadow(ax: Axes, local: np.ndarray, axes3: np.ndarray) -> None:
    """A blurred footprint of a cloud in upright axes (P, 3), on the floor below it."""
    size, reach = 96, 1.6
    image, _, _ = np.histogram2d(local[:, 1], local[:, 0], bins=size, range=[[-reach, reach]] * 2)
    image = gaussian_filter(np.minimum(image, 1.0), size / 28)
    colours = np.zeros((size, size, 4))
    colours[..., 3] = 0.24 * image / max(float(image.max()), 1e-9)
    # The floor's x and y as they are seen, and where its origin is.
    (xx, xy, _), (yx, yy, _), _ = axes3
    origin = axes3 @ [0.0, 0.0, local[:, 2].min()]
    skew = Affine2D(np.array([[xx, xy, origin[0]], [yx, yy, origin[1]], [0.0, 0.0, 1.0]]))
    extent = (-reach, reach, -reach, reach)
    ax.imshow(colours, extent=extent, origin="lower", interpolation="bilinear", transform=skew + ax.transData)
    ax.set_xlim(-1, 1)
    ax.set_ylim(-1, 1)


def _check(
    clouds: list[np.ndarray],
    titles: Sequence[str] | None,
    groups: Sequence[int] | None,
    normals: Sequence[np.ndarray] | None,
) -> None:
    if not 1 <= len(clouds) <= MAX_SHAPES:
        raise InputError(f"got {len(clouds)} clouds, a contact sheet shows 1-{MAX_SHAPES}; pick some")
    for name, given in (("titles", titles), ("groups", groups), ("normals", normals)):
        if given is not None and len(given) != len(clouds):
            raise InputError(f"got {len(given)} {name} for {len(clouds)} clouds, expected one for each")
    for k, cloud in enumerate(clouds):
        if cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud):
            raise InputError(f"cloud {k} has the shape {cloud.shape}, expected (P, 3) with P at least 1")
        if not np.isfinite(cloud).all():
            raise InputError(f"cloud {k} has NaN or infinite coordinates")
