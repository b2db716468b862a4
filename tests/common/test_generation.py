"""Samples made part by part, and what they took."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.cli.generation import GenerationOptions, Made, check_inputs, generation_facts, sample_in_parts
from common.cost import Cost
from common.diffusion.control import Control
from common.errors import InputError


class Guide:
    """Spends 10 evaluations and 2 reward calls on each sample."""

    particles = 2

    def __init__(self) -> None:
        self.cost = Cost()

    def make(self, start: int, count: int, progress: Any) -> list[int]:
        self.cost += Cost(2 * count, 10 * count)
        return list(range(start, start + count))


def made(folder: Path, count: int, guide: Guide) -> Made[list[int]]:
    return sample_in_parts(
        folder, count, 4, make=guide.make, guide=guide,  # type: ignore[arg-type]
        save=lambda part, path: path.write_text(json.dumps(part)), load=lambda path: json.loads(path.read_text()),
    )  # fmt: skip


def facts(found: Made[list[int]], guide: Guide) -> dict[str, Any]:
    options = GenerationOptions(model="m", guidance=["best-of-n"], target=["gap=4"])
    count = sum(map(len, found.parts))
    return generation_facts(options, SimpleNamespace(steps=5), guide, found, count)["generation"]  # type: ignore[arg-type]


def test_a_resumed_run_has_cost_what_all_of_it_cost(tmp_path):
    first, again, longer = Guide(), Guide(), Guide()
    whole = made(tmp_path, 6, first)
    assert whole.cost == Cost(12, 60)
    seconds = whole.seconds
    assert made(tmp_path, 6, again) == Made([[0, 1], [2, 3], [4, 5]], Cost(12, 60), seconds)
    assert again.cost == Cost()
    # Only what was not there is made.
    found = made(tmp_path, 8, longer)
    assert found.cost == Cost(16, 80)
    assert longer.cost == Cost(4, 20)
    for one, guide in ((whole, first), (found, longer)):
        assert facts(one, guide)["network_evaluations"] == 10
        assert facts(one, guide)["reward_calls"] == 2


def test_a_part_without_a_record_of_what_it_took_is_made_again(tmp_path):
    made(tmp_path, 8, Guide())
    (tmp_path / "000001.json").unlink()
    guide = Guide()
    assert made(tmp_path, 8, guide).cost == Cost(16, 80)
    assert guide.cost == Cost(4, 20)


def test_parts_of_another_size_are_not_mixed_in(tmp_path):
    made(tmp_path, 8, Guide())
    (tmp_path / "000000.npz").write_text("[0, 1, 2, 3]")
    with pytest.raises(InputError, match="holds 4 samples, expected up to 2: another version made it"):
        made(tmp_path, 8, Guide())


@pytest.mark.parametrize(("until", "kept"), [(2, [[0, 1]]), (0, None)])
def test_ctrl_c_keeps_what_was_made_and_is_passed_on_where_that_is_nothing(tmp_path, until, kept):
    class Interrupted(Guide):
        def make(self, start: int, count: int, progress: Any) -> list[int]:
            if start >= until:
                raise KeyboardInterrupt
            return super().make(start, count, progress)

    if kept is None:
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, 8, Interrupted())
    else:
        assert made(tmp_path, 8, Interrupted()).parts == kept


@pytest.mark.parametrize(("asked", "warned"), [(900.0, True), (8.0, False), (None, False)])
def test_a_value_far_from_all_data_is_warned_of(asked, warned, caplog):
    check_inputs([Control("gap_ev", mean=7.0, std=2.0)], {} if asked is None else {"gap_ev": asked})
    assert ("gap_ev = 900 lies far outside of the data" in caplog.text) == warned
