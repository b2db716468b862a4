"""Settings that a configuration gives: their names and types are checked before anything is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from common.errors import InputError
from common.named import build


@dataclass
class Oven:
    """Something with settings."""

    heat: float = 1.0
    trays: int = 2
    fan: bool = True
    label: str | None = None
    rest: Any = None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heat": "much"}, "oven: got heat 'much', expected a number"),
        ({"heat": float("nan")}, "oven: got heat nan, expected a number"),
        ({"heat": True}, "oven: got heat True, expected a number"),
        ({"trays": 2.5}, "oven: got trays 2.5, expected a whole number"),
        ({"trays": None}, "oven: got trays None, expected a whole number"),
        ({"fan": 1}, "oven: got fan 1, expected true or false"),
        ({"label": 3}, "oven: got label 3, expected a word"),
        ({"heet": 3}, r"oven has no setting 'heet' \(did you mean 'heat'\?\)"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(InputError, match=message):
        build(Oven, settings, "oven")


def test_what_fits_is_passed_on():
    assert build(Oven, {"heat": 3, "label": None, "rest": {"a": 1}}, "oven") == Oven(3, rest={"a": 1})
