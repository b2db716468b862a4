"""Options from dataclasses, as a user meets them."""

import json
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest

from common.cli.app import CommonOptions, Verb, run_command
from common.cli.options import option
from common.errors import IncompleteError


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


@pytest.mark.parametrize("value", ["maybe", '"no"', "0"])
def test_a_flag_of_a_file_is_true_or_false(tmp_path, capsys, value):
    config = tmp_path / "flags.yaml"
    config.write_text(f"fast: {value}\n")
    assert run_command("toy", "a toy", [Verb("go", "goes", Options, print)], ["go", "--config", str(config)]) == 2
    assert "expected true or false" in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class Bounded(CommonOptions):
    amount: int = option(3, "how much", at_least=1, at_most=9)
    heat: float = option(1.0, "how hot", above=0)
    workers: int | str | None = option(None, "processes", at_least=1)
    depth: int = option(0, "how deep", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Deeper(Bounded):
    amount: int = option(5, "how much of it")
    depth: int = option(2, "how deep", at_least=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--amount", "0"], "got --amount 0, expected 1 to 9"),
        (["--amount", "10"], "got --amount 10, expected 1 to 9"),
        (["--heat", "0"], "got --heat 0.0, expected more than 0"),
        (["--workers", "-2"], "got --workers -2, expected at least 1"),
        (["--depth", "1"], "got --depth 1, expected at least 2"),
        (["--workers", "ray", "--amount", "9", "--heat", "0.1"], ""),
    ],
)
def test_numbers_out_of_bounds_are_refused_before_any_work(arguments, message, capsys):
    ran = []
    code = run_command("toy", "a toy", [Verb("go", "goes", Deeper, ran.append)], ["go", *arguments])
    assert (code, len(ran)) == ((2, 0) if message else (0, 1))
    assert message in capsys.readouterr().err


def test_what_is_incomplete_is_printed_all_the_same(capsys):
    def run(options: Options) -> None:
        raise IncompleteError("2 of 3", {"made": 2})

    assert run_command("toy", "a toy", [Verb("go", "goes", Options, run)], ["go", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {"made": 2}
    assert "incomplete: 2 of 3" in err


def test_a_command_that_is_terminated_ends_as_by_ctrl_c(capsys):
    ended = []

    def run(options: Options) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            ended.append(True)

    assert run_command("toy", "a toy", [Verb("go", "goes", Options, run)], ["go"]) == 1
    assert ended
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
