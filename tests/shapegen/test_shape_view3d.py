import json

import numpy as np
import pytest
import trimesh

from common.errors import InputError
from shapegen.cli import main
from shapegen.data.shapes import ShapeSet
from shapegen.geometry.view3d import MAX_POINTS, cloud_figure, cloud_trace, coarser, mesh_figure, mesh_trace


def ball(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_large_clouds_are_thinned_with_their_normals():
    points = ball(MAX_POINTS + 500)
    trace = cloud_trace(3 * points + [1e6, 0, 0], normals=points)
    assert len(trace.x) == MAX_POINTS
    # Around the origin, where float32 keeps its digits.
    assert np.ptp(trace.x) == pytest.approx(6, abs=0.05)
    shown = np.stack([trace.x, trace.y, trace.z], axis=1) / 3
    light = np.array([-0.35, -0.62, 0.70])
    np.testing.assert_allclose(trace.marker.color, 0.15 + 0.85 * np.abs(shown @ light), atol=0.08)


def test_classes_have_colours_of_their_own():
    colours = {cloud_trace(ball(50), group).marker.colorscale[1][1] for group in range(20)}
    assert len(colours) == 20
    assert mesh_trace(trimesh.creation.box(), 1).color == cloud_trace(ball(50), 1).marker.colorscale[1][1]


def test_fine_meshes_are_shown_coarser_and_small_ones_as_they_are():
    fine = trimesh.creation.icosphere(5)
    vertices, faces = coarser(np.asarray(fine.vertices), np.asarray(fine.faces), 3000)
    assert 1000 < len(faces) <= 3000
    coarse = trimesh.Trimesh(vertices, faces)
    assert coarse.volume == pytest.approx(fine.volume, rel=0.05)
    np.testing.assert_allclose(coarse.extents, fine.extents, rtol=0.05)
    box = trimesh.creation.box()
    assert coarser(box.vertices, box.faces, 3000)[1] is box.faces
    assert mesh_figure(box, height=200).layout.height == 200
    assert cloud_figure(ball(50)).layout.scene.dragmode == "turntable"


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(InputError, match="NaN"):
        cloud_trace(np.full((20, 3), np.nan))
    with pytest.raises(InputError, match="no faces"):
        mesh_trace(trimesh.Trimesh())


def test_the_verb_shows_runs_and_files_together(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    points = np.stack([ball(64, seed) for seed in range(3)])
    points[2] = np.nan
    ShapeSet(points, np.array([0, 1, 1]), ("cube", "ball"), unit="m").save(run / "samples.npz")
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.stl")
    (tmp_path / "bad.ply").write_text("ply\nformat ascii 1.0\nelement vertex 5\nend_header\n")
    page = tmp_path / "page.html"
    files = [str(run), str(tmp_path / "box.stl"), str(tmp_path / "bad.ply")]
    assert main(["view", *files, "--unit", "cm", "--output", str(page), "--workers", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["shown"] == 5
    assert "bad.ply: cannot be read as PLY" in printed.err
    text = page.read_text()
    for words in (
        '"watertight": true',
        '"volume (cm\\u00b3)": 6.0',
        '"width (m)"',
        "NaN or infinite",
        '"title": "cube"',
    ):
        assert words in text
    # A page without a single shape is an error.
    assert main(["view", str(tmp_path / "bad.ply"), "--output", str(page), "--workers", "1"]) == 2
    assert "nothing to show: cannot be read as PLY" in capsys.readouterr().err
