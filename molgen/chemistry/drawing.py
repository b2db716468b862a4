"""Pictures of molecules: a grid with the structural formula of each above a view of its atoms in space."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from common.errors import InputError
from molgen.chemistry import elements

_CELL_INCHES = 2.3
_ASPECT = 0.85  # height over width of a picture
_LEGEND_CHARACTERS = 30
_DPI = 120


def draw_grid(
    mols: Sequence[Chem.Mol | None],
    legends: Sequence[str],
    path: str | Path,
    columns: int = 4,
    in_space: bool = True,
) -> None:
    """Write a PNG with one cell a molecule: structural formula, ball-and-stick view, legend.

    Args:
        mols: molecules with bonds and, for the view in space, a 3D conformer; None leaves a cell with its legend.
        legends: one text for each molecule; long lines are cut.
        path: the PNG to write.
        columns: cells in a row.
        in_space: whether to draw the view in space under the formula.

    Raises `InputError` for no molecules or a wrong number of legends.
    """
    if not mols or len(mols) != len(legends):
        raise InputError(
            f"got {len(mols)} molecules and {len(legends)} legends, expected as many of each, at least one"
        )
    columns = min(columns, len(mols))
    rows = -(-len(mols) // columns)
    parts = 2 if in_space else 1
    figure = Figure(figsize=(columns * _CELL_INCHES, rows * (parts * _CELL_INCHES * _ASPECT + 0.4)), dpi=_DPI)
    FigureCanvasAgg(figure)
    cells = figure.add_gridspec(rows, columns, left=0.01, right=0.99, bottom=0.01, top=0.99, wspace=0.04, hspace=0.06)
    for k, (mol, legend) in enumerate(zip(mols, legends, strict=True)):
        heights = [1.0] * parts + [0.16]
        cell = cells[k // columns, k % columns].subgridspec(parts + 1, 1, height_ratios=heights, hspace=0.0)
        axes = [figure.add_subplot(cell[part, 0]) for part in range(parts + 1)]
        for axis in axes:
            axis.set_axis_off()
        axes[-1].text(0.5, 0.5, _fitted(legend), ha="center", va="center", fontsize=7.5, parse_math=False)
        if mol is None:
            axes[0].text(0.5, 0.5, "no molecule", ha="center", va="center", fontsize=8, color="#909090")
            continue
        axes[0].imshow(_formula_picture(mol), interpolation="lanczos")
        if in_space and mol.GetNumConformers():
            _draw_in_space(axes[1], mol)
    figure.savefig(path, format="png", facecolor="white")


def _fitted(legend: str) -> str:
    """The legend with every line short enough for its cell."""
    return "\n".join(
        line if len(line) <= _LEGEND_CHARACTERS else line[: _LEGEND_CHARACTERS - 1] + "…" for line in legend.split("\n")
    )


def _formula_picture(mol: Chem.Mol) -> np.ndarray:
    """(height, width, 4) picture of the structural formula with implicit H."""
    flat = Chem.RemoveHs(mol)
    flat.RemoveAllConformers()
    rdDepictor.Compute2DCoords(flat)
    drawer = rdMolDraw2D.MolDraw2DCairo(520, 442)
    options = drawer.drawOptions()
    options.bondLineWidth = 3
    options.fixedBondLength = 85
    options.minFontSize = 26
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, flat)
    drawer.FinishDrawing()
    return matplotlib.image.imread(io.BytesIO(drawer.GetDrawingText()), format="png")


def _draw_in_space(axis: Axes, mol: Chem.Mol) -> None:
    """Balls and sticks seen along the molecule's thinnest direction, far ones first and paler."""
    table = Chem.GetPeriodicTable()
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    position = mol.GetConformer().GetPositions()
    position = position - position.mean(axis=0)
    # Principal axes: the widest extent lies across the picture, the thinnest along the view; then a slight tilt, so
    # that atoms behind one another part.
    _, _, principal = np.linalg.svd(position, full_matrices=True)
    position = position @ (principal * np.sign(np.linalg.det(principal))).T @ _tilt(0.35, 0.25)
    depth = position[:, 2]
    nearness = (depth - depth.min()) / max(np.ptp(depth), 1e-6)
    colours = [np.array(to_rgb(elements.colour(z))) for z in numbers]
    shaded = [colour + (1 - near) * 0.35 * (1 - colour) for colour, near in zip(colours, nearness, strict=True)]
    radii = [0.16 + 0.3 * table.GetRcovalent(z) for z in numbers]

    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        _draw_stick(axis, position, shaded, *ends, bond.GetBondTypeAsDouble())
    for k in np.argsort(depth):
        _draw_ball(axis, (position[k, 0], position[k, 1]), radii[k], shaded[k], depth[k])
    centre = (position[:, :2].max(axis=0) + position[:, :2].min(axis=0)) / 2
    half_width, half_height = np.ptp(position[:, :2], axis=0) / 2 + 0.55
    reach = max(1.6, half_width, half_height / _ASPECT)
    axis.set_xlim(centre[0] - reach, centre[0] + reach)
    axis.set_ylim(centre[1] - reach * _ASPECT, centre[1] + reach * _ASPECT)
    axis.set_aspect("equal")


def _draw_ball(axis: Axes, centre: tuple[float, float], radius: float, colour: np.ndarray, depth: float) -> None:
    axis.add_patch(
        matplotlib.patches.Circle(centre, radius, facecolor=colour * 0.82, edgecolor="#303030", lw=0.5, zorder=depth)
    )
    light = centre[0] - 0.25 * radius, centre[1] + 0.25 * radius
    for share, mix in ((0.68, 0.0), (0.45, 0.25), (0.22, 0.6)):
        axis.add_patch(
            matplotlib.patches.Circle(light, radius * share, facecolor=colour + (1 - colour) * mix, lw=0, zorder=depth)
        )


def _draw_stick(
    axis: Axes, position: np.ndarray, colours: list[np.ndarray], first: int, second: int, order: float
) -> None:
    start, stop = position[first], position[second]
    middle = (start + stop) / 2
    along = (stop - start)[:2]
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
    shifts = {1.0: [0.0], 1.5: [-0.08, 0.08], 2.0: [-0.09, 0.09], 3.0: [-0.15, 0.0, 0.15]}.get(order, [0.0])
    width = 3.4 if len(shifts) == 1 else 1.9
    for line, shift in enumerate(shifts):
        dashed = order == 1.5 and line == 0
        for end, colour in ((start, colours[first]), (stop, colours[second])):
            points = np.stack([end[:2], middle[:2]]) + shift * across
            below = min(end[2], middle[2]) - 0.02
            if not dashed:
                axis.plot(*points.T, color="#303030", lw=width + 1.0, zorder=below - 0.01, solid_capstyle="butt")
            axis.plot(
                *points.T, color=colour * 0.9, lw=width, zorder=below, ls=":" if dashed else "-", solid_capstyle="butt"
            )


def _tilt(about_x: float, about_y: float) -> np.ndarray:
    (cx, sx), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (about_x, about_y))
    return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
