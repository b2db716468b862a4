"""The command `shapegen` from end to end, on a folder of points and a model of a few steps."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from contracts.shape_cases import box, points_on

from shapegen.cli import main
from shapegen.cli.train import shared_by_processes
from shapegen.data.shapes import ShapeSet
from shapegen.model import ShapeModel
from shapegen.results import cloud_properties, write_samples

NETWORK = '{"name": "set_transformer", "width": 32, "point_width": 32, "n_latents": 4, "n_blocks": 1, "cond_width": 16}'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 64, 3)) * 0.1
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    ShapeSet(points, np.arange(20) % 2, ("ball", "blob"), unit="m").save(path)
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "toy"
    assert main(train_arguments(data, path)) == 0
    return path


def train_arguments(data, path, steps=6):
    return [
        "train", "--data", str(data), "--points", "16", "--stored-points", "64", "--network", NETWORK,
        "--steps", str(steps), "--batch-size", "4", "--precision", "float32", "--device", "cpu",
        "--output-dir", str(path),
    ]  # fmt: skip


def generate(model, path, *more):
    return main(["generate", str(model), "--points", "20", "--steps", "3", "--output-dir", str(path), *more])


def test_every_run_directory_is_a_model(trained, tmp_path, capsys):
    assert generate(trained, tmp_path / "a", "--num-samples", "5", "--seed", "3") == 0
    assert "5 shapes of 20 points" in capsys.readouterr().out
    shapes = ShapeSet.load(tmp_path / "a" / "samples.npz")
    assert shapes.unit == "m"
    assert shapes.class_names == ("ball", "blob")
    rows = list(csv.DictReader((tmp_path / "a" / "samples.csv").open()))
    assert len(rows) == 5
    for row, points, index in zip(rows, shapes.points, shapes.class_index, strict=True):
        assert row["class"] == shapes.class_names[index]
        assert float(row["width_m"]) == pytest.approx(np.ptp(points[:, 0]), rel=1e-4)
        cloud = trimesh.load(tmp_path / "a" / row["file"])
        np.testing.assert_allclose(cloud.vertices, points, atol=1e-6)
    assert (tmp_path / "a" / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_properties_are_those_of_the_rewards(tmp_path):
    """Known solids, and a set whose unit nobody knows."""
    boxes = [points_on(box(0.1, 0.06, 0.2), 1024), points_on(box(0.2, 0.1, 0.1), 1024), np.zeros((1024, 3))]
    shapes = ShapeSet(np.stack(boxes), np.array([0, 0, 1]), ("box", "a/b"), unit="m")
    write_samples(tmp_path, shapes.in_unit("mm"))
    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    assert float(rows[0]["height_m"]) == pytest.approx(0.2, abs=0.002)
    assert float(rows[0]["volume_m3"]) == pytest.approx(0.1 * 0.06 * 0.2, rel=0.1)
    assert float(rows[1]["centre_height_m"]) == pytest.approx(0.05, abs=0.005)
    assert rows[1]["tip_angle_deg"]
    assert rows[2]["height_m"] == "0"
    assert rows[2]["volume_m3"] == ""
    assert (tmp_path / rows[2]["file"]).is_file()
    unknown = cloud_properties(replace(shapes, unit="unitless"))
    assert "volume_m3" not in unknown
    assert unknown["height"][0] == pytest.approx(0.2, abs=0.002)
    assert unknown["elongation"][0] > 0


def test_a_longer_run_goes_on_where_the_shorter_ended(trained, tmp_path):
    assert generate(trained, tmp_path / "cut", "--num-samples", "3", "--pictures", "0") == 0
    assert generate(trained, tmp_path / "cut", "--num-samples", "6", "--pictures", "0", "--resume") == 0
    assert generate(trained, tmp_path / "whole", "--num-samples", "6", "--pictures", "0", "--batch-size", "4") == 0
    cut, whole = (ShapeSet.load(tmp_path / name / "samples.npz") for name in ("cut", "whole"))
    np.testing.assert_allclose(cut.points, whole.points, atol=1e-5)
    np.testing.assert_array_equal(cut.class_index, whole.class_index)
    assert generate(trained, tmp_path / "cut", "--num-samples", "6", "--resume", "--seed", "1") == 2


def test_a_class_can_be_asked_for(trained, tmp_path, capsys):
    assert generate(trained, tmp_path / "a", "--num-samples", "4", "--target", "class=blob", "--pictures", "0") == 0
    assert ShapeSet.load(tmp_path / "a" / "samples.npz").class_index.tolist() == [1] * 4
    for target, message in (
        ("class=blub", "no class 'blub' (did you mean 'blob'?)"),
        ("volume=3", "cannot be asked for 'volume=3'"),
        ("class", "expected class=NAME with one of ball, blob"),
    ):
        assert generate(trained, tmp_path / "b", "--target", target) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "b").exists()


def test_training_resumes_and_keeps_its_settings(data, tmp_path, capsys):
    path = tmp_path / "run"
    assert main(train_arguments(data, path, 4)) == 0
    # What tells training shapes from held-out ones stands in the model.
    assert json.loads((path / "model" / "model.json").read_text())["data_options"]["points"] == 64
    focused = [*train_arguments(data, path, 7), "--resume"]
    assert main(focused) == 0
    assert json.loads((path / "model" / "model.json").read_text())["training"]["samples_seen"] == 28
    assert main([*focused, "--rotate", "up"]) == 2
    assert "was made with rotate = none, got up" in capsys.readouterr().err


def test_a_weaker_model_guides_and_the_guided_model_teaches(trained, data, tmp_path):
    weaker = str(tmp_path / "weaker")
    assert main([*train_arguments(data, weaker, steps=3), "--init-from", str(trained)]) == 0
    assert generate(trained, tmp_path / "plain", "--num-samples", "2") == 0
    guidance = ("--guidance", "autoguidance scale=2", "--weaker", weaker)
    assert generate(trained, tmp_path / "guided", "--num-samples", "2", *guidance) == 0
    plain, guided = (ShapeSet.load(tmp_path / name / "samples.npz").points for name in ("plain", "guided"))
    assert not np.allclose(plain, guided)
    taught = ("--init-from", str(trained), "--teacher", str(trained), "--weaker", weaker)
    assert main([*train_arguments(data, tmp_path / "student"), *taught]) == 0
    description = json.loads((tmp_path / "student" / "model" / "model.json").read_text())
    assert description["teacher"] == {"model": str(trained), "weaker": weaker}


def test_a_student_has_its_teachers_states_and_samples_in_few_steps(trained, data, tmp_path):
    part = ShapeSet.load(data)
    ShapeSet.save(part.select(np.arange(0, len(part), 2)), tmp_path / "part.npz")
    few = ("--teacher", str(trained), "--few-steps", "--sampler", '{"steps": 5, "solver": "ancestral"}')
    arguments = train_arguments(tmp_path / "part.npz", tmp_path / "student")
    assert main([*arguments, "--init-from", str(trained), *few]) == 0
    base, student = (
        json.loads((path / "model" / "model.json").read_text()) for path in (trained, tmp_path / "student")
    )
    assert student["codec"] == base["codec"]
    assert student["teacher"] == {"model": str(trained), "few_steps": True}
    assert student["sampler"]["steps"] == 5


def test_a_sample_that_is_not_finite_stops_nobody(trained, tmp_path, monkeypatch):
    sample = ShapeModel.sample

    def broken(self, *arguments, **options):
        made = sample(self, *arguments, **options)
        made.points[1, 3] = np.nan
        return made

    monkeypatch.setattr(ShapeModel, "sample", broken)
    arguments = [
        "generate",
        str(trained),
        "--num-samples",
        "3",
        "--points",
        "64",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    found = ShapeSet.load(tmp_path / "out" / "samples.npz", memory_map=True)
    assert np.isfinite(found.points).all(axis=(1, 2)).tolist() == [True, False, True]
    assert (tmp_path / "out" / "samples.png").exists()
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "DATA", "--network", "POINTWISE", "--teacher", "MODEL"], "which cannot be taught"),
        (["train", "--data", "DATA", "--teacher", "procedural"], "states of another codec"),
        (["generate", "MODEL", "--points", "0"], "got --points 0, expected at least 1"),
        (["generate", "nothing"], "no model 'nothing'"),
        (["train", "--data", "DATA", "--points", "9999"], "got 9999 points a shape, expected 1 to"),
        (["train", "--data", "DATA", "--class-dropout", "2"], "got --class-dropout 2.0, expected 0 to 1"),
        (["train", "--data", "DATA", "--normalisation", "local"], "got mode 'local'"),
        (["train", "--data", "procedual"], "did you mean 'procedural'?"),
        (["data", "inspect"], "nothing to inspect"),
        (["data", "build", "--data", "DATA", "--output", "a.txt"], "expected a file that ends in .npz"),
        (["train", "--data", "DATA", "--network", '{"name": "set_transformer", "widht": 3}'], "did you mean 'width'?"),
        (["train", "--data", "DATA", "--network", '{"name": "set_transformer", "width": 33}'], "a multiple of 32"),
    ],
)
def test_bad_input_is_one_line(arguments, message, trained, data, tmp_path, capsys):
    places = {"MODEL": str(trained), "DATA": str(data), "POINTWISE": '{"name": "pointwise", "n_latent": 8}'}
    arguments = [places.get(word, word) for word in arguments]
    if arguments[0] != "data":
        arguments += ["--output-dir", str(tmp_path / "out")]
    if arguments[0] == "train":
        arguments += ["--steps", "1", "--stored-points", "64", "--device", "cpu"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_data_verbs(data, tmp_path, capsys):
    assert main(["data", "list", "--json"]) == 0
    assert "procedural" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert main(["data", "inspect", "--data", str(data), "--points", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"ball": 10, "blob": 10}
    output = tmp_path / "mine.npz"
    assert main(["data", "build", "--data", str(data), "--classes", '["blob"]', "--output", str(output)]) == 0
    # Points that are stored already are kept as they are.
    assert ShapeSet.load(output).points.shape == (10, 64, 3)


def test_doctor_and_models(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == []
    assert main(["models", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_the_training_set_is_made_once_for_all_processes(monkeypatch):
    made = []

    def load() -> ShapeSet:
        made.append(True)
        return ShapeSet(np.ones((2, 4, 3), np.float32), np.zeros(2, np.int64), ("cube",))

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with shared_by_processes(load, 2) as first:
        monkeypatch.setenv("LOCAL_RANK", "1")
        with shared_by_processes(load, 2) as second:
            assert second.digest() == first.digest()
        monkeypatch.delenv("LOCAL_RANK")
    assert len(made) == 1
    with shared_by_processes(load, 1):
        assert len(made) == 2
