"""The verb `benchmark` as a user meets it, on a domain of numbers whose commands take no time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from contracts.benchmark_world import domain

from common.cli.app import CommonOptions, Verb, run_command
from common.cli.benchmark import benchmark_verb
from common.cli.options import argument, option


@dataclass(frozen=True, kw_only=True)
class StubOptions(CommonOptions):
    """What `contracts.benchmark_stub` takes."""

    model: str = argument("what to sample")
    num_samples: int = option(4, "number of samples")
    seed: int = option(0, "seed")
    target: str = option("", "what is asked for")
    shift: float = option(0.0, "how far the samples move")
    output_dir: str = option("", "where to")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """`run(*words)` in an empty folder with a configuration `b.yaml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    given = {"name": "numbers", "model": "base", "targets": ["x=1.5"], "methods": ["unconditional", "shifted"]}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({**given, "num_samples": 4}))
    generate = Verb("generate", "generate", StubOptions, lambda options: None)
    verbs = [generate]
    verbs.append(benchmark_verb(lambda: domain(tmp_path), lambda: verbs, "numbers"))
    return lambda *words: run_command("stub", "", verbs, ["benchmark", *words])


def complaint(capsys) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return next(line for line in reversed(text.splitlines()) if ": error:" in line or ": incomplete:" in line)


def test_a_benchmark_runs_is_resumed_and_takes_foreign_samples(world, tmp_path, capsys):
    assert world("run", "b.yaml", "--json") == 0
    table = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in table["rows"]}
    assert {name: row["samples"] for name, row in rows.items()} == {"unconditional": 4, "shifted": 4}
    # 0, 0.25, 0.5, 0.75 against 1.5, and moved by 0.5.
    mae = {name: next(m["value"] for m in row["metrics"] if m["name"] == "mae[x]") for name, row in rows.items()}
    assert mae == {"unconditional": 1.125, "shifted": 0.625}
    assert rows["unconditional"]["evaluations_per_sample"] == 10.0
    assert rows["shifted"]["budget"].startswith("within: sampling 1.0 x of 4 x")
    folder = tmp_path / "runs" / "numbers"
    assert {"report.html", "report.md", "report.tex", "run.json", "benchmark.yaml"} <= {
        p.name for p in folder.iterdir()
    }
    made = {p: p.stat().st_mtime_ns for p in folder.glob("**/samples.json")}

    # Not by accident, and not what is there already.
    assert world("run", "b.yaml") == 2
    assert "--resume goes on with it" in complaint(capsys)
    assert world("run", "b.yaml", "--resume", "--seeds", "2", "--workers", "2", "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["samples"] for row in table["rows"]] == [8, 8]
    assert {p: p.stat().st_mtime_ns for p in made} == made

    (tmp_path / "theirs.json").write_text("[1.5, 1.6, 9.0]")
    add = ["add", "runs/numbers", "--name", "theirs", "--samples", "theirs.json"]
    assert world(*add, "--json") == 0
    row = json.loads(capsys.readouterr().out)["rows"][-1]
    assert (row["name"], row["kind"], row["samples"]) == ("theirs", "foreign", 3)
    assert row["commands"] == [
        "contracts.benchmark_stub benchmark add runs/numbers --name theirs --samples theirs.json"
    ]
    assert world(*add) == 2
    assert "--overwrite replaces it" in complaint(capsys)

    (folder / "report.html").unlink()
    assert world("report", "runs/numbers") == 0
    assert "theirs" in capsys.readouterr().out
    assert "theirs" in (folder / "report.html").read_text()


def test_a_row_again_gives_the_same_numbers(world, capsys):
    assert world("run", "b.yaml", "--json") == 0
    first = json.loads(capsys.readouterr().out)["rows"][1]
    again = ["run", "runs/numbers/benchmark.yaml", "--methods", "shifted", "--output-dir", "again"]
    assert world(*again, "--json") == 0
    (second,) = json.loads(capsys.readouterr().out)["rows"]
    assert second["metrics"] == first["metrics"]


def test_a_failed_row_is_shown_and_the_rest_is_delivered(world, capsys):
    broken = ["run", "b.yaml", "--output-dir", "out"]
    text = Path("b.yaml").read_text()
    Path("b.yaml").write_text(text.replace("model: base", "model: broken"))
    assert world(*broken) == 3
    assert "0 of 2 runs; first failure: unconditional: stub: error: got model 'broken'" in complaint(capsys)
    assert "stub: error" in Path("out/report.md").read_text()
    assert world(*broken, "--resume", "--allow-partial") == 0


def test_a_dry_run_prints_commands_and_makes_nothing(world, capsys):
    assert world("run", "b.yaml", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "contracts.benchmark_stub generate base --num-samples 4 --seed 0 --target x=1.5 --shift 0.5" in text
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ({}, ["--methods", "shiftet"], "got method 'shiftet' (did you mean 'shifted'?)"),
        ({"task": "proper"}, [], "did you mean 'property'"),
        ({"targets": []}, [], "takes at least one of the 'targets'"),
        ({"targets": ["y=1"]}, [], "got the target 'y=1', expected x=NUMBER"),
        ({"task": "unconditional"}, [], "takes no 'targets'"),
        ({"published": ["nothing"]}, [], "no published table 'nothing'"),
        ({"settings": {"shift": {}}}, [], "settings of method 'shift'"),
        ({"settings": {"unconditional": {"generate": {"shfit": 1}}}}, [], "shfit"),
        ({"num_samples": "many"}, [], "expected a whole number"),
        ({"num_samples": 0}, [], "expected a number from 1 on"),
        ({}, ["--workers", "0"], "got --workers 0"),
    ],
)
def test_a_wrong_request_is_one_line_and_makes_nothing(world, capsys, change, words, expected):
    content = yaml.safe_load(Path("b.yaml").read_text())
    Path("b.yaml").write_text(yaml.safe_dump({**content, **change}))
    assert world("run", "b.yaml", *words) == 2
    assert expected in complaint(capsys)
    assert not Path("runs").exists()


def test_rows_that_would_not_compare_are_refused(world, capsys):
    assert world("run", "b.yaml", "--methods", "unconditional") == 0
    assert world("run", "b.yaml", "--resume", "--num-samples", "9") == 2
    assert "num_samples = 4, got 9: rows would not compare" in complaint(capsys)


def test_foreign_samples_need_a_name_a_place_and_a_target(world, tmp_path, capsys):
    assert world("add", "nowhere", "--name", "a", "--samples", "b.yaml") == 2
    assert "it has no benchmark.yaml" in complaint(capsys)
    content = yaml.safe_load(Path("b.yaml").read_text())
    Path("b.yaml").write_text(yaml.safe_dump({**content, "targets": ["x=1", "x=2"], "methods": ["unconditional"]}))
    assert world("run", "b.yaml") == 0
    Path("t.json").write_text("[1.0]")
    for words, expected in (
        (["--samples", "t.json"], "give --name"),
        (["--name", "shifted", "--samples", "t.json"], "is a method of the program"),
        (["--name", "a", "--samples", "none.json"], "no such file"),
        (["--name", "a", "--samples", "t.json"], "say which --target"),
        (["--name", "a", "--samples", "t.json", "--target", "x=3"], "expected one of: x=1, x=2"),
    ):
        assert world("add", "runs/numbers", *words) == 2
        assert expected in complaint(capsys)
    assert world("add", "runs/numbers", "--name", "a", "--samples", "t.json", "--target", "x=2") == 0
