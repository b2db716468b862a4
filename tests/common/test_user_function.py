"""A user's own function: how it is named, loaded, asked, and what counts as its answer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.user_function import UserFunction, as_score
from common.workers import Failure, WorkerPool

FILE = '''
"""Not the function's docstring."""
import neighbour


def score(samples):
    """The length of each text."""
    print("noise")
    return [neighbour.length(sample) for sample in samples]


score.unit = "characters"
score.tolerance = 1
score.bounds = (0, 80)
score.batch_size = 3


def silent(samples):
    return None if samples == ["none"] else [1.0] * (len(samples) + 1)


wrong_unit = lambda samples: samples
wrong_unit.unit = 3
number = 3.0
'''


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbour.py").write_text("def length(text):\n    return float(len(text))\n")
    # Named like a module of the standard library, which it must not replace.
    path = tmp_path / "json.py"
    path.write_text(FILE)
    return path


def function(source):
    return UserFunction(str(source), "molgen.rewards", str)


def test_a_function_of_a_file_says_what_it_is_and_scores(file):
    task = function(f"{file}:score")
    info = task.inspect()
    assert (info.origin, info.unit, info.tolerance, info.bounds) == (str(file), "characters", 1.0, (0.0, 80.0))
    assert (info.batch_size, info.description) == (3, "The length of each text.")
    with WorkerPool(task, workers=1) as pool:
        assert dict(pool.map([["a", "bb"], ["ccc"]])) == {0: [1.0, 2.0], 1: [3.0]}
    assert "neighbour" not in sys.modules, "the parent must not load a user's code"


def test_another_text_is_another_function(file):
    before = function(f"{file}:score").inspect().digest
    file.write_text(FILE.replace("noise", "other noise"))
    assert function(f"{file}:score").inspect().digest != before


def test_answers_that_are_no_list_or_of_another_length_fail_with_the_reason(file):
    with WorkerPool(function(f"{file}:silent"), workers=1) as pool:
        results = dict(pool.map([["none"], ["a", "b"]]))
    assert [one.reason for one in results[0]] == ["no list"]
    assert [(one.reason, one.detail) for one in results[1]] == [
        ("wrong length", "got 3 values for 2 samples"),
        ("wrong length", "got 3 values for 2 samples"),
    ]


def test_a_function_of_an_importable_module():
    info = function("statistics:mean").inspect()
    assert info.origin.endswith("statistics.py")
    assert info.unit is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py:score", "no such file"),
        ("json.py:scroe", r"has no 'scroe' \(did you mean 'score'\?\); it has score"),
        ("json.py:number", "is a float, expected a function"),
        ("json.py:wrong_unit", "its unit is 3, expected a text"),
        ("broken.py:score", "SyntaxError"),
        ("dead.py:score", "worker died: exit status 9"),
        ("no_such_module_here:score", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(file, name, message, monkeypatch):
    (file.parent / "broken.py").write_text("def score(:\n")
    (file.parent / "dead.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.chdir(file.parent)
    with pytest.raises(InputError, match=message) as error:
        function(name).inspect()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [1, 1.5, True, np.float32(2.5), np.array(3.0), torch.tensor([4.0])])
def test_numbers_of_any_kind_are_scores(value):
    assert as_score(value) == float(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "None"),
        ("1.5", "not a number"),
        (1j, "not a number"),
        ([1.0], "not a number"),
        (np.zeros(2), "not a number"),
        (torch.zeros(2), "not a number"),
        (float("nan"), "NaN"),
        (float("-inf"), "infinite"),
        (10**400, "not a number"),
    ],
)
def test_anything_else_is_a_failure_with_a_reason(value, reason):
    assert isinstance(as_score(value), Failure)
    assert as_score(value).reason == reason
