"""`Watch`: notices when a reward is gained at the cost of what it stands for (reward hacking)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Guard:
    """Something that must not fall while the reward rises.

    Attributes:
        name: of the measurement; larger is better.
        fall: how far it may fall below the start, in its own unit, beyond twice the standard error of the difference.
    """

    name: str
    fall: float = 0.0


@dataclass
class Watch:
    """Compares each measurement with the first.

    Attributes:
        reward: name of the measured reward.
        guards: what has to hold while it rises.
        patience: warnings in a row that make an alarm.
    """

    guards: Sequence[Guard]
    reward: str = "reward"
    patience: int = 2
    _first: dict[str, float] = field(default_factory=dict)
    _in_a_row: int = 0

    def look(self, found: Mapping[str, float]) -> list[str]:
        """Warnings, one line each; none at the first look.

        Args:
            found: name -> value, and `NAME_error` -> its standard error where it is known.
        """
        if not self._first:
            self._first = dict(found)
            return []
        # What could be measured at first and no longer can is the worst of falls.
        lines = [
            f"{name} can no longer be measured: it was {self._first[name]:.4g} at first"
            for name in (self.reward, *(guard.name for guard in self.guards))
            if not math.isnan(self._first.get(name, math.nan)) and math.isnan(found.get(name, math.nan))
        ]
        if self._change(self.reward, found) > 0:
            for guard in self.guards:
                change = self._change(guard.name, found)
                if change < -guard.fall - 2 * self._error(guard.name, found):
                    lines.append(
                        f"the reward rose from {self._first[self.reward]:.4g} to {found[self.reward]:.4g} while "
                        f"{guard.name} fell from {self._first[guard.name]:.4g} to {found[guard.name]:.4g}"
                    )
        self._in_a_row = self._in_a_row + 1 if lines else 0
        return lines

    @property
    def alarmed(self) -> bool:
        """Whether the last `patience` looks have all warned."""
        return self._in_a_row >= self.patience

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"first": self._first, "in_a_row": self._in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `state`."""
        self._first, self._in_a_row = dict(state["first"]), int(state["in_a_row"])

    def _change(self, name: str, found: Mapping[str, float]) -> float:
        """From the first look to this one; 0 where either is unknown."""
        change = found.get(name, math.nan) - self._first.get(name, math.nan)
        return 0.0 if math.isnan(change) else change

    def _error(self, name: str, found: Mapping[str, float]) -> float:
        key = f"{name}_error"
        error = math.hypot(found.get(key, 0.0), self._first.get(key, 0.0))
        # Of a single sample it is not known, which is no reason to be silent.
        return 0.0 if math.isnan(error) else error
