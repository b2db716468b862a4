"""The verb `export` and the library under it: files of absolute size, and an account of every shape."""

import csv
import json

import numpy as np
import pytest
import trimesh

from common.errors import InputError
from common.workers import Failure
from shapegen.cli import main
from shapegen.data.items import describe_item_failure, find_items, read_item, read_items
from shapegen.data.shapes import ShapeSet
from shapegen.export import ShapeExporter
from shapegen.geometry.meshes import load_exported


def ball(count, seed=0):
    """Points on the unit sphere."""
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def open_box():
    box = trimesh.creation.box((1, 2, 3))
    box.update_faces(np.arange(12) > 0)
    return box


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cloud in metres, one that cannot be a surface, an open mesh, and damaged files."""
    folder = tmp_path_factory.mktemp("export")
    np.save(folder / "ball.npy", 0.05 * ball(600))
    np.save(folder / "few.npy", ball(20))
    open_box().export(folder / "open.stl")
    (folder / "empty.npy").touch()
    (folder / "bad.ply").write_text("ply\nformat ascii 1.0\nelement vertex 5\nend_header\n")
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    """The exit code of an export of them all, and the folder that it wrote."""
    output = folder / "out"
    files = [str(folder / name) for name in ("ball.npy", "few.npy", "empty.npy", "open.stl", "bad.ply")]
    code = main(
        ["export", *files, "--mesh", "--format", "stl,glb", "--unit", "m", "--workers", "1", "--resolution", "24",
         "--output-dir", str(output)]
    )  # fmt: skip
    return code, output


def test_one_bad_shape_never_stops_the_rest(exported):
    code, output = exported
    assert code == 3
    assert {path.name for path in output.iterdir()} == {
        "ball.stl", "ball.glb", "open.stl", "open.glb", "export.csv", "export.json", "run.json", "config.yaml",
    }  # fmt: skip
    rows = {row["name"]: row for row in csv.DictReader((output / "export.csv").open())}
    assert "expected at least 32" in rows["few"]["problem"]
    assert "cannot be read as PLY" in rows["bad"]["problem"]
    assert rows["empty"]["problem"] == "is empty"
    assert rows["ball"]["problem"] == rows["open"]["problem"] == ""


def test_a_cloud_becomes_a_closed_mesh_of_its_own_size(exported):
    (one,) = (row for row in json.loads((exported[1] / "export.json").read_text()) if row["name"] == "ball")
    assert one["report"]["watertight"]
    assert one["points"] == 600
    stl, glb = (load_exported(exported[1] / f"ball.{kind}") for kind in ("stl", "glb"))
    assert stl.is_watertight
    np.testing.assert_allclose(stl.extents, 100, rtol=0.06)
    np.testing.assert_allclose(glb.extents, 0.1, rtol=0.06)
    assert stl.volume == pytest.approx(one["report"]["volume"], rel=1e-3)
    assert stl.volume == pytest.approx(one["occupancy_mm3"], rel=0.06)
    # Two thousandths of the area of a sphere of 50 mm.
    assert one["wall_mm"] == pytest.approx(np.sqrt(4 * np.pi * 50**2 / 600), rel=0.15)


def test_a_hole_is_reported_and_not_hidden(exported):
    (one,) = (row for row in json.loads((exported[1] / "export.json").read_text()) if row["name"] == "open")
    assert not one["report"]["watertight"]
    assert one["report"]["hole_edges"] == [3]
    assert one["report"]["volume"] is None
    assert one["extents_mm"] == pytest.approx([1000, 2000, 3000])


def exporter(folder, **settings):
    return ShapeExporter(str(folder), ("stl",), **settings)


def test_holes_are_closed_and_sizes_chosen_where_asked(folder, tmp_path):
    (item,) = find_items([folder / "open.stl"])
    with pytest.raises(InputError, match="has no unit"):
        exporter(tmp_path)(item)
    made = exporter(tmp_path, watertight=True, scale_mm=80)(item)
    assert made.report is not None
    assert made.report.watertight
    assert made.extents_mm == pytest.approx((80 / 3, 160 / 3, 80))
    assert load_exported(tmp_path / "open.stl").volume == pytest.approx(np.prod(made.extents_mm), rel=1e-5)


def test_a_report_is_in_millimetres_and_z_up_whatever_the_format(folder, tmp_path):
    (item,) = find_items([folder / "open.stl"], unit="m")
    stl = exporter(tmp_path)(item)
    glb = ShapeExporter(str(tmp_path), ("glb",))(item)
    assert glb.extents_mm == pytest.approx(stl.extents_mm)
    assert glb.report.hole_lengths == pytest.approx(stl.report.hole_lengths)
    assert glb.report.area == pytest.approx(stl.report.area)


def test_points_can_stay_points(tmp_path):
    ShapeSet(ball(64)[None], np.zeros(1, int), ("ball",), unit="cm").save(tmp_path / "mine.npz")
    (item,) = find_items([tmp_path / "mine.npz"])
    made = ShapeExporter(str(tmp_path), ("ply", "glb"), mesh=False)(item)
    assert made.files == ("00000-ball.ply", "00000-ball.glb")
    assert made.report is None
    cloud = trimesh.load(tmp_path / "00000-ball.ply")
    np.testing.assert_allclose(cloud.vertices, 10 * ball(64), atol=1e-4)
    np.testing.assert_allclose(made.extents_mm, np.ptp(cloud.vertices, axis=0), rtol=1e-5)


def test_units_and_axes_are_those_of_the_file(tmp_path):
    points = ball(40) * [1, 2, 3]
    np.save(tmp_path / "a.npy", points)
    (item,) = find_items([tmp_path / "a.npy"], unit="mm")
    turned, unit = read_item(item, up="y")
    assert unit == "mm"
    np.testing.assert_allclose(np.ptp(turned, axis=0), np.ptp(points, axis=0)[[0, 2, 1]], rtol=1e-6)
    # What says its unit and its axes is believed.
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "b.glb")
    mesh, unit = read_item(find_items([tmp_path / "b.glb"], unit="mm")[0])
    assert unit == "m"
    np.testing.assert_allclose(mesh.extents, (1, 3, 2))
    ShapeSet(points[None], np.zeros(1, int), ("c",), unit="cm").save(tmp_path / "c.npz")
    same, unit = read_item(find_items([tmp_path / "c.npz"], unit="mm")[0], up="y")
    assert unit == "cm"
    np.testing.assert_allclose(same, points, atol=1e-6)


def test_a_closed_mesh_that_is_inside_out_is_turned_and_an_open_one_stays(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    box.invert()
    box.export(tmp_path / "inside_out.stl")
    cut = open_box()
    cut.invert()
    cut.export(tmp_path / "cut.stl")
    turned, left = (read_item(item)[0] for item in find_items([tmp_path / "inside_out.stl", tmp_path / "cut.stl"]))
    assert turned.volume == pytest.approx(6)
    assert left.volume < 0


def test_names_stay_inside_the_folder_and_differ(tmp_path):
    ShapeSet(np.stack([ball(20)] * 2), np.zeros(2, int), ("../../evil",)).save(tmp_path / "mine.npz")
    (tmp_path / "sub").mkdir()
    for place in ("", "sub"):
        np.save(tmp_path / place / "a.npy", np.stack([ball(20)]))
    names = [item.name for item in find_items([tmp_path / n for n in ("mine.npz", "a.npy", "sub/a.npy", "a.npy")])]
    assert names == ["00000-.._.._evil", "00001-.._.._evil", "a", "a-2", "a-3"]
    assert len(find_items([tmp_path / "mine.npz", tmp_path / "a.npy"], count=1)) == 2


def test_files_are_read_in_their_order_and_failures_in_place(folder):
    items = find_items([folder / name for name in ("bad.ply", "ball.npy", "open.stl")])
    bad, cloud, mesh = read_items(items, workers=1)
    assert isinstance(bad, Failure)
    assert "cannot be read as PLY" in describe_item_failure(bad)
    assert cloud[0].shape == (600, 3)
    assert len(mesh[0].faces) == 11


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure("time limit", "more than 900 s"), "takes more than 900 s"),
        (Failure("worker died", "exit status -9"), "damaged or too large"),
        (Failure("MemoryError"), "more memory"),
        (Failure("ValueError", "odd"), "ValueError: odd"),
    ],
)
def test_failures_are_said_in_words(failure, words):
    assert words in describe_item_failure(failure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.npy"], "no such file"),
        (["FOLDER"], "holds no samples"),
        (["ball.npy", "--format", "stl"], "--mesh makes surfaces of points"),
        (["ball.npy", "--mesh", "--format", "step"], "got the format 'step', expected some of glb, stl, ply, obj"),
        (["ball.npy", "--watertight"], "points cannot be watertight"),
        (["ball.npy", "--mesh", "--scale-mm", "-3"], "got a size of -3.0 mm"),
        (["ball.npy", "--mesh", "--unit", "inch"], "got unit 'inch'"),
        (["ball.npy", "--mesh", "--up", "w"], "got the up axis 'w'"),
        (["ball.npy", "--mesh", "--resolution", "3"], "resolution is 3"),
        (["ball.npy", "--mesh", "--time-limit", "0"], "got --time-limit 0.0"),
        (["shapes.zip", "--mesh"], "archives are not read"),
        ([], "shapes"),
    ],
)
def test_bad_input_is_one_line(arguments, message, folder, tmp_path, capsys):
    (folder / "shapes.zip").write_bytes(b"PK")
    places = {"FOLDER": str(folder), **{n: str(folder / n) for n in ("ball.npy", "shapes.zip")}}
    output = tmp_path / "out"
    code = main(["export", *(places.get(word, word) for word in arguments), "--output-dir", str(output)])
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists(), "a refused request leaves nothing behind"


def test_an_earlier_export_is_kept(folder, exported, capsys):
    before = (exported[1] / "ball.stl").read_bytes()
    assert main(["export", str(folder / "ball.npy"), "--mesh", "--unit", "m", "--output-dir", str(exported[1])]) == 2
    assert "exists and is kept" in capsys.readouterr().err
    assert (exported[1] / "ball.stl").read_bytes() == before
