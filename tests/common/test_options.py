"""Options from dataclasses, as a user meets them."""

from dataclasses import dataclass
from typing import Any

import pytest

from common.cli.app import CommonOptions, Verb, run_command
from common.cli.options import option


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    network: dict = option({"name": "small"}, "network by name")
    fast: bool = option(False, "do it fast")
    told: bool = option(True, "the model is told")


def seen(*arguments: str) -> Options:
    found: list[Any] = []
    assert run_command("toy", "a toy", [Verb("go", "goes", Options, found.append)], ["go", *arguments]) == 0
    return found[0]


def test_help_names_types_in_words(capsys):
    with pytest.raises(SystemExit) as end:
        run_command("toy", "a toy", [Verb("go", "goes", Options, print)], ["go", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "network by name (type: settings, default: {'name': 'small'})" in text
    assert "<class" not in text


def test_what_is_no_settings_is_refused_in_words(capsys):
    assert run_command("toy", "a toy", [Verb("go", "goes", Options, print)], ["go", "--network", "3"]) == 2
    assert 'Expected settings such as {"name": "..."}. Got value: 3' in capsys.readouterr().err


def test_what_is_on_can_be_turned_off(tmp_path):
    assert (seen().told, seen("--no-told").told, seen("--told").told) == (True, False, True)
    assert (seen().fast, seen("--fast").fast) == (False, True)
    config = tmp_path / "off.yaml"
    config.write_text("told: false\n")
    assert not seen("--config", str(config)).told
    assert seen("--config", str(config), "--told").told
