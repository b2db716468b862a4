"""Scores that were computed before, by a hash of the geometry: in memory and, if a run wants that, in a file."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError

# Coordinates closer than this are the same geometry; far below what any score notices.
_QUANTUM = 1e-4
_KEYS_PER_QUERY = 500


class Score(NamedTuple):
    """A value (NaN for a failure) and why it failed."""

    value: float
    reason: str = ""


def geometry_hash(positions: np.ndarray, *labels: np.ndarray | int) -> str:
    """Hash of points (n, 3), rounded to 0.0001, and what else tells them apart: atomic numbers (n,), a charge.

    Neither motion nor renumbering is undone: the same molecule turned is another geometry.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if np.isfinite(positions).all() and np.abs(positions).max(initial=0) < 1e12:
        # Integers, because 0.0 and -0.0 have different bytes.
        positions = np.rint(positions / _QUANTUM).astype(np.int64)
    content = hashlib.blake2b(positions.tobytes(), digest_size=16)
    for label in labels:
        array = np.atleast_1d(np.asarray(label, dtype=np.int64))
        content.update(len(array).to_bytes(8, "little") + array.tobytes())
    return content.hexdigest()


class ScoreCache:
    """Least recently used scores in memory, all of them in a file if there is one.

    Args:
        capacity: how many scores memory holds.
        path: SQLite file; several processes may share it. Made where it does not exist.

    Raises:
        InputError: the file is something else, or cannot be made.
    """

    def __init__(self, capacity: int = 100_000, path: str | Path | None = None):
        self._capacity = capacity
        self._scores: OrderedDict[str, Score] = OrderedDict()
        self._file: sqlite3.Connection | None = None
        self.hits = self.misses = 0
        if path is not None:
            try:
                self._file = sqlite3.connect(path, timeout=60)
                self._file.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL, reason TEXT)")
                self._file.commit()
            except sqlite3.Error as error:
                raise InputError(f"{path} is no score cache of this program and cannot become one ({error})") from error

    def __len__(self) -> int:
        return len(self._scores)

    def find(self, keys: Iterable[str]) -> dict[str, Score]:
        """The known ones among `keys`."""
        found, absent = {}, []
        for key in dict.fromkeys(keys):
            if key in self._scores:
                self._scores.move_to_end(key)
                found[key] = self._scores[key]
            else:
                absent.append(key)
        stored = self._read(absent)
        self._remember(stored)
        found |= stored
        self.hits += len(found)
        self.misses += len(absent) - len(stored)
        return found

    def add(self, scores: Mapping[str, Score]) -> None:
        """Keep scores; a failure is kept as one (NaN)."""
        self._remember(scores)
        if self._file is not None:
            with self._file:
                # SQLite has no NaN: it stores NULL.
                rows = [(key, None if math.isnan(s.value) else s.value, s.reason) for key, s in scores.items()]
                self._file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _remember(self, scores: Mapping[str, Score]) -> None:
        for key, score in scores.items():
            self._scores[key] = score
            self._scores.move_to_end(key)
        while len(self._scores) > self._capacity:
            self._scores.popitem(last=False)

    def _read(self, keys: list[str]) -> dict[str, Score]:
        if self._file is None:
            return {}
        rows: list[tuple[str, float | None, str]] = []
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            rows += self._file.execute(f"SELECT key, value, reason FROM scores WHERE key IN ({marks})", part)
        return {key: Score(math.nan if value is None else value, reason) for key, value, reason in rows}
