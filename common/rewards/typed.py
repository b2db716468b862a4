"""What rewards that a user typed have in common in both domains: `conditions_of`, `TypedReward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.diffusion import State
from common.rewards.composed import ComposedReward, Measure, Objective
from common.rewards.conditions import Condition, Find, parse, warn_outside
from common.workers import Closing


class TypedReward(ComposedReward, Closing):
    """A composed reward whose scorers may have workers.

    Use as a context manager, or call `close`, which ends the workers.

    Args:
        objective, measures, example: see `ComposedReward`.
        workers: of the measures.

    Raises:
        InputError: see `ComposedReward`; the workers are ended then.
    """

    def __init__(self, objective: Objective, measures: Sequence[Measure], example: State, workers: Closing):
        self._workers = workers
        try:
            super().__init__(objective, measures, example)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        self._workers.close()


def conditions_of(spec: str | Sequence[str | Condition], find: Find) -> tuple[Condition, ...]:
    """Conditions from texts, or as they are; what a learned quantity never saw is warned of.

    Args:
        spec: as typed, or parsed.
        find: see `parse`; what it finds may say with `trained_on` which values it learned from.

    Raises:
        InputError: see `parse`.
    """
    if not isinstance(spec, str) and spec and all(isinstance(part, Condition) for part in spec):
        return tuple(part for part in spec if isinstance(part, Condition))
    conditions = parse([spec] if isinstance(spec, str) else [str(part) for part in spec], find)
    found: dict[str, Any] = {one.quantity.name: getattr(one.quantity, "trained_on", None) for one in conditions}
    warn_outside(conditions, {name: seen for name, seen in found.items() if seen is not None})
    return conditions
