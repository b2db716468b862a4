"""Measures by workers: what they take, what they give, and what a user learns of the first failure of a kind."""

from __future__ import annotations

import numpy as np
import torch

from common.diffusion import State
from common.rewards import DecodedMeasure, Quantity
from common.rewards.scoring import ScoreTable


class Scorer:
    """Doubles numbers and cannot score negative ones."""

    scorers = (Quantity(name="double", unit="m"),)
    closed = False

    def score(self, samples: list[float]) -> ScoreTable:
        values = np.array([2 * one if one >= 0 else np.nan for one in samples])
        reasons = ["" if one >= 0 else "ValueError" for one in samples]
        said = [f"{one:g} is negative" for one in samples if one < 0]
        return ScoreTable({"double": values}, {"double": reasons}, {"double: ValueError": said[0]} if said else {})

    def close(self) -> None:
        self.closed = True


def measure(scorer: Scorer) -> DecodedMeasure:
    return DecodedMeasure(lambda state: state.x[:, 0, 0].tolist(), scorer)


def states(*numbers: float) -> State:
    x = torch.tensor(numbers, dtype=torch.float32, requires_grad=True)[:, None, None]
    return State(x, torch.ones(len(numbers), 1, dtype=torch.bool))


def test_it_gives_what_the_scorer_says_of_the_decoded_states():
    scorer = Scorer()
    found = measure(scorer)(states(1.5, -1, 3))
    assert measure(scorer).names == ("double",)
    torch.testing.assert_close(
        found.values["double"], torch.tensor([3, torch.nan, 6], dtype=torch.float64), equal_nan=True
    )
    assert not found.values["double"].requires_grad
    assert found.failures == {"double: ValueError": 1}
    measure(scorer).close()
    assert scorer.closed


def test_what_a_failure_said_is_told_once(caplog):
    asked = measure(Scorer())
    for numbers in ((1, 2), (-1, -2), (-3,)):
        asked(states(*numbers))
    assert caplog.messages == ["double: ValueError: -1 is negative"]
