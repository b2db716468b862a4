"""`shapegen finetune`: by estimates on points, by controls, and what goes wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.diffusion import State
from shapegen import load_pretrained
from shapegen.cli import main
from shapegen.finetune import ShapeTask

SHORT = (
    "--steps", "2", "--batch-size", "4", "--rollout-steps", "5", "--measure-every", "1", "--measure-samples", "6",
    "--points", "64", "--workers", "1", "--count-per-class", "4",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that has hardly been trained, of two families."""
    run = tmp_path_factory.mktemp("base") / "run"
    arguments = [
        "train", "--data", "procedural", "--count-per-class", "6", "--classes", '["mug", "vase"]', "--points", "64",
        "--stored-points", "128", "--steps", "3", "--batch-size", "4", "--workers", "1", "--device", "cpu",
        "--network", '{"name": "set_transformer", "width": 32, "point_width": 32, "n_latents": 4, "n_blocks": 1}',
        "--sampler", '{"steps": 4, "solver": "ancestral"}', "--output-dir", str(run),
    ]  # fmt: skip
    assert main(arguments) == 0
    return run


def finetune(base, *arguments: str) -> int:
    return main(["finetune", str(base), *SHORT, *arguments])


def error_line(capsys) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return next(line for line in reversed(text.splitlines()) if "error:" in line)


def test_a_gradient_through_the_points_moves_the_model(base, tmp_path):
    run = tmp_path / "run"
    target = ("--method", "adjoint_matching", "--target", "height_m=0.2±0.01", "--output-dir", str(run))
    assert finetune(base, *target, "--optimiser", '{"name": "adamw", "learning_rate": 0.01}') == 0
    description = json.loads((run / "model" / "model.json").read_text())
    assert description["training"]["reward_calls"] == 2 * 4
    ours, theirs = (load_pretrained(model).sample(3, points=64, seed=3) for model in (run, base))
    np.testing.assert_array_equal(ours.class_index, theirs.class_index)
    assert not np.allclose(ours.points, theirs.points)


def test_the_bases_own_data_are_read_as_they_were_for_it(tmp_path):
    """Files of one class of two, in millimetres and with Y up."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(4):
            np.save(tmp_path / "data" / name / f"{k}.npy", rng.uniform(-1, 1, (64, 3)) * [5, 15, 6])
    run, data = tmp_path / "run", str(tmp_path / "data")
    arguments = ["train", "--data", data, "--unit", "mm", "--up", "y", "--classes", '["a"]', "--stored-points", "64"]
    arguments += ["--points", "32", "--steps", "1", "--batch-size", "2", "--workers", "1", "--device", "cpu"]
    tiny = '{"name": "set_transformer", "width": 32, "point_width": 32, "n_latents": 4, "n_blocks": 1}'
    assert main([*arguments, "--network", tiny, "--output-dir", str(run)]) == 0
    part = ShapeTask(load_pretrained(run), points=32, workers=1)._part("train")
    assert (part.unit, part.class_names) == ("mm", ("a",))
    assert "height_m" in part.properties
    assert np.ptp(part.points, axis=1).argmax(axis=1).tolist() == [2] * len(part)


def test_a_control_is_asked_for_by_generate_beside_the_class(base, tmp_path, capsys):
    run = tmp_path / "run"
    control = ("--method", "backprop", "--control", "height_m±0.01", "--class-name", "vase", "--output-dir", str(run))
    assert finetune(base, *control, "--optimiser", '{"name": "adamw", "learning_rate": 0.01}') == 0
    (height,) = load_pretrained(run).controls
    assert height.name == "height_m"
    assert 0.15 < height.mean < 0.35
    out = ["--num-samples", "2", "--points", "64", "--pictures", "0", "--output-dir", str(tmp_path / "out")]
    assert main(["generate", str(run), "--target", "class=vase", "--target", "height_m=0.2", *out]) == 0
    capsys.readouterr()
    assert main(["generate", str(run), "--target", "width_m=0.2", *out, "--overwrite"]) == 2
    assert "its control inputs are class, height_m" in error_line(capsys)


def test_a_control_that_the_data_do_not_know_is_measured_on_them(base, tmp_path):
    run = tmp_path / "run"
    assert finetune(base, "--method", "likelihood", "--control", "uniformity", "--output-dir", str(run)) == 0
    (uniformity,) = load_pretrained(run).controls
    assert uniformity.name == "uniformity"
    assert uniformity.std > 0
    # The scorer's own values of the shapes that were learnt from, of as many points as samples have.
    task = ShapeTask(load_pretrained(run), points=64, count_per_class=4, workers=1)
    state = task.model.codec.encode(task._part("train"))
    assert state.x.shape[1] > 64
    chosen = np.random.default_rng(0).permutation(state.x.shape[1])[:64]
    measured = task._measure("uniformity")(State(state.x[:, chosen], state.mask[:, chosen])).values["uniformity"]
    assert uniformity.mean == pytest.approx(float(measured.mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "height=0.2±0.01", "--class-name", "mugg"), "did you mean 'mug'"),
        (("--target", "hieght_m=0.2±0.01"), "did you mean"),
        (("--control", "inertia_large"), "give --control 'inertia_large±TOLERANCE'"),
    ],
)
def test_wrong_requests_are_one_line_and_leave_nothing(base, tmp_path, capsys, arguments, message):
    assert finetune(base, *arguments, "--output-dir", str(tmp_path / "run")) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "run").exists()
