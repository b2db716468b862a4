"""What a scoring worker does with one item: the numbers asked for, or why there are none. Free of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.user_function import as_score
from common.workers import Failure

Scores = dict[str, "float | Failure"]


@dataclass(frozen=True)
class GraphItem:
    """A molecule with bonds.

    Attributes:
        mol: RDKit's binary of a sanitised molecule with explicit H.
        wanted: column -> (name in `graph.FUNCTIONS`, argument).
    """

    mol: bytes
    wanted: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class PhysicsItem:
    """Atoms in space.

    Attributes:
        numbers: (n,) atomic numbers.
        positions: (n, 3), Angstrom.
        charge: total.
        columns: of `physics.SINGLE_POINT`, or `physics.STRAIN` alone.
    """

    numbers: np.ndarray
    positions: np.ndarray
    charge: int
    columns: tuple[str, ...]


def calculate(item: GraphItem | PhysicsItem) -> Scores | Failure:
    """A worker's task. A `Failure` in the place of a dict counts for all columns of the item."""
    return _graph(item) if isinstance(item, GraphItem) else _physics(item)


def processor_seconds(work: tuple[Callable[[Any], Any], Any]) -> float:
    """A worker's task: what a function of one item costs in seconds of processor time, on which a busy machine has
    little influence."""
    function, item = work
    started = time.process_time()
    function(item)
    return time.process_time() - started


def _graph(item: GraphItem) -> Scores:
    from rdkit import Chem, rdBase

    from molgen.rewards import graph

    scores: Scores = {}
    with rdBase.BlockLogs():
        mol = Chem.RemoveHs(Chem.Mol(item.mol))  # type: ignore[call-overload]
        for column, (name, argument) in item.wanted.items():
            try:
                scores[column] = as_score(graph.FUNCTIONS[name](mol, argument))
            except Exception as error:  # counted under its name; one scorer's trouble is not its neighbours'
                scores[column] = Failure(type(error).__name__, str(error))
    return scores


def _physics(item: PhysicsItem) -> Scores | Failure:
    from molgen.rewards import physics

    geometry = item.numbers, np.asarray(item.positions, dtype=np.float64), item.charge
    if item.columns == (physics.STRAIN,):
        value = physics.strain(*geometry)
        return value if isinstance(value, Failure) else {physics.STRAIN: as_score(value)}
    values = physics.single_point(*geometry, item.columns)
    return values if isinstance(values, Failure) else {name: as_score(value) for name, value in values.items()}
