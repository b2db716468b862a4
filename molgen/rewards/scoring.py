"""`MoleculeScorer`: raw scores of molecules, from workers, with a reason wherever one is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from common.errors import InputError
from common.rewards import PREDICTED, Score, ScoreCache, geometry_hash
from common.rewards.scoring import NOT_KEPT, ScoreTable, by_sample, call_user_function, check_scorers, score_of
from common.workers import Closing, Failure, Launcher, WorkerPool
from molgen.chemistry.perception import CRASHED, TIME_OUT, Perceived, perceive
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.rewards.calculation import GraphItem, PhysicsItem, calculate
from molgen.rewards.physics import STRAIN
from molgen.rewards.table import Place, Scorer

# Before the reason of perception, in those of scorers that need bonds.
_NO_BONDS = "no bonds, "


class MoleculeScorer(Closing):
    """Scores sets of molecules; its workers stay for later calls until `close`.

    RDKit and xTB share a pool; every user function has one of its own, so that nothing it imports or breaks touches the
    others. A molecule whose bonds cannot be perceived fails the scorers that need bonds, with perception's reason.

    Args:
        scorers: what to compute; names differ.
        workers: processes a pool; None for one a core.
        time_limit_s: for one molecule and one kind of calculation (a batch of a user function has as many times that).
        cache: scores known from before; None for a new one in memory.
        launcher: where workers run; None for this machine.

    Raises:
        InputError: two scorers of one name, or a package that one needs is missing.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        workers: int | None = None,
        time_limit_s: float = 60.0,
        cache: ScoreCache | None = None,
        launcher: Launcher | None = None,
    ):
        check_scorers([s.name for s in scorers], {s.name: s.packages for s in scorers}, time_limit_s)
        self.scorers = tuple(scorers)
        self.cache = ScoreCache() if cache is None else cache
        self._workers, self._time_limit_s, self._launcher = workers, time_limit_s, launcher
        self._pools: dict[str, WorkerPool] = {}

    def close(self) -> None:
        """End the workers and close the cache's file."""
        for pool in self._pools.values():
            pool.close()
        self._pools = {}
        self.cache.close()

    def score(self, molecules: MoleculeSet, perceived: Sequence[Perceived] | None = None) -> ScoreTable:
        """Score M molecules. None raises: a molecule that cannot be scored has NaN and a reason.

        Args:
            molecules: the set; total charges are taken from it.
            perceived: their molecules with bonds, if known; otherwise perceived here where needed.
        """
        geometry = [
            geometry_hash(positions, numbers, molecules.charge(i)) for i, (numbers, positions) in enumerate(molecules)
        ]
        in_workers = [s for s in self.scorers if s.place in (Place.GRAPH, Place.PHYSICS, Place.USER)]
        prefixes = {s.name: s.fingerprint for s in in_workers}
        keys = {name: [f"{prefix}|{digest}" for digest in geometry] for name, prefix in prefixes.items()}
        known = self.cache.find(key for column in keys.values() for key in column)
        todo = {name: _first_unknown(column, known) for name, column in keys.items()}
        perceived = self._perceive(molecules, perceived, todo)

        fresh: dict[str, Score] = {}
        details: dict[str, str] = {}
        for index, name, result in self._compute(molecules, perceived, todo):
            fresh[keys[name][index]] = score_of(result, name, details)
        self.cache.add({key: score for key, score in fresh.items() if _is_kept(score.reason)})
        known |= fresh

        values: dict[str, np.ndarray] = {}
        reasons: dict[str, Sequence[str]] = {}
        for scorer in self.scorers:
            if scorer.name in keys:
                scores = [known[key] for key in keys[scorer.name]]
                values[scorer.name] = np.array([score.value for score in scores], dtype=np.float64)
                reasons[scorer.name] = [score.reason for score in scores]
            else:
                values[scorer.name], reasons[scorer.name] = _score_directly(scorer, molecules, perceived)
        return ScoreTable(values, reasons, details)

    def _perceive(
        self, molecules: MoleculeSet, perceived: Sequence[Perceived] | None, todo: Mapping[str, list[int]]
    ) -> Sequence[Perceived]:
        """Bonds of the molecules that some scorer needs them for; a stand-in for the others."""
        if perceived is not None:
            return perceived
        needing = [scorer for scorer in self.scorers if scorer.uses_bonds]
        everything = range(len(molecules))
        wanted = sorted({index for scorer in needing for index in todo.get(scorer.name, everything)})
        result = [Perceived(None, "not looked at")] * len(molecules)
        for index, one in zip(wanted, perceive(molecules.select(wanted), self._workers), strict=True):
            result[index] = one
        return result

    def _compute(
        self, molecules: MoleculeSet, perceived: Sequence[Perceived], todo: Mapping[str, list[int]]
    ) -> Iterator[tuple[int, str, Any]]:
        """(index of the molecule, name of the scorer, float or `Failure`) for all that is to do."""
        for scorer in self.scorers:
            if scorer.place in (Place.GRAPH, Place.USER):
                for index in todo[scorer.name]:
                    if not perceived[index].valid:
                        yield index, scorer.name, Failure(f"{_NO_BONDS}{perceived[index].reason}")
        yield from self._compute_shared(molecules, perceived, todo)
        for scorer in self.scorers:
            if scorer.place is Place.USER:
                sound = [index for index in todo[scorer.name] if perceived[index].valid]
                yield from ((index, scorer.name, result) for index, result in self._call(scorer, sound, perceived))

    def _compute_shared(
        self, molecules: MoleculeSet, perceived: Sequence[Perceived], todo: Mapping[str, list[int]]
    ) -> Iterator[tuple[int, str, Any]]:
        """RDKit and xTB: one item a molecule and kind of calculation, so that kinds fail apart."""
        graph = {s.name: s for s in self.scorers if s.place is Place.GRAPH}
        physics = [s.name for s in self.scorers if s.place is Place.PHYSICS]
        jobs: list[tuple[int, tuple[str, ...]]] = []
        items: list[GraphItem | PhysicsItem] = []
        for index, names in by_sample(todo, graph):
            if perceived[index].valid:
                binary = perceived[index].mol.ToBinary()  # type: ignore[union-attr]
                items.append(GraphItem(binary, {name: (graph[name].key, graph[name].argument) for name in names}))
                jobs.append((index, names))
        for kind in ([name for name in physics if name != STRAIN], [name for name in physics if name == STRAIN]):
            for index, names in by_sample(todo, kind):
                items.append(PhysicsItem(*molecules[index], molecules.charge(index), names))
                jobs.append((index, names))
        if not items:
            return
        for job, result in self._pool("", calculate).map(items):
            index, names = jobs[job]
            for name in names:
                yield index, name, result if isinstance(result, Failure) else result[name]

    def _call(
        self, scorer: Scorer, indices: list[int], perceived: Sequence[Perceived]
    ) -> Iterator[tuple[int, float | Failure]]:
        """A user's function on the molecules `indices`; a batch that dies is done again one by one."""
        if not indices or scorer.source is None or scorer.info is None:
            return
        size = scorer.info.batch_size
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]

        def encode(index: int) -> bytes:
            return perceived[index].mol.ToBinary()  # type: ignore[union-attr]

        yield from call_user_function(self._pool(scorer.name, scorer.source), batches, encode, self._time_limit_s)

    def _pool(self, name: str, function: Any) -> WorkerPool:
        if name not in self._pools:
            self._pools[name] = WorkerPool(function, self._workers, self._time_limit_s, self._launcher)
        return self._pools[name]


def _is_kept(reason: str) -> bool:
    """Whether a score with this reason (or none) goes into the cache: not where the machine may be at fault."""
    return reason not in NOT_KEPT and not reason.removeprefix(_NO_BONDS).startswith((TIME_OUT, CRASHED))


def _first_unknown(keys: Sequence[str], known: Mapping[str, Score]) -> list[int]:
    """The index of the first molecule of each unknown key: equal geometries are computed once."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key not in known:
            first.setdefault(key, index)
    return list(first.values())


def _score_directly(
    scorer: Scorer, molecules: MoleculeSet, perceived: Sequence[Perceived]
) -> tuple[np.ndarray, list[str]]:
    """Values and reasons of a scorer that needs no workers."""
    if not len(molecules):
        return np.empty(0), []
    if scorer.on_set is not None:
        values = scorer.on_set(molecules, perceived)
        why = "no rule for an element"
    elif scorer.on_states is not None:
        codec = MoleculeCodec(tuple(sorted(set(molecules.numbers.tolist()))) or (1,))
        measured = scorer.on_states(codec)(codec.encode(molecules))
        values = measured.values[scorer.name].detach().cpu().double().numpy()
        predicted = scorer.name.startswith(PREDICTED)
        why = "an element that its predictor was never shown" if predicted else "not finite"
    else:
        raise InputError(f"{scorer.name} is neither for sets, nor for states, nor for workers")
    values = np.where(np.isfinite(values), values, np.nan)
    whys = (why if np.isfinite(positions).all() else "coordinates not finite" for _, positions in molecules)
    return values, [text if missing else "" for text, missing in zip(whys, np.isnan(values).tolist(), strict=True)]
