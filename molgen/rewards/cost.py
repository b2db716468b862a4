"""What scoring costs: seconds a molecule for each scorer, on one core."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.workers import Failure, WorkerPool
from molgen.chemistry.perception import Perceived, perceive, perceive_one
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.rewards.calculation import GraphItem, PhysicsItem, calculate, processor_seconds
from molgen.rewards.table import REWARDS, Place, Scorer

_SHAKEN_ANGSTROM = 0.03
_ARGUMENTS = {"similarity": "CCO", "substructure": "c1ccccc1"}


def measure_costs(molecules: MoleculeSet, time_limit_s: float = 60.0) -> tuple[dict[str, float], float]:
    """Seconds a molecule for each row of `REWARDS`, NaN where none of the molecules could be scored; and for the
    perception of bonds, which all scorers that need bonds share.

    Mean processor time of one thread, without what is loaded once. The molecules are shaken a little first, as a
    model's samples are: a relaxation of what is relaxed would look cheap.
    """
    noise = _SHAKEN_ANGSTROM * np.random.default_rng(0).standard_normal(molecules.positions.shape, np.float32)
    molecules = dataclasses.replace(molecules, positions=molecules.positions + noise)
    perceived = perceive(molecules, workers=1)
    costs = {}
    with WorkerPool(processor_seconds, workers=1, timeout_s=time_limit_s) as pool:
        for scorer in REWARDS.values():
            if scorer.place in (Place.GRAPH, Place.PHYSICS):
                costs[scorer.name] = _mean_seconds(pool, calculate, _items(scorer, molecules, perceived))
            else:
                call = _direct(scorer, molecules, perceived)
                call()
                started = time.process_time()
                call()
                costs[scorer.name] = (time.process_time() - started) / len(molecules)
        geometries = [(numbers, positions, molecules.charge(i)) for i, (numbers, positions) in enumerate(molecules)]
        return costs, _mean_seconds(pool, perceive_one, geometries)


def _mean_seconds(pool: WorkerPool, function: Callable[[Any], Any], items: Sequence[Any]) -> float:
    work = [(function, item) for item in items]
    for _ in pool.map(work[:1]):  # loads what is loaded once
        pass
    seconds = [result for _, result in pool.map(work) if not isinstance(result, Failure)]
    return sum(seconds) / len(seconds) if seconds else math.nan


def _items(scorer: Scorer, molecules: MoleculeSet, perceived: Sequence[Perceived]) -> list[GraphItem | PhysicsItem]:
    if scorer.place is Place.PHYSICS:
        return [
            PhysicsItem(numbers, positions, molecules.charge(i), (scorer.name,))
            for i, (numbers, positions) in enumerate(molecules)
        ]
    wanted = {scorer.name: (scorer.key, _ARGUMENTS.get(scorer.key, ""))}
    return [GraphItem(one.mol.ToBinary(), wanted) for one in perceived if one.mol is not None]


def _direct(scorer: Scorer, molecules: MoleculeSet, perceived: Sequence[Perceived]) -> Callable[[], Any]:
    if scorer.on_set is not None:
        on_set = scorer.on_set
        return lambda: on_set(molecules, perceived)
    if scorer.on_states is None:
        return lambda: None
    codec = MoleculeCodec(tuple(sorted(set(molecules.numbers.tolist()))))
    measure, state = scorer.on_states(codec), codec.encode(molecules)
    return lambda: measure(state)
