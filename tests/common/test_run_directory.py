"""`RunDirectory`: what it replaces, what it refuses to, and what a command that failed leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.cli.run_directory import RunDirectory
from common.errors import IncompleteError, InputError


@dataclass(frozen=True)
class Options:
    """Options of a verb that reads `source`."""

    source: str = ""
    sources: tuple[str, ...] = ()
    output_dir: str = ""
    amount: int = 1
    resume: bool = False
    overwrite: bool = False


def make(
    path: Path,
    text: str,
    options: Options = Options(),
    verb: str = "make",
    file: str = "made.txt",
    error: BaseException | None = None,
    **facts: str,
) -> None:
    """A verb that writes one file, if it does not fail."""
    with RunDirectory.begin(path, verb, options) as directory:
        directory.record(options, **facts)
        if file:
            (path / file).parent.mkdir(exist_ok=True)
            (path / file).write_text(text)
        if error is not None:
            raise error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "run", "old", content_hash="a")
    return tmp_path / "run"


def test_a_run_has_its_options_its_verb_and_its_facts(folder):
    assert RunDirectory(folder).read_config() == {
        "source": "", "sources": [], "output_dir": "", "amount": 1, "overwrite": False
    }  # fmt: skip
    record = RunDirectory(folder).read_json("run.json")
    assert (record["verb"], record["content_hash"]) == ("make", "a")


@pytest.mark.parametrize("typed", ["/usr/bin/molgen", "/lib/site-packages/molgen/__main__.py"])
def test_a_run_says_the_command_as_one_types_it(tmp_path, monkeypatch, typed):
    monkeypatch.setattr("sys.argv", [typed, "make", "--name", "two words"])
    with RunDirectory.begin(tmp_path / "run", "make", Options()) as directory:
        directory.record(Options())
        directory.write_provenance()
        assert directory.read_json("run.json")["command"] == "molgen make --name 'two words'"
        (tmp_path / "run" / "made.txt").write_text("")


def test_an_existing_run_is_kept_unless_it_shall_be_replaced(folder):
    with pytest.raises(InputError, match="exists and is kept; --overwrite replaces it, --resume goes on with it"):
        make(folder, "new")
    make(folder, "new", Options(overwrite=True))
    assert (folder / "made.txt").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_run_that_a_killed_command_put_aside_is_told_of(folder, caplog):
    folder.rename(folder.with_name("run.replaced"))
    make(folder, "new")
    assert f"run.replaced is the run that lay in {folder} before a command was killed" in caplog.text
    assert (folder.with_name("run.replaced") / "made.txt").read_text() == "old"


def test_a_run_behind_a_link_is_replaced_where_it_is(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    make(tmp_path / "link", "new", Options(overwrite=True))
    assert (folder / "made.txt").read_text() == "new"
    with pytest.raises(RuntimeError):
        make(tmp_path / "link", "newer", Options(overwrite=True), file="", error=RuntimeError())
    assert (folder / "made.txt").read_text() == "new"


@pytest.mark.parametrize("error", [InputError(), RuntimeError(), KeyboardInterrupt()])
def test_a_command_that_fails_at_once_leaves_the_old_run(folder, error):
    with pytest.raises(type(error)):
        make(folder, "new", Options(amount=2, overwrite=True), file="logs/metrics.csv", error=error)
    assert (folder / "made.txt").read_text() == "old"
    assert RunDirectory(folder).read_config()["amount"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [IncompleteError("stopped"), KeyboardInterrupt(), RuntimeError()])
def test_a_command_that_fails_with_something_made_leaves_the_new_run(folder, error):
    with pytest.raises(type(error)):
        make(folder, "new", Options(overwrite=True), file="checkpoint", error=error)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "config.yaml", "run.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_what_cannot_be_done_leaves_no_new_folder(tmp_path):
    with pytest.raises(InputError):
        make(tmp_path / "a" / "run", "", file="", error=InputError())
    assert not (tmp_path / "a" / "run").exists()


def test_what_was_stopped_can_be_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "run", "", file="", error=KeyboardInterrupt())
    make(tmp_path / "run", "whole", Options(resume=True))
    assert len(RunDirectory(tmp_path / "run").read_json("run.json")["resumed"]) == 1


@pytest.mark.parametrize("within", ["", "model", "made.txt"])
def test_what_the_command_reads_is_not_replaced(folder, within):
    (folder / "model").mkdir()
    for options in (Options(source=str(folder / within), overwrite=True),
                    Options(sources=("x", str(folder / within)), overwrite=True)):  # fmt: skip
        with pytest.raises(InputError, match="is what the command reads"):
            make(folder, "new", options)
    assert (folder / "made.txt").read_text() == "old"


def test_a_run_of_another_verb_is_not_replaced_nor_gone_on_with(folder):
    for options in (Options(overwrite=True), Options(resume=True)):
        with pytest.raises(InputError, match="is a run of `make` and is kept; choose another folder for `break`"):
            make(folder, "new", options, verb="break")


def test_to_go_on_and_to_replace_are_two_things(folder):
    with pytest.raises(InputError, match="got --resume and --overwrite"):
        make(folder, "new", Options(resume=True, overwrite=True))
    assert (folder / "run.json").exists()


def test_what_is_no_run_is_not_replaced(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is not a run directory, so it is kept"):
        make(tmp_path, "new", Options(overwrite=True))
    with pytest.raises(InputError, match="is a file, expected a folder"):
        make(tmp_path / "letter.txt", "new")
    with pytest.raises(InputError, match="nothing to resume"):
        make(tmp_path / "none", "new", Options(resume=True))


def test_a_run_goes_on_only_with_the_same_options_and_files(folder):
    with pytest.raises(InputError, match="was made with amount = 1, got 2; resume with --config"):
        make(folder, "new", Options(amount=2, resume=True))
    with pytest.raises(InputError, match=r"the content has changed since \(a, now b\)"):
        make(folder, "new", Options(resume=True), content_hash="b")
    make(folder, "new", Options(resume=True), content_hash="a", another_hash="c")


def test_a_record_that_is_broken_is_a_line(folder):
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json cannot be read"):
        make(folder, "new", Options(overwrite=True))
    (folder / "run.json").write_text(json.dumps({"verb": "make"}))
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config.yaml cannot be read"):
        make(folder, "new", Options(resume=True))
