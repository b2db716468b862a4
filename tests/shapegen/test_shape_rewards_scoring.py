"""Scores of meshes and clouds: exact where a mesh is at hand, failures that stay where they belong, nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from contracts.shape_cases import as_given, box, points_on, solid
from contracts.shape_torch_free import calculate_and_look

from common.errors import InputError
from common.rewards import ScoreCache
from common.workers import DIED, Failure, WorkerPool
from shapegen.families.labels import shape_labels
from shapegen.rewards import scoring
from shapegen.rewards.body import DROP_STABLE, DROP_TILT, FUNCTIONS, Body
from shapegen.rewards.calculation import BodyItem, CloudItem, DropItem, Triangles, calculate
from shapegen.rewards.scoring import Given, ShapeScorer
from shapegen.rewards.table import REWARDS, find_scorer


def score(shapes, *names, **options):
    scorers = [find_scorer(*name.rstrip(")").split("(")) if "(" in name else find_scorer(name) for name in names]
    with ShapeScorer(scorers, workers=1, **options) as scorer:
        return scorer.score(shapes)


def triangles(mesh: trimesh.Trimesh) -> Triangles:
    return Triangles(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def open_box() -> trimesh.Trimesh:
    mesh = box()
    mesh.update_faces(np.arange(len(mesh.faces)) > 1)
    return mesh


def test_meshes_get_the_exact_labels_and_clouds_estimates(tmp_path):
    mesh = solid("bolt")
    labels = shape_labels(mesh)
    points = points_on(mesh)
    table = score([as_given(mesh), Given(points)], "volume", "stability", "tip_angle", "mesh_area", "genus",
                  "components", "watertight", "drop", "uniformity")  # fmt: skip
    for name in ("volume_m3", "stability_margin_m", "tip_angle_deg", "genus"):
        assert table.values[name][0] == pytest.approx(labels[name], rel=1e-9), name
    assert table.values["mesh_area_m2"][0] == pytest.approx(labels["area_m2"])
    estimated = table.values["volume_m3"][1]
    assert estimated != labels["volume_m3"]
    assert estimated == pytest.approx(labels["volume_m3"], rel=0.1)
    assert table.values["mesh_area_m2"][1] == pytest.approx(labels["area_m2"], rel=0.3)
    for name in ("components", "watertight", DROP_STABLE):
        assert table.values[name].tolist() == [1, 1], name
    assert not table.failures


def test_bodies_of_known_kind():
    ring = trimesh.creation.torus(0.05, 0.01)
    two = trimesh.util.concatenate([box(), box().apply_translation((1, 0, 0))])
    hollow = trimesh.util.concatenate([trimesh.creation.icosphere(1), trimesh.creation.icosphere(1, 0.5)])
    hollow.faces[80:] = hollow.faces[80:, ::-1]
    values = {
        name: {key: FUNCTIONS[key](Body(mesh)) for key in ("components", "genus", "watertight", "volume")}
        for name, mesh in {"ring": ring, "two": two, "hollow": hollow, "open": open_box()}.items()
    }
    assert values["ring"]["genus"] == 1
    assert values["two"]["components"] == 2
    # The inner surface of a hollow is no part.
    assert values["hollow"]["components"] == 1
    assert values["hollow"]["volume"] == pytest.approx(7 / 8 * trimesh.creation.icosphere(1).volume)
    assert values["open"]["watertight"] == 0
    assert isinstance(values["open"]["volume"], Failure)


def test_what_stands_stands_and_what_leans_falls():
    leaning = box()
    leaning.vertices[:, 0] += 1.5 * leaning.vertices[:, 2]
    stands, falls = (calculate(DropItem(triangles(mesh))) for mesh in (box(), leaning))
    assert stands[DROP_STABLE] == 1
    assert stands[DROP_TILT] < 1
    assert falls[DROP_STABLE] == 0
    assert falls[DROP_TILT] > 20
    flat = calculate(DropItem(Triangles(np.eye(3), np.array([[0, 1, 2]]))))
    assert isinstance(flat, Failure)
    assert flat.reason == "cannot be dropped"


def test_broken_shapes_fail_where_they_must_and_nowhere_else():
    nothing = Given(np.full((64, 3), np.nan))
    few = Given(points_on(box(), 10))
    table = score([as_given(open_box()), nothing, few], "volume", "height", "watertight")
    assert table.reasons["volume_m3"] == ["not closed", "points not finite", "fewer than 32 points"]
    assert table.reasons["watertight"] == ["", "no surface", "no surface"]
    assert table.values["watertight"][0] == 0
    assert table.values["height_m"][0] == pytest.approx(0.2)
    for name, column in table.values.items():
        assert [bool(reason) for reason in table.reasons[name]] == np.isnan(column).tolist(), name
    assert table.failures["volume_m3: not closed"] == 1


def test_no_geometry_is_scored_twice(tmp_path, monkeypatch):
    path = tmp_path / "scores.sqlite"
    shapes = [as_given(box()), as_given(box()), as_given(box(height=0.1))]
    first = score(shapes, "volume", "components", cache=ScoreCache(path=path))
    assert first.values["volume_m3"] == pytest.approx([0.0012, 0.0012, 0.0006])

    def refuse(*_arguments):
        raise AssertionError("a pool was started")

    monkeypatch.setattr(scoring, "WorkerPool", refuse)
    again = score(shapes, "volume", "components", cache=ScoreCache(path=path))
    np.testing.assert_array_equal(first.values["volume_m3"], again.values["volume_m3"])
    with pytest.raises(AssertionError, match="a pool was started"):
        score(shapes, "genus", cache=ScoreCache(path=path))


def test_workers_never_import_torch():
    items = [
        CloudItem(points_on(box(), 64)),
        BodyItem(triangles(box()), {"volume_m3": "volume", "overhang_share": "overhang_share"}),
        DropItem(triangles(box())),
    ]
    with WorkerPool(calculate_and_look, workers=1) as pool:
        results = dict(pool.map(items))
    assert [results[k][0] for k in range(3)] == [False] * 3
    assert isinstance(results[0][1], Triangles)
    assert results[1][1]["volume_m3"] == pytest.approx(0.0012)


def test_a_scorer_that_fails_leaves_its_neighbours_alone(monkeypatch):
    def broken(_body):
        raise ZeroDivisionError("no such thing")

    monkeypatch.setitem(FUNCTIONS, "components", broken)
    scores = calculate(BodyItem(triangles(box()), {"components": "components", "volume_m3": "volume"}))
    assert scores["components"] == Failure("ZeroDivisionError", "no such thing")
    assert scores["volume_m3"] == pytest.approx(0.0012)


def test_a_worker_that_dies_in_reconstruction_costs_that_shape_alone(monkeypatch):
    class Pool:
        def __init__(self, *_arguments):
            self.work = calculate

        def map(self, items):
            for k, item in enumerate(items):
                yield k, Failure(DIED) if isinstance(item, CloudItem) and k == 1 else calculate(item)

        def close(self):
            pass

    monkeypatch.setattr(scoring, "WorkerPool", Pool)
    clouds = [Given(points_on(box(), 64, seed)) for seed in range(3)]
    table = score(clouds, "components", "mesh_volume")
    assert table.reasons["components"] == ["", DIED, ""]
    assert np.isnan(table.values["mesh_volume_m3"]).tolist() == [False, True, False]


def test_closeness_to_a_file(tmp_path):
    whole = points_on(box(), 600)
    path = tmp_path / "partial.npy"
    np.save(path, whole[whole[:, 2] > 0.1] * 1000)
    far = Given(whole + np.array([0.5, 0, 0]))
    names = (f"closeness({path})", f"distance({path})")
    table = score([Given(whole), Given(points_on(box(), 600, 1)), far], *names, unit="mm")
    close, distance = table.values[f"closeness({path})"], table.values[f"distance_m({path})"]
    assert close[0] == pytest.approx(1, abs=1e-5)
    assert distance[1] < 0.01
    assert distance[2] == pytest.approx(0.45, abs=0.06)
    assert close[1] > 0.5 > close[2] > 0
    trimesh.PointCloud(whole).export(tmp_path / "whole.ply")
    same = score([Given(whole)], f"closeness({tmp_path / 'whole.ply'})")
    assert same.values[f"closeness({tmp_path / 'whole.ply'})"][0] == pytest.approx(1, abs=1e-4)


def test_a_shape_without_a_unit_has_ratios_and_no_metres():
    table = score([Given(points_on(box(), 256))], "aspect_ratio", unit="unitless")
    assert table.values["aspect_ratio"][0] == pytest.approx(2, rel=0.03)
    message = r"volume_m3 is in m\^3, but the shapes have no unit of length; say .* --unit mm"
    with pytest.raises(InputError, match=message):
        score([Given(points_on(box(), 256))], "volume", unit="unitless")


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("stabilty", None, r"unknown reward 'stabilty' \(did you mean 'stability'\?\)"),
        ("zzzzzz", None, "a function of yours is named my_score.py:score"),
        ("volume", "3", "takes nothing in parentheses"),
        ("closeness", None, r"closeness needs a FILE in parentheses: closeness\(FILE\)"),
        ("closeness", "absent.ply", "got 'absent.ply', expected a file"),
        ("closeness", __file__, "unknown format '.py'"),
        ("absent.py:score", None, "no such file"),
    ],
)
def test_names_and_arguments_that_cannot_be_are_refused(name, argument, message):
    with pytest.raises(InputError, match=message):
        find_scorer(name, argument)


def test_scorers_are_checked_before_any_work():
    volume = REWARDS["volume_m3"]
    with pytest.raises(InputError, match="each of them once"):
        ShapeScorer([volume, volume])
    with pytest.raises(InputError, match="more than 0"):
        ShapeScorer([volume], time_limit_s=0)


def test_an_empty_list_has_empty_columns():
    table = score([], "volume", "genus", "drop")
    assert {name: column.shape for name, column in table.values.items()} == dict.fromkeys(table.values, (0,))
    assert table.failures == {}
