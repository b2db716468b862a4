"""`molgen finetune`: a short run makes a model like any other; wrong requests are one line."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.algorithms import gradient_noise
from common.cli.finetune import FinetuneOptions
from common.diffusion.control import Control, ControlledDenoiser
from common.training.optimiser import OptimiserConfig
from molgen import load_pretrained
from molgen.cli import main
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.data.sources import split_data
from molgen.finetune import MoleculeTask
from molgen.results import training_data
from molgen.target_law import TargetLaw

SHORT = (
    "--steps", "2", "--batch-size", "4", "--rollout-steps", "5", "--measure-every", "1", "--measure-samples", "6",
    "--workers", "1",
)  # fmt: skip


def finetune(*arguments: str) -> int:
    return main(["finetune", "gdb7-xtb", *SHORT, *arguments])


def error_line(capsys) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return next(line for line in reversed(text.splitlines()) if "error:" in line)


def rows(run: Path) -> list[dict[str, str]]:
    return [row for path in sorted(run.glob("logs/csv/*/metrics.csv")) for row in csv.DictReader(path.open())]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """A run towards a radius of gyration, which has a gradient."""
    run = tmp_path_factory.mktemp("finetune") / "run"
    target = ("--method", "adjoint_matching", "--target", "gyration_radius=2.5±0.1")
    assert finetune(*target, "--output-dir", str(run)) == 0
    return run


def test_it_writes_a_model_and_says_what_it_cost(tuned):
    description = json.loads((tuned / "model" / "model.json").read_text())
    assert description["finetuning"]["method"] == "adjoint_matching"
    assert description["finetuning"]["target"] == ["gyration_radius=2.5±0.1"]
    assert description["training"]["reward_calls"] == 2 * 4
    assert description["training"]["network_evaluations"] >= 2 * 2 * 4 * 5
    measured = [row for row in rows(tuned) if row.get("sample/reward")]
    assert [int(row["step"]) for row in measured] == [0, 1, 2]
    assert float(measured[0]["sample/path_kl"]) == 0
    assert all(float(row["sample/validity"]) <= 1 for row in measured)


@pytest.mark.slow
def test_rewards_may_be_scored_on_a_ray_cluster(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    arguments = ("--method", "policy_gradient", "--target", "gap=4±1", "--steps", "1")
    try:
        for workers in ("1", "ray"):
            run = tmp_path / workers
            assert finetune(*arguments, "--workers", workers, "--output-dir", str(run)) == 0
    finally:
        ray.shutdown()
    here, there = ([row["sample/reward"] for row in rows(tmp_path / workers)] for workers in ("1", "ray"))
    assert here == there


def test_the_tuned_model_generates_like_any_other(tuned, tmp_path):
    arguments = ["--num-samples", "4", "--seed", "1", "--pictures", "0", "--output-dir", str(tmp_path / "out")]
    assert main(["generate", str(tuned), *arguments]) == 0
    base, model = load_pretrained("gdb7-xtb"), load_pretrained(tuned)
    ours, theirs = model.sample(4, seed=1), base.sample(4, seed=1)
    assert not np.allclose(ours.positions, theirs.positions)


def test_resuming_gives_what_an_uninterrupted_run_gives(tuned, tmp_path):
    target = ("--method", "adjoint_matching", "--target", "gyration_radius=2.5±0.1")
    again = ("--output-dir", str(tmp_path / "r"))
    assert finetune(*target, *again, "--max-minutes", "0.000001") == 3
    assert finetune(*target, *again, "--resume") == 0
    resumed, whole = load_pretrained(tmp_path / "r"), load_pretrained(tuned)
    for a, b in zip(resumed.denoiser.parameters(), whole.denoiser.parameters(), strict=True):
        assert (a == b).all()


def test_a_tuned_model_keeps_its_adapters(tuned, tmp_path, capsys):
    arguments = ["finetune", str(tuned), *SHORT, "--target", "gyration_radius=2", "--output-dir", str(tmp_path / "r")]
    for rank in ("0", "4"):
        assert main([*arguments, "--rank", rank]) == 2
        assert f"got --rank {rank}, but {tuned} was tuned before and keeps its 16; leave it out" in error_line(capsys)
    assert main([*arguments, "--active-from", "0.3"]) == 2
    assert "keeps its 0.15" in error_line(capsys)
    assert main([*arguments, "--rank", "16", "--method", "reward_weighted"]) == 0
    assert "its adapters (rank 16, active from 0.15) are trained further" in capsys.readouterr().err


def test_what_is_left_out_of_the_optimiser_is_the_default_of_the_verb():
    options = FinetuneOptions(base="b", optimiser={"learning_rate": 0.01})
    expected = OptimiserConfig("adamw", 0.01, weight_decay=0, warmup_steps=3, decay_fraction=0.5)
    assert options.optimiser_config() == expected
    # Another one has its own.
    options = FinetuneOptions(base="b", optimiser={"name": "muon", "learning_rate": 0.01})
    assert options.optimiser_config() == OptimiserConfig("muon", 0.01)


def test_a_control_input_is_asked_for_by_generate(tmp_path, capsys):
    run = tmp_path / "controlled"
    control = ("--method", "policy_gradient", "--control", "gap±0.5", "--output-dir", str(run))
    assert finetune(*control, "--optimiser", '{"name": "adamw", "learning_rate": 0.01}') == 0
    assert any(row.get("sample/gap_ev_off") for row in rows(run))
    model, base = load_pretrained(run), load_pretrained("gdb7-xtb")
    (gap,) = model.controls
    assert gap.name == "gap_ev"
    plain = base.sample(3, seed=5)
    np.testing.assert_array_equal(model.sample(3, seed=5).positions, plain.positions)
    np.testing.assert_array_equal(
        model.sample(3, seed=5, targets={"gap_ev": 4.0}, strength=0.0).positions, plain.positions
    )
    assert not np.allclose(model.sample(3, seed=5, targets={"gap_ev": 4.0}).positions, plain.positions)
    out = ["--num-samples", "2", "--pictures", "0", "--output-dir", str(tmp_path / "out")]
    assert main(["generate", str(run), "--target", "gap=4", *out]) == 0
    capsys.readouterr()
    assert main(["generate", str(run), "--target", "alpha=70", *out]) == 2
    assert "its control inputs are gap_ev" in error_line(capsys)


def test_labels_come_from_one_half_alone():
    molecules = load()
    a, b = (molecules.select(split_data("gdb7-xtb", molecules, half=half)["train"]) for half in "ab")
    task = MoleculeTask(load_pretrained("gdb7-xtb"), half="b")
    _, outcomes = task.outcomes("gap")
    np.testing.assert_array_equal(outcomes.numpy(), b.properties["gap_ev"].astype(np.float32))
    batch = next(iter(task.data(64, 0, ["gap_ev"])(0, 0, 1)))
    seen = set(batch.condition["gap_ev"].tolist())
    assert seen <= set(outcomes.tolist())
    assert not seen <= set(a.properties["gap_ev"].astype(np.float32).tolist())


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    """A control that was learnt from 20 labels of D_b."""
    run = tmp_path_factory.mktemp("conditional") / "run"
    control = ("--method", "likelihood", "--control", "gap", "--half", "b", "--labels", "20", "--output-dir", str(run))
    assert finetune(*control, "--optimiser", '{"name": "adamw", "learning_rate": 0.01}') == 0
    return run


def test_each_sample_is_asked_for_a_size_and_a_value_of_the_data(conditional, tmp_path):
    out = tmp_path / "out"
    short = ("--steps", "3", "--pictures", "0", "--workers", "1", "--seed", "2", "--output-dir", str(out))
    assert main(["generate", str(conditional), "--target", "gap=law", *short, "--num-samples", "3"]) == 0
    first = MoleculeSet.load(out / "samples.npz")
    resumed = ("--num-samples", "5", "--batch-size", "2", "--resume")
    assert main(["generate", str(conditional), "--target", "gap=law", *short, *resumed]) == 0
    samples = MoleculeSet.load(out / "samples.npz")
    sizes, values = TargetLaw.of_molecules(training_data("gdb7-xtb", half="b"), "gap_ev").draw(2, 0, 5)
    np.testing.assert_array_equal(samples.num_atoms, sizes)
    np.testing.assert_array_equal(samples.properties["asked_gap_ev"], values)
    np.testing.assert_allclose(samples.select(range(3)).positions, first.positions, atol=2e-4)
    with open(out / "samples.csv") as file:
        assert [float(row["asked_gap_ev"]) for row in csv.DictReader(file)] == values.tolist()
    assert "asked_gap_ev" in (out / "samples.sdf").read_text()
    # The network was told each its own value.
    model = load_pretrained(conditional)
    one = model.sample(1, num_atoms=int(sizes[4]), targets={"gap_ev": values[4]}, seed=2, start=4, steps=3)
    np.testing.assert_allclose(one.positions, samples[4][1], atol=1e-3)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("gdb7-xtb", ("--target", "gap=law"), "got --target gap=law, but it has no control inputs"),
        ("RUN", ("--target", "alpha=law"), "but its control inputs are gap_ev; finetune --control alpha adds one"),
        ("RUN", ("--target", "gapp=law"), "did you mean 'gap'"),
        ("RUN", ("--target", "gap=law", "--target", "mu=law"), "one law at a time"),
        ("RUN", ("--target", "gap=law, gap=4"), "one quantity, two aims"),
        ("RUN", ("--target", "gap=law", "--num-atoms", "12"), "got --num-atoms and --target gap=law"),
        (
            "RUN",
            ("--target", "gap=law, maximise qed", "--guidance", "smc"),
            "with --guidance smc, which follows one aim",
        ),
        ("RUN", ("--target", "gap=law", "--guidance", "classifier"), "with --guidance classifier"),
        ("LOST", ("--target", "gap=law"), "draws from the data 'qm9' (--data-folder says where they are)"),
    ],
)
def test_a_law_that_cannot_be_drawn_is_one_line(conditional, tmp_path, capsys, model, arguments, message):
    if model == "LOST":
        shutil.copytree(conditional / "model", tmp_path / "lost")
        path = tmp_path / "lost" / "model.json"
        path.write_text(path.read_text().replace('"data": "gdb7-xtb"', '"data": "qm9"'))
    model = {"RUN": str(conditional), "LOST": str(tmp_path / "lost")}.get(model, model)
    assert main(["generate", model, *arguments, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_control_is_learnt_from_labels_alone(conditional):
    description = json.loads((conditional / "model" / "model.json").read_text())
    assert (description["finetuning"]["data"], description["finetuning"]["half"]) == ("gdb7-xtb", "b")
    assert description["training"]["reward_calls"] == 0
    assert description["training"]["labels"] == 20
    model, base = load_pretrained(conditional), load_pretrained("gdb7-xtb")
    np.testing.assert_array_equal(model.sample(3, seed=5).positions, base.sample(3, seed=5).positions)
    asked = model.sample(3, seed=5, targets={"gap_ev": 4.0})
    assert not np.allclose(asked.positions, base.sample(3, seed=5).positions)


def test_a_control_is_learnt_in_hindsight_from_data_without_labels(tmp_path):
    """Labels are for the predictor alone: of 20 molecules, while all of the data are learnt from."""
    run = tmp_path / "run"
    arguments = ("--method", "hindsight", "--control", "gap tolerance 0.2")
    fast = ("--optimiser", '{"name": "adamw", "learning_rate": 0.01}', "--output-dir", str(run))
    assert finetune(*arguments, "--labels", "20", *fast) == 0
    description = json.loads((run / "model" / "model.json").read_text())
    assert description["finetuning"]["data"] == "gdb7-xtb"
    assert description["training"]["labels"] == 20
    assert description["training"]["network_evaluations"] == 8
    model = load_pretrained(run)
    asked = [model.sample(3, seed=5, targets={"gap_ev": gap}).positions for gap in (3.0, 9.0)]
    assert not np.allclose(*asked)


@pytest.mark.parametrize("method", ["hindsight", "likelihood"])
def test_a_control_that_the_data_do_not_know_is_measured_on_them(tmp_path, capsys, method):
    run = tmp_path / "run"
    assert finetune("--method", method, "--control", "qed", "--labels", "40", "--output-dir", str(run)) == 0
    # Once, though `likelihood` wants them for the range of values and for the molecules themselves.
    said = capsys.readouterr().err
    assert said.count("the data have no column 'qed': measuring it of 40 samples") == 1
    assert "no predictor of qed ships: its scorer decides, give or take 0.05" in said
    (qed,) = load_pretrained(run).controls
    assert (qed.name, 0.2 < qed.mean < 0.6) == ("qed", True)
    assert json.loads((run / "model" / "model.json").read_text())["training"]["labels"] == 40


def test_an_own_function_is_a_control_like_any_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text("def size(mols):\n    return [m.GetNumAtoms() for m in mols]\n")
    (tmp_path / "broken.py").write_text("def size(mols):\n    raise ValueError('no')\n")
    monkeypatch.chdir(tmp_path)
    words = ("--method", "hindsight", "--labels", "20", "--output-dir")
    assert finetune("--control", "own.py:size±1", *words, "run") == 0
    out = ("--num-samples", "2", "--pictures", "0", "--output-dir", "out")
    assert main(["generate", "run", "--target", "own.py:size=12", *out]) == 0
    assert finetune("--control", "broken.py:size±1", *words, "other") == 2
    assert "0 of 20 samples could be measured (20 x broken.py:size: ValueError)" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to aim at"),
        (("--method", "likelihood", "--target", "gap=4±1"), "--control NAME"),
        (("--method", "likelihood", "--control", "gap", "--labels", "99999"), "expected 2 to 10171"),
        (("--method", "likelihood", "--control", "gap", "--half", "b", "--labels", "99999"), "expected 2 to 5086"),
        (("--control", "gap", "--half", "c"), "got --half 'c', expected one of all, a, b"),
        (
            ("--method", "ctrl", "--control", "gap", "--half", "b"),
            "a predictor that has learnt from half all of gdb7-xtb",
        ),
        (("--method", "likelihood", "--control", "cv"), "knows no 'cv_cal_mol_k'"),
        (("--method", "likelihood", "--control", "gap", "--target", "maximise qed"), "knows no reward"),
        (("--method", "ctrl", "--control", "gap", "--target", "maximise qed"), "differentiable"),
        (("--target", "gap=4.5±0.2", "--method", "rgmd"), "did you mean 'rgdm'"),
        (("--target", "gapp=4.5±0.2"), "did you mean"),
        (("--target", "gap=4.5±0.2", "--method", "backprop"), "differentiable"),
        (("--target", "gap"), "nothing to aim at"),
        (("--target", "gap=4±1", "--workers", "many"), "or ray"),
        (("--control", "gap=4"), "cannot read --control"),
        (("--control", "gap tolerance 0"), "expected numbers above 0"),
        (("--target", "gap=4±1", "--values-each", "4"), "give --control"),
        (("--method", "ctrl", "--control", "gap", "--values-each", "4"), "values_each 4 with Backprop, expected 1"),
        (("--control", "gap±0.1 tolerance 0.2"), "cannot read --control"),
        (("--control", "homo tolerance 10%"), "of which a share says nothing"),
        (("--control", "energy"), "give --control 'energy±TOLERANCE'"),
        (("--method", "ctrl", "--target", "gap=4±1"), "--control NAME"),
        (("--target", "gap=4±1", "--settings", '{"candidate": 3}'), "did you mean 'candidates'"),
        (("--target", "gap=4±1", "--settings", '{"candidates": "many"}'), "candidates 'many', expected a whole number"),
        (("--target", "gap=4±1", "--labels", "20"), "got --labels without --control"),
        (("--target", "gap=4±1", "--even-share", "0.2"), "got --even-share without --control"),
    ],
)
def test_wrong_requests_are_one_line_and_leave_nothing(tmp_path, capsys, arguments, message):
    assert finetune(*arguments, "--output-dir", str(tmp_path / "run")) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_gradients_are_compared_and_drawn(tmp_path, capsys, monkeypatch):
    given = []
    compared = gradient_noise.compare_gradients
    monkeypatch.setattr(
        gradient_noise, "compare_gradients", lambda rgdm, *rest: given.append(rgdm) or compared(rgdm, *rest)
    )
    arguments = (
        "--target", "gyration_radius=2.5±0.1", "--draws", "3", "--states", "2", "--candidates", "3",
        "--rollout-steps", "5", "--times", "[0.75]", "--output-dir", str(tmp_path / "g"), "--json",
    )  # fmt: skip
    assert main(["gradients", "gdb7-xtb", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["estimator"] for row in rows] == ["rgdm", "policy_gradient", "policy_gradient_returns"]
    assert all(row["variance"] > 0 and row["time"] == 0.75 for row in rows)
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-4)
    # At the temperature that was asked for, and with the reference in the weights.
    assert (given[0].round_tau, given[0].target) == (1.0, "kl")
    assert (tmp_path / "g" / "gradients.png").stat().st_size > 10_000
    assert main(["gradients", "gdb7-xtb", "--output-dir", str(tmp_path / "h")]) == 2
    assert not (tmp_path / "h").exists()


def test_an_input_that_only_data_know_is_asked_for_by_its_short_name(tmp_path, capsys):
    base = load_pretrained("gdb7-xtb")
    controlled = ControlledDenoiser(base.denoiser, [Control("cv_cal_mol_k", mean=25.0, std=4.0)], rank=2)
    description = {**base.description, "control": controlled.settings()}
    replace(base, denoiser=controlled, description=description).save(tmp_path / "model")
    words = ["generate", str(tmp_path), "--num-samples", "2", "--steps", "3", "--pictures", "0", "--output-dir"]
    assert main([*words, str(tmp_path / "out"), "--target", "cv=30"]) == 0
    assert main([*words, str(tmp_path / "out2"), "--target", "cv_cal_mol_k=30"]) == 0
    assert main([*words, str(tmp_path / "out3"), "--target", "cv=30", "--guidance", "smc"]) == 2
    assert "error:" in capsys.readouterr().err
