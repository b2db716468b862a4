"""The command as a user meets it: what it writes, what it prints, its exit codes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molgen import load_pretrained
from molgen.cli import main
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.data.xyz import write_xyz
from molgen.pretrained.publish import publish

TINY = """
network: {name: transformer, width: 32, n_layers: 1, pair_width: 8, n_vectors: 2, n_heads: 2}
steps: 6
batch_size: 16
precision: float32
device: cpu
sampler: {steps: 4, solver: sde-dpm2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a small data file, a configuration and a trained run."""
    folder = tmp_path_factory.mktemp("cli")
    write_xyz(folder / "mine.xyz", load().select(range(200)))
    (folder / "tiny.yaml").write_text(f"data: {folder / 'mine.xyz'}\n{TINY}")
    assert main(["train", "--config", str(folder / "tiny.yaml"), "--output-dir", str(folder / "run")]) == 0
    return folder


def error_line(capsys) -> str:
    """What went to stderr: no traceback, and the last complaint."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return next(line for line in reversed(text.splitlines()) if ": error:" in line or ": incomplete:" in line)


def test_twenty_steps_give_the_losses_they_always_gave(folder, tmp_path):
    """A golden trajectory through the command: data, codec, noise, network, loss and optimiser unchanged."""
    arguments = ["train", "--config", str(folder / "tiny.yaml"), "--steps", "20", "--log-every", "10", "--json"]
    assert main([*arguments, "--output-dir", str(tmp_path / "golden")]) == 0
    (table,) = (tmp_path / "golden" / "logs" / "csv").glob("*/metrics.csv")
    losses = [float(row["train/loss"]) for row in csv.DictReader(table.open()) if row["train/loss"]]
    assert losses == pytest.approx([1.53271, 1.35878], rel=2e-3)


def test_a_run_directory_is_a_model_and_generation_writes_everything(folder, capsys):
    output = folder / "samples"
    arguments = ["generate", str(folder / "run"), "--num-samples", "12", "--num-atoms", "5-9", "--json"]
    assert main([*arguments, "--output-dir", str(output)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_samples"] == 12
    assert json.loads((output / "metrics.json").read_text())["metrics"]
    assert len(list(Chem.SDMolSupplier(str(output / "samples.sdf"), sanitize=False, removeHs=False))) == 12
    rows = list(csv.DictReader((output / "samples.csv").open()))
    assert len(rows) == 12
    assert all(5 <= int(row["n_atoms"]) <= 9 for row in rows)
    record = json.loads((output / "run.json").read_text())
    assert record["seed"] == 0
    assert record["versions"]["torch"]


def test_a_published_model_is_half_as_large_and_carries_its_card(folder, tmp_path):
    judged = tmp_path / "judged"
    arguments = ["generate", str(folder / "run"), "--num-samples", "4", "--pictures", "0", "--json"]
    assert main([*arguments, "--output-dir", str(judged)]) == 0
    publish(folder / "run", judged, tmp_path / "shipped")
    weights = "model.safetensors"
    assert (tmp_path / "shipped" / weights).stat().st_size < 0.7 * (folder / "run" / "model" / weights).stat().st_size
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "molecule_stability" in card
    assert "generate" in card
    before, after = load_pretrained(folder / "run").sample(2), load_pretrained(tmp_path / "shipped").sample(2)
    np.testing.assert_allclose(after.positions, before.positions, atol=0.05)


def test_a_weaker_model_guides_and_the_guided_model_teaches(folder, tmp_path):
    """Without any target: autoguidance in sampling, then its answers learnt by a model of its own."""
    run, weaker = str(folder / "run"), str(tmp_path / "weaker")
    tiny = ["--config", str(folder / "tiny.yaml")]
    assert main(["train", *tiny, "--steps", "2", "--init-from", run, "--output-dir", weaker]) == 0
    words = ["generate", run, "--num-samples", "4", "--pictures", "0"]
    assert main([*words, "--output-dir", str(tmp_path / "plain")]) == 0
    guidance = ["--guidance", "autoguidance scale=2 active-from=0.2", "--weaker", weaker]
    assert main([*words, *guidance, "--output-dir", str(tmp_path / "guided")]) == 0
    plain, guided = (np.load(tmp_path / name / "samples.npz")["positions"] for name in ("plain", "guided"))
    assert not np.allclose(plain, guided)
    # Four times from 1 to 0, of which the last one is below 0.2.
    facts = json.loads((tmp_path / "guided" / "metrics.json").read_text())["generation"]
    assert facts["network_evaluations"] == 4 + 3
    taught = ["--teacher", run, "--weaker", weaker, "--autoguidance", '{"scale": 2}', "--teacher-from", "0.1"]
    assert main(["train", *tiny, "--init-from", run, *taught, "--output-dir", str(tmp_path / "student")]) == 0
    description = json.loads((tmp_path / "student" / "model" / "model.json").read_text())
    assert description["teacher"] == {"model": run, "weaker": weaker, "scale": 2, "teacher_from": 0.1}
    taught = taught[:-2]
    few = ["--few-steps", "--sampler", '{"steps": 3, "solver": "ancestral", "exponent": 1.5}']
    assert main(["train", *tiny, "--init-from", run, *taught, *few, "--output-dir", str(tmp_path / "few")]) == 0
    description = json.loads((tmp_path / "few" / "model" / "model.json").read_text())
    assert description["teacher"]["few_steps"] is True
    assert main([*words[:1], str(tmp_path / "few"), *words[2:], "--output-dir", str(tmp_path / "quick")]) == 0
    facts = json.loads((tmp_path / "quick" / "metrics.json").read_text())["generation"]
    assert facts["network_evaluations"] == 3


def test_a_part_of_the_data_is_learnt_and_hard_sizes_more_often(folder, tmp_path, capsys):
    run, part = str(folder / "run"), tmp_path / "part"
    words = ["train", "--config", str(folder / "tiny.yaml"), "--output-dir"]
    assert main([*words, str(part), "--keep", "0.5", "--reweigh", run, "--reweigh-strength", "2"]) == 0
    described = [json.loads((place / "model" / "model.json").read_text()) for place in (folder / "run", part)]
    assert described[0]["data_hash"] != described[1]["data_hash"]
    assert described[1]["selection"] == {"keep": 0.5, "keep_by": "density", "reweigh": run, "reweigh_strength": 2.0}
    assert "selection" not in described[0]
    heavy = ["--where", "require mol_weight>60, require valid", "--where", "forbid substructure(C#N)"]
    assert main([*words, str(tmp_path / "heavy"), *heavy]) == 0
    described = json.loads((tmp_path / "heavy" / "model" / "model.json").read_text())
    assert described["selection"] == {"where": heavy[1::2]}
    # What fails one of several filters, and what meets them all, are everything.
    rule, counts = "require mol_weight>60, forbid substructure(C#N)", []
    for flag in ("--where", "--where-not"):
        capsys.readouterr()
        assert main([*words, str(tmp_path / flag), flag, rule]) == 0
        found = re.search(r"(\d+) of (\d+) molecules (do not )?meet", capsys.readouterr().err)
        counts.append(int(found[1]))
        total = int(found[2])
    assert 0 < min(counts) < sum(counts) == total
    assert json.loads((tmp_path / flag / "model" / "model.json").read_text())["selection"] == {"where_not": [rule]}


def test_an_interrupted_generation_goes_on_where_it_stopped(folder, capsys):
    whole, cut = folder / "whole", folder / "cut"
    base = ["generate", str(folder / "run"), "--pictures", "0", "--json"]
    assert main([*base, "--num-samples", "300", "--output-dir", str(whole)]) == 0
    assert main([*base, "--num-samples", "100", "--output-dir", str(cut)]) == 0
    assert main([*base, "--num-samples", "300", "--output-dir", str(cut), "--resume", "--batch-size", "50"]) == 0
    capsys.readouterr()

    def lines(path: Path) -> list[tuple]:
        return [
            (m.GetNumAtoms(), [a.GetSymbol() for a in m.GetAtoms()])
            for m in Chem.SDMolSupplier(str(path / "samples.sdf"), sanitize=False, removeHs=False)
        ]

    assert lines(cut) == lines(whole)


def test_an_existing_run_is_kept(folder, capsys):
    output = folder / "kept"
    arguments = ["generate", str(folder / "run"), "--num-samples", "2", "--output-dir", str(output), "--json"]
    assert main(arguments) == 0
    before = (output / "samples.sdf").read_bytes()
    assert main(arguments) == 2
    assert "exists and is kept" in error_line(capsys)
    assert (output / "samples.sdf").read_bytes() == before
    assert main([*arguments, "--resume", "--seed", "5"]) == 2
    assert "made with seed = 0, got 5" in error_line(capsys)
    assert main([*arguments, "--overwrite"]) == 0
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    assert main([*arguments[:-2], str(folder / "mine"), "--overwrite"]) == 2
    assert (folder / "mine" / "thesis.txt").exists()


def test_a_request_that_cannot_be_met_leaves_the_run_that_it_should_replace(folder, tmp_path, capsys):
    run, output = str(folder / "run"), tmp_path / "kept"
    arguments = ["generate", run, "--num-samples", "2", "--pictures", "0", "--json", "--output-dir", str(output)]
    assert main(arguments) == 0
    before = (output / "samples.sdf").read_bytes()
    for wrong in (["--num-atoms", "500"], ["--posebusters", "-1"], ["--workers", "0"]):
        assert main([*arguments, *wrong, "--overwrite"]) == 2
        assert (output / "samples.sdf").read_bytes() == before
    weights = (folder / "run" / "model" / "model.safetensors").read_bytes()
    for verb in (["generate", run], ["train", "--config", str(folder / "tiny.yaml"), "--init-from", run]):
        assert main([*verb, "--output-dir", run, "--overwrite"]) == 2
        assert "choose another" in error_line(capsys)
        assert (folder / "run" / "model" / "model.safetensors").read_bytes() == weights


def test_what_is_made_of_changed_files_is_not_gone_on_with(folder, tmp_path, capsys):
    model, samples = tmp_path / "model", tmp_path / "samples"
    shutil.copytree(folder / "run" / "model", model)
    arguments = ["generate", str(model), "--num-samples", "2", "--pictures", "0", "--output-dir", str(samples)]
    assert main(arguments) == 0
    other = ["train", "--config", str(folder / "tiny.yaml"), "--seed", "1", "--output-dir", str(tmp_path / "other")]
    assert main(other) == 0
    shutil.copytree(tmp_path / "other" / "model", model, dirs_exist_ok=True)
    assert main([*arguments, "--resume"]) == 2
    assert "the model has changed since" in error_line(capsys)
    # Of the same name, and of other molecules.
    write_xyz(tmp_path / "mine.xyz", load().select(range(100)))
    again = ["train", "--config", str(folder / "tiny.yaml"), "--data", str(tmp_path / "mine.xyz")]
    assert main([*again, "--output-dir", str(tmp_path / "trained")]) == 0
    write_xyz(tmp_path / "mine.xyz", load().select(range(100, 200)))
    assert main([*again, "--output-dir", str(tmp_path / "trained"), "--resume"]) == 2
    assert "the data has changed since" in error_line(capsys)


def test_evaluate_leaves_what_a_run_says_of_itself(folder, tmp_path, capsys):
    samples = tmp_path / "samples"
    arguments = ["generate", str(folder / "run"), "--num-samples", "3", "--pictures", "0", "--output-dir", str(samples)]
    assert main(arguments) == 0
    asked = MoleculeSet.load(samples / "samples.npz")
    dataclasses.replace(asked, properties={"asked_gap_ev": np.array([3.0, 4.0, 5.0])}).save(samples / "samples.npz")
    generation = json.loads((samples / "metrics.json").read_text())["generation"]
    assert main(["evaluate", str(samples)]) == 0
    metrics = json.loads((samples / "metrics.json").read_text())
    assert (metrics["generation"], metrics["skipped"]) == (generation, 0)
    assert [row["asked_gap_ev"] for row in csv.DictReader((samples / "samples.csv").open())] == ["3.0", "4.0", "5.0"]
    assert main(["evaluate", str(folder / "mine.xyz"), "--output-dir", str(tmp_path / "judged")]) == 0
    rows = list(csv.DictReader((tmp_path / "judged" / "samples.csv").open()))
    assert [row["record"] for row in rows] == [str(number) for number in range(1, 201)]


def test_evaluate_judges_files_and_runs(folder, capsys):
    assert main(["evaluate", str(folder / "mine.xyz"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    values = {row["name"]: row["value"] for row in result["metrics"]}
    assert values["validity"] == 1
    assert values["molecule_stability"] > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "gdb8"], "no model 'gdb8'"),
        (["generate", "RUN", "--num-sampels", "3"], "did you mean 'num-samples'"),
        (["generate", "RUN", "--num-samples", "-3"], "expected at least 1"),
        (["generate", "RUN", "--num-samples", "many"], "many"),
        (["generate", "RUN", "--num-atoms", "few", "--output-dir", "NEW"], "expected a number (14) or a range (10-16)"),
        (["generate", "RUN", "--device", "cuda:7", "--output-dir", "NEW"], "expected auto or one that is here"),
        (["generate", "RUN", "--output-dir", "NEW", "--resume"], "nothing to resume"),
        (["evaluate", "nowhere.sdf"], "nowhere.sdf"),
        (["train", "--data", "gdb7xtb", "--output-dir", "NEW"], "did you mean 'gdb7-xtb'"),
        (["train", "--network", "{name: egn}", "--output-dir", "NEW"], "did you mean 'egnn'"),
        (["train", "--network", "{name: egnn, hiden_nf: 3}", "--output-dir", "NEW"], "did you mean 'hidden_nf'"),
        (["train", "--optimiser", "{learning_rat: 3}", "--output-dir", "NEW"], "did you mean 'learning_rate'"),
        (["train", "--weaker", "RUN", "--output-dir", "NEW"], "--weaker without --teacher"),
        (["train", "--few-steps", "--output-dir", "NEW"], "--few-steps without --teacher"),
        (["train", "--teacher-from", "0.1", "--output-dir", "NEW"], "--teacher-from without --teacher"),
        (
            ["train", "--teacher", "RUN", "--few-steps", "--teacher-from", "0.1", "--output-dir", "NEW"],
            "learns steps at all times",
        ),
        (
            ["train", "--config", "TINY", "--teacher", "RUN", "--few-steps", "--output-dir", "NEW"],
            "expected ancestral steps",
        ),
        (["generate", "RUN", "--exponent", "0", "--output-dir", "NEW"], "expected a number above 0"),
        (["train", "--config", "TINY", "--teacher", "gdb7-xtb", "--output-dir", "NEW"], "states of another codec"),
        (["generate", "RUN", "--guidance", "autoguidance", "--output-dir", "NEW"], "needs --weaker MODEL"),
        (["generate", "RUN", "--weaker", "RUN", "--output-dir", "NEW"], "--weaker without --guidance autoguidance"),
        (["train", "--config", "TINY", "--keep-by", "densty", "--output-dir", "NEW"], "did you mean 'density'"),
        (["train", "--config", "TINY", "--keep", "0", "--output-dir", "NEW"], "got --keep 0"),
        (["train", "--config", "TINY", "--where", "forbid valid", "--output-dir", "NEW"], "meet forbid valid"),
        (["train", "--config", "TINY", "--where", "gap>4", "--output-dir", "NEW"], "expected filters alone"),
        (["data", "inspect"], "nothing to inspect"),
        (["fly"], "fly"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, capsys, arguments, message):
    places = {"RUN": str(folder / "run"), "NEW": str(tmp_path / "new"), "TINY": str(folder / "tiny.yaml")}
    assert main([places.get(word, word) for word in arguments]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "new").exists(), "a refused request leaves nothing behind"


def test_a_configuration_with_an_unknown_key_names_the_nearest(folder, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("batchsize: 3\n")
    assert main(["train", "--config", str(tmp_path / "bad.yaml")]) == 2
    assert "did you mean 'batch_size'" in error_line(capsys)


@pytest.mark.parametrize("order", [("--config", "FILE", "--steps", "0"), ("--steps", "0", "--config=FILE")])
def test_what_is_typed_beats_the_configuration_wherever_it_stands(folder, tmp_path, capsys, order):
    words = [word.replace("FILE", str(folder / "tiny.yaml")) for word in order]
    assert main(["train", *words, "--output-dir", str(tmp_path / "new")]) == 2
    assert "got --steps 0" in error_line(capsys)


def test_broken_records_are_skipped_and_named(folder, capsys):
    text = (folder / "mine.xyz").read_text().splitlines()
    first = int(text[0])
    broken = ["3", "", "C 0 0 nan", "H 0 0 1", "H 0 1 0"]
    (folder / "partly.xyz").write_text("\n".join(text[: first + 2] + broken) + "\n")
    assert main(["evaluate", str(folder / "partly.xyz")]) == 0
    printed = capsys.readouterr()
    assert "record 2" in printed.err
    assert "1 records could not be read" in printed.out
    (folder / "broken.xyz").write_text("\n".join(broken) + "\n")
    assert main(["evaluate", str(folder / "broken.xyz")]) == 2
    assert "none of its 1 records" in error_line(capsys)


def test_doctor_models_and_data_have_json(capsys):
    for arguments in (["doctor"], ["models"], ["data", "list"], ["data", "inspect", "--data", "gdb7-xtb"]):
        assert main([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) is not None


def test_a_full_disk_loses_nothing(folder, capsys, monkeypatch):
    output = folder / "full"
    arguments = ["generate", str(folder / "run"), "--num-samples", "2", "--output-dir", str(output), "--json"]
    assert main(arguments) == 0
    before = (output / "samples.sdf").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main([*arguments, "--resume"]) == 1
    assert "No space left on device" in error_line(capsys)
    assert (output / "samples.sdf").read_bytes() == before
    assert not list(output.glob(".*.part"))


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "molgen", *arguments, "--config", str(folder / "tiny.yaml")]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_training_resumes_bit_for_bit(folder):
    """kill -9 in the middle: the last checkpoint goes on to the same weights as an uninterrupted run."""
    options = ["--steps", "60", "--checkpoint-minutes", "0.01"]
    done = subprocess.run(
        command(folder, "train", *options, "--output-dir", str(folder / "through")), env=environment()
    )
    assert done.returncode == 0
    arguments = command(folder, "train", *options, "--output-dir", str(folder / "killed"))
    process = subprocess.Popen(arguments, env=environment())
    checkpoint = folder / "killed" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "killed" / "model").exists()
    assert subprocess.run([*arguments, "--resume"], env=environment()).returncode == 0
    assert weights(folder / "killed") == weights(folder / "through")


@pytest.mark.slow
def test_two_processes_train_together(folder):
    arguments = command(folder, "train", "--devices", "2", "--output-dir", str(folder / "ddp"))
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    description = json.loads((folder / "ddp" / "model" / "model.json").read_text())
    assert description["training"]["samples_seen"] == 6 * 16 * 2


@pytest.mark.slow
def test_ctrl_c_saves_and_tells_how_to_go_on(folder):
    arguments = command(folder, "train", "--steps", "100000", "--output-dir", str(folder / "long"))
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    logs = folder / "long" / "logs" / "tensorboard"
    while not list(logs.glob("events*")):
        assert process.poll() is None, "it ended before its first step"
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "go on with --resume" in errors
    assert "Traceback" not in errors
    assert (folder / "long" / "checkpoints" / "last.ckpt").exists()
