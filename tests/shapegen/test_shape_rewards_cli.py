"""`shapegen rewards` and `shapegen score` as a user meets them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from contracts.shape_cases import box, points_on

from shapegen.cli import main
from shapegen.data.shapes import ShapeSet

SCORE = "def score(clouds):\n    print('noise')\n    return [None if len(c.vertices) > 90 else 1.0 for c in clouds]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    mesh = box(100, 60, 200)
    mesh.export(folder / "box.stl")
    np.save(folder / "cloud.npy", points_on(mesh, 80))
    trimesh.PointCloud(points_on(mesh, 100)).export(folder / "cloud.ply")
    ShapeSet(np.stack([points_on(box(), 64, k) for k in range(2)]), np.zeros(2), ("box",), "m").save(
        folder / "samples.npz"
    )
    (folder / "my_score.py").write_text(SCORE)
    (folder / "broken.stl").write_bytes(b"no mesh")
    return folder


def test_the_list_names_unit_needs_and_aims(capsys):
    assert main(["rewards"]) == 0
    text = capsys.readouterr().out
    assert "closeness(FILE)" in text
    assert "require components=1" in text
    assert main(["rewards", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rewards"]}
    assert (rows["volume_m3"]["unit"], rows["volume_m3"]["needs"]) == ("m^3", "points")
    assert rows["volume_m3"]["differentiable"]
    assert (rows["drop_tilt_deg"]["unit"], rows["drop_tilt_deg"]["needs"]) == ("degrees", "mesh")
    assert not rows["drop_tilt_deg"]["differentiable"]
    assert rows["volume_m3"]["seconds_per_sample"] is None


@pytest.mark.slow
def test_costs_are_measured_when_asked(capsys):
    assert main(["rewards", "--measure", "--num-shapes", "1", "--points", "64", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    costs = {row["name"]: row["seconds_per_sample"] for row in listed["rewards"] if not row["takes"]}
    assert all(cost is not None and cost >= 0 for cost in costs.values())
    assert costs["volume_m3"] > costs["height_m"] > 0
    assert listed["reconstruction_seconds_per_sample"] > 0
    assert main(["rewards", "--measure", "--num-shapes", "0"]) == 2
    assert main(["rewards", "--measure", "--points", "8"]) == 2


def test_meshes_are_exact_clouds_are_estimates_and_the_table_says_so(folder, capsys):
    output = folder / "scores.csv"
    files = [str(folder / name) for name in ("box.stl", "cloud.ply", "broken.stl")]
    arguments = ["score", *files, "--unit", "mm", "--reward", "volume", "--reward", "height=0.2±0.01, aspect_ratio"]
    assert main([*arguments, "--output", str(output), "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert "height_m = 0.2 ± 0.01 m" in captured.err
    assert "broken.stl: is no STL file" in captured.err
    assert "exact for 1 meshes: volume_m3, height_m, aspect_ratio" in captured.out
    assert "estimated from points for 1 clouds: volume_m3, height_m, aspect_ratio" in captured.out
    rows = list(csv.DictReader(output.open()))
    assert [(row["name"], row["kind"]) for row in rows] == [("box", "mesh"), ("cloud", "points")]
    assert float(rows[0]["volume_m3"]) == pytest.approx(0.0012, rel=1e-6)
    assert float(rows[1]["volume_m3"]) == pytest.approx(0.0012, rel=0.15)
    assert float(rows[0]["reward"]) == pytest.approx(0, abs=1e-9)


def test_a_run_is_scored_and_a_users_function_too(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["score", ".", "cloud.ply", "--reward", "my_score.py:score", "--workers", "1", "--unit", "mm"]) == 0
    captured = capsys.readouterr()
    assert "loaded my_score.py:score from" in captured.err
    assert "maximise my_score.py:score" in captured.out
    assert "failed: 1 x my_score.py:score: None" in captured.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to score; give --reward NAME (`shapegen rewards` lists all)"),
        (["--reward", "stabilty"], 2, "did you mean 'stability'"),
        (
            ["--reward", "volume"],
            2,
            "volume_m3 is in m^3, but the shapes have no unit of length; say which they are in",
        ),
        (["--reward", "volume=1 l", "--unit", "mm"], 2, "volume_m3 is in m^3"),
        (["--reward", "fill", "--unit", "inch"], 2, "got unit 'inch', expected one of m, cm, mm"),
        (["--reward", "fill", "--up", "x"], 2, "got --up x, expected one of z, y, -y"),
        (["--reward", "closeness(absent.ply)"], 2, "got 'absent.ply', expected a file"),
        (["--reward", "fill", "--workers", "many"], 2, "expected a number from 1 on, or ray"),
        (["--reward", "my.py:score"], 2, "no such file"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(folder, capsys, arguments, code, message):
    assert main(["score", str(folder / "cloud.npy"), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_files_with_and_without_a_unit_are_not_mixed(folder, capsys):
    files = [str(folder / name) for name in ("samples.npz", "cloud.npy")]
    assert main(["score", *files, "--reward", "fill"]) == 2
    assert "1 of 3 shapes have no unit, the others have; say it: --unit mm (or m, cm)" in capsys.readouterr().err


def test_where_nothing_could_be_scored_the_exit_code_says_so(folder, capsys):
    np.save(folder / "flat.npy", np.random.default_rng(0).random((64, 3)) * [1, 1, 0])
    assert main(["score", str(folder / "flat.npy"), "--reward", "fill"]) == 3
    assert "none of 1 shapes could be scored: fill: points coincide or lie flat" in capsys.readouterr().err
    assert main(["score", str(folder / "broken.stl"), "--reward", "fill"]) == 2
    assert "none of 1 shapes could be read" in capsys.readouterr().err
