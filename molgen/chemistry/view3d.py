"""Molecules as balls and sticks that can be turned, for plotly: `figure(mol)`, or `traces(mol)` for one's own scene.

A molecule is one mesh whose colours are an index into the elements it holds, so that hundreds fit on a page.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import plotly.graph_objects as go
import trimesh
from plotly.basedatatypes import BaseTraceType
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Geometry import Point3D

from common.view3d import LIGHT_POSITION, LIGHTING, bare_figure
from molgen.chemistry import elements
from molgen.chemistry.bonds import connected_pairs
from molgen.data.molecules import MoleculeSet

# Angstrom. The radius of a ball grows with the covalent radius of its element.
_BALL, _BALL_GROWTH = 0.16, 0.3
_STICK = {1: 0.095, 2: 0.06, 3: 0.05}
_APART = {1: 0.0, 2: 0.11, 3: 0.15}
_SIDES = 10


def figure(mol: Chem.Mol, height: int = 420) -> go.Figure:
    """A molecule with a 3D conformer (Angstrom) in a bare scene, `height` pixels high."""
    return bare_figure(traces(mol), height)


def traces(mol: Chem.Mol) -> list[BaseTraceType]:
    """Balls and sticks of a molecule with a 3D conformer, and the names of the atoms under the pointer.

    Double and triple bonds are two and three sticks; an aromatic ring is drawn by one of its Kekule structures. Empty
    for a molecule without atoms.
    """
    if not mol.GetNumAtoms():
        return []
    drawn = Chem.Mol(mol)
    if any(bond.GetIsAromatic() for bond in drawn.GetBonds()):
        Chem.Kekulize(drawn, clearAromaticFlags=True)
    positions = drawn.GetConformer().GetPositions()
    positions = positions - (positions.max(axis=0) + positions.min(axis=0)) / 2
    numbers = [atom.GetAtomicNum() for atom in drawn.GetAtoms()]
    kinds = sorted(set(numbers))
    radii = elements.covalent_radii()

    vertices, faces, colours = [], [], []

    def add(part: tuple[np.ndarray, np.ndarray], number: int) -> None:
        faces.append(part[1] + sum(map(len, vertices)))
        vertices.append(part[0])
        colours.append(np.full(len(part[0]), kinds.index(number), np.uint8))

    for number, place in zip(numbers, positions, strict=True):
        points, triangles = _ball()
        add((place + (_BALL + _BALL_GROWTH * float(np.nan_to_num(radii[number]))) * points, triangles), number)
    for bond in drawn.GetBonds():
        order = round(bond.GetBondTypeAsDouble()) if 1 <= bond.GetBondTypeAsDouble() <= 3 else 1
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        start, stop = positions[ends[0]], positions[ends[1]]
        aside = _aside(drawn, positions, *ends)
        for shift in np.linspace(-_APART[order], _APART[order], order) if order > 1 else [0.0]:
            # Each half of a stick in the colour of its atom.
            middle = (start + stop) / 2 + shift * aside
            add(_stick(start + shift * aside, middle, _STICK[order]), numbers[ends[0]])
            add(_stick(stop + shift * aside, middle, _STICK[order]), numbers[ends[1]])
    return [
        _mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(colours), kinds),
        _names(drawn, positions),
    ]


def unbonded(molecules: MoleculeSet, index: int) -> Chem.Mol | None:
    """Atoms in space with a single bond wherever two are close: how a sample without valid bonds is shown.

    None where it has no atoms, an unknown element or coordinates that are not finite. Not sanitised: for pictures only.
    """
    numbers, positions = molecules[index]
    known = (numbers >= 1) & (numbers <= elements.MAX_NUMBER)
    if not len(numbers) or not known.all() or not np.isfinite(positions).all():
        return None
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    for k, (number, place) in enumerate(zip(numbers.tolist(), positions.tolist(), strict=True)):
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
        conformer.SetAtomPosition(k, Point3D(*place))
    for first, second in zip(*connected_pairs(molecules.select([index])), strict=True):
        mol.AddBond(int(first), int(second), Chem.BondType.SINGLE)
    mol.AddConformer(conformer)
    return mol.GetMol()


def formula_svg(mol: Chem.Mol, width: int = 170, height: int = 130) -> str:
    """The structural formula of a sanitised molecule, H implicit, as an SVG of that many pixels."""
    flat = Chem.RemoveHs(mol)
    flat.RemoveAllConformers()
    rdDepictor.Compute2DCoords(flat)
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options = drawer.drawOptions()
    options.clearBackground = False
    options.bondLineWidth = 1
    options.fixedBondLength = 26
    options.padding = 0.08
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, flat)
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def _mesh(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, kinds: list[int]) -> go.Mesh3d:
    x, y, z = vertices.astype(np.float32).T
    # 16 bits for molecules of up to some 200 heavy atoms: half the page.
    i, j, k = faces.astype(np.uint16 if len(vertices) < 2**16 else np.int32).T
    # One element alone still takes two stops.
    shades = [elements.colour(number) for number in (kinds if len(kinds) > 1 else kinds * 2)]
    scale = [[stop / (len(shades) - 1), shade] for stop, shade in enumerate(shades)]
    return go.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k,
        intensity=colours, cmin=0, cmax=len(shades) - 1, colorscale=scale,
        showscale=False, hoverinfo="skip", flatshading=False, lighting=LIGHTING, lightposition=LIGHT_POSITION,
    )  # fmt: skip


def _names(mol: Chem.Mol, positions: np.ndarray) -> go.Scatter3d:
    x, y, z = positions.astype(np.float32).T
    names = []
    for atom in mol.GetAtoms():
        charge = atom.GetFormalCharge()
        sign = f"{abs(charge)}{'+' if charge > 0 else '-'}" if charge else ""
        names.append(f"{atom.GetSymbol()}{sign} (atom {atom.GetIdx() + 1})")
    marker = {"size": 14, "opacity": 0.0}
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, hoverinfo="text", text=names)


def _aside(mol: Chem.Mol, positions: np.ndarray, first: int, second: int) -> np.ndarray:
    """(3,) unit vector across a bond, in the plane of a neighbour where there is one, as a double bond lies."""
    along = positions[second] - positions[first]
    others = [
        positions[neighbour.GetIdx()] - positions[end]
        for end, other in ((first, second), (second, first))
        for neighbour in mol.GetAtomWithIdx(end).GetNeighbors()
        if neighbour.GetIdx() != other
    ]
    for direction in [*others, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])]:
        across = direction - along * (direction @ along) / max(float(along @ along), 1e-12)
        length = float(np.linalg.norm(across))
        if length > 1e-3:
            return across / length
    return np.array([0.0, 0.0, 1.0])


@cache
def _ball() -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the unit sphere."""
    mesh = trimesh.creation.icosphere(2)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _stick(start: np.ndarray, stop: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of an open cylinder."""
    along = stop - start
    along = along / max(float(np.linalg.norm(along)), 1e-12)
    helper = np.eye(3)[np.argmin(np.abs(along))]
    right = np.cross(along, helper)
    right /= np.linalg.norm(right)
    angles = 2 * np.pi * np.arange(_SIDES) / _SIDES
    ring = radius * (np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * np.cross(along, right))
    low = np.arange(_SIDES)
    high, after = low + _SIDES, np.roll(low, -1)
    faces = np.concatenate([np.stack([low, after, high], axis=1), np.stack([after, after + _SIDES, high], axis=1)])
    return np.concatenate([start + ring, stop + ring]), faces
