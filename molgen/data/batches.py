"""Training batches of molecules of similar size, as a pure function of (seed, step).

Batch k never depends on batch k - 1, so a resumed run sees exactly what the uninterrupted one would have seen, and
each of several processes takes its own share without talking to the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from common.diffusion import State
from common.errors import InputError
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet

# Molecules of this many batches are sorted by size together: more gives less padding, and batches that differ more.
_POOL = 16


class MoleculeBatches:
    """Endless stream of `State` batches, each molecule once an epoch, similar sizes together.

    With `weights` an epoch has as many rows as before, and each molecule its weight's share of them.

    Args:
        molecules: the training set; its arrays may be memory-mapped.
        codec: molecule -> state.
        batch_size: molecules in a batch of this process.
        seed: of the order.
        rank, world_size: this process takes batches rank, rank + world_size, ...
        start: step at which the stream begins (resume).
        condition: name -> (M, ...) array whose rows go with the molecules, such as {"gap_ev": ...}.
        weights: (M,) how often each molecule is drawn, relative to the others; None for all alike.

    Raises:
        InputError: an empty set, a condition or weights of another length, or weights that are not positive.
    """

    def __init__(
        self,
        molecules: MoleculeSet,
        codec: MoleculeCodec,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        condition: Mapping[str, np.ndarray] | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        if len(molecules) == 0:
            raise InputError("got an empty training set, expected at least one molecule")
        codec.type_indices(np.unique(molecules.numbers))
        # Labels would only be copied along with each batch.
        self._molecules = codec.arrange(dataclasses.replace(molecules, properties={}, smiles=None))
        self._codec = codec
        self._condition = {name: np.asarray(values) for name, values in (condition or {}).items()}
        for name, values in self._condition.items():
            if len(values) != len(molecules):
                raise InputError(f"condition '{name}' has {len(values)} rows, expected {len(molecules)}")
        if weights is not None and (np.shape(weights) != (len(molecules),) or not (np.asarray(weights) > 0).all()):
            raise InputError(f"got weights of shape {np.shape(weights)}, expected {len(molecules)} positive numbers")
        self._weights = None if weights is None else np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self._sizes = molecules.num_atoms
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[State]:
        step = self.start
        pool_number, pool = -1, []
        while True:
            index = step * self.world_size + self.rank
            if index // _POOL != pool_number:
                pool_number = index // _POOL
                pool = self._pool(pool_number)
            yield self._collate(pool[index % _POOL])
            step += 1

    def _pool(self, number: int) -> list[np.ndarray]:
        """The index arrays of pool `number`: `_POOL` batches of similar sizes, in random order."""
        count = self.batch_size * _POOL
        stream = np.arange(number * count, (number + 1) * count)
        epochs, places = stream // len(self._sizes), stream % len(self._sizes)
        members = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            order = self._epoch(np.random.default_rng([self.seed, 0, epoch]))
            members[epochs == epoch] = order[places[epochs == epoch]]
        rng = np.random.default_rng([self.seed, 1, number])
        # A stable sort of a random order leaves molecules of one size shuffled.
        members = members[np.argsort(self._sizes[members], kind="stable")]
        batches = members.reshape(_POOL, self.batch_size)
        return list(batches[rng.permutation(_POOL)])

    def _epoch(self, rng: np.random.Generator) -> np.ndarray:
        """(M,) the molecules of one epoch in random order."""
        count = len(self._sizes)
        if self._weights is None:
            return rng.permutation(count)
        # Systematic: a molecule of weight w comes floor(M w) or one more times.
        ends = np.cumsum(self._weights)
        drawn = np.searchsorted(ends / ends[-1], (rng.random() + np.arange(count)) / count, side="right")
        return rng.permutation(np.minimum(drawn, count - 1))

    def _collate(self, indices: np.ndarray) -> State:
        """Padded only here, so that a data set takes no more memory than its flat arrays."""
        state = self._codec.encode(self._molecules.select(indices))
        return state.replace(
            condition={name: torch.from_numpy(values[indices]).float() for name, values in self._condition.items()}
        )
