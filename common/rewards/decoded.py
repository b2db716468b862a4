"""`DecodedMeasure`: a `Measure` by workers, which take samples and not states."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from common.diffusion import State
from common.rewards.composed import Measured
from common.rewards.quantity import Quantity
from common.rewards.scoring import ScoreTable

logger = logging.getLogger(__name__)

# Of what a failure says, for a line to the user.
_TOLD = 200


class Scoring(Protocol):
    """A domain's scorer of decoded samples."""

    @property
    def scorers(self) -> Sequence[Quantity]:
        """What it gives."""
        ...

    def score(self, samples: Any, /) -> ScoreTable:
        """Scores of M samples, with a reason for each that has none."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class DecodedMeasure:
    """States -> samples -> scores: a `Measure` without gradients. What the first failure of a kind said is told.

    Args:
        decode: states -> samples as the scorer takes them.
        scorer: scores them.
    """

    differentiable = False

    def __init__(self, decode: Callable[[State], Any], scorer: Scoring):
        self._decode = decode
        self._scorer = scorer
        self._told: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """See `Measure`."""
        return tuple(scorer.name for scorer in self._scorer.scorers)

    def __call__(self, state: State) -> Measured:
        """See `Measure`."""
        with torch.no_grad():
            table = self._scorer.score(self._decode(state))
        for failure, said in table.details.items():
            if failure not in self._told:
                self._told.add(failure)
                logger.warning("%s: %s", failure, said[:_TOLD])
        # float64, because a total energy has ten significant digits.
        return Measured({name: torch.from_numpy(column) for name, column in table.values.items()}, table.failures)

    def close(self) -> None:
        """End the workers."""
        self._scorer.close()
