"""Samples made part by part, and what they took."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common.cli.generation import GenerationOptions, Made, generation_facts, sample_in_parts
from common.cost import Cost


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
    assert made(tmp_path, 6, again) == Made([[0, 1, 2, 3], [4, 5]], Cost(12, 60), seconds)
    assert again.cost == Cost()
    # The second part is made anew, as it was too short; the first is not.
    found = made(tmp_path, 8, longer)
    assert found.cost == Cost(16, 80)
    assert longer.cost == Cost(8, 40)
    for one, guide in ((whole, first), (found, longer)):
        assert facts(one, guide)["network_evaluations"] == 10
        assert facts(one, guide)["reward_calls"] == 2


def test_a_part_without_a_record_of_what_it_took_is_made_again(tmp_path):
    made(tmp_path, 8, Guide())
    (tmp_path / "000001.json").unlink()
    guide = Guide()
    assert made(tmp_path, 8, guide).cost == Cost(16, 80)
    assert guide.cost == Cost(8, 40)
