import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from common.errors import InputError
from shapegen.data.inspect import summarise
from shapegen.data.procedural import procedural
from shapegen.data.shapes import ShapeSet, is_shape_set


def some(count: int = 6, stored: int = 20, unit: str = "m", **changes) -> ShapeSet:
    rng = np.random.default_rng(count)
    normals = rng.standard_normal((count, stored, 3), dtype=np.float32)
    return replace(
        ShapeSet(
            points=rng.random((count, stored, 3)),
            class_index=np.arange(count) % 2,
            class_names=("cup", "bowl"),
            unit=unit,
            normals=normals,
            properties={"volume_m3": np.where(np.arange(count) == 1, np.nan, np.arange(count, dtype=float))},
            ids=np.array([f"shape {k}" for k in range(count)]),
        ),
        **changes,
    )


@pytest.mark.parametrize("memory_map", [False, True])
def test_round_trip(tmp_path, memory_map):
    shapes = some()
    shapes.save(tmp_path / "set.npz")
    found = ShapeSet.load(tmp_path / "set.npz", memory_map=memory_map)
    assert isinstance(found.points, np.memmap) == memory_map
    assert found.points.dtype == np.float32
    for name in ("points", "normals", "class_index", "ids"):
        assert np.array_equal(getattr(found, name), getattr(shapes, name))
    assert (found.class_names, found.unit) == (shapes.class_names, "m")
    assert np.array_equal(found.properties["volume_m3"], shapes.properties["volume_m3"], equal_nan=True)
    assert found.digest() == shapes.digest()
    assert is_shape_set(tmp_path / "set.npz")


def test_the_digest_sees_every_difference():
    shapes = some()
    moved = shapes.points.copy()
    moved[5, 19, 2] += 1e-6
    others = [
        replace(shapes, points=moved),
        replace(shapes, class_index=1 - shapes.class_index),
        replace(shapes, unit="mm"),
        replace(shapes, class_names=("cup", "plate")),
    ]
    assert len({shapes.digest(), *(other.digest() for other in others)}) == 5


def test_select():
    shapes = some()
    found = shapes.select([4, 0])
    assert found.ids.tolist() == ["shape 4", "shape 0"]
    assert np.array_equal(found.normals[0], shapes.normals[4])
    assert shapes.select(shapes.class_index == 1).class_counts == {"cup": 0, "bowl": 3}
    assert shapes.select_classes(["bowl"]).class_counts == {"bowl": 3}
    with pytest.raises(InputError, match="no class is called 'jug'"):
        shapes.select_classes(["jug"])


def test_concatenate_unites_the_classes():
    first, second = some(4), some(2, class_names=("bowl", "jug"), properties={"genus": np.ones(2)})
    both = ShapeSet.concatenate([first, second])
    assert both.class_counts == {"cup": 2, "bowl": 3, "jug": 1}
    assert np.isnan(both.properties["genus"]).tolist() == [True] * 4 + [False] * 2
    assert both.normals is not None
    assert ShapeSet.concatenate([first, replace(second, normals=None)]).normals is None
    with pytest.raises(InputError, match="expected one unit"):
        ShapeSet.concatenate([first, some(unit="mm")])


def test_units():
    shapes = some()
    assert shapes.in_unit("mm").points == pytest.approx(1000 * shapes.points)
    assert shapes.in_unit("mm").in_unit("m").points == pytest.approx(shapes.points)
    with pytest.raises(InputError, match="cannot convert"):
        some(unit="unitless").in_unit("mm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": np.zeros((6, 20, 2))}, r"expected \(shapes, points, 3\)"),
        ({"class_index": np.zeros(5, int)}, "'class_index' has shape"),
        ({"class_index": np.full(6, 2)}, "expected 0 to 1"),
        ({"class_names": ("cup", "cup")}, "expected different ones"),
        ({"unit": "inch"}, "got unit 'inch'"),
        ({"properties": {"genus": np.zeros(2)}}, "'genus' has shape"),
        ({"normals": np.zeros((6, 19, 3))}, "normals have shape"),
    ],
)
def test_wrong_arrays_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        some(**changes)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, points=np.zeros((1, 2, 3)))
    with pytest.raises(InputError, match="not a shape set"):
        ShapeSet.load(path)
    assert not is_shape_set(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="not a shape set"):
        ShapeSet.load(path)
    broken = some().points.copy()
    broken[0, 0, 0] = np.nan
    some(points=broken).save(path)
    with pytest.raises(InputError, match="no numbers"):
        ShapeSet.load(path)


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "x.npz"
    arrays = {"format": np.array("shapegen.ShapeSet/1"), "points": np.array([{}], dtype=object)}
    np.savez(path, **arrays, class_index=np.zeros(1), class_names=np.array(["a"]), unit=np.array("m"))
    for memory_map in (False, True):
        with pytest.raises(InputError, match="not a shape set"):
            ShapeSet.load(path, memory_map=memory_map)


def test_procedural_is_the_same_whatever_the_workers():
    one = procedural(2, seed=3, points=64, workers=1, classes=["mug", "table"])
    two = procedural(2, seed=3, points=64, workers=2, classes=["mug", "table"])
    assert one.digest() == two.digest()
    assert np.array_equal(one.normals, two.normals)
    assert list(one.properties) == list(two.properties)
    assert all(np.array_equal(one.properties[name], two.properties[name]) for name in one.properties)
    assert one.ids.tolist() == ["mug/3000000", "mug/3000001", "table/3000000", "table/3000001"]
    assert one.unit == "m"
    assert np.linalg.norm(one.normals, axis=2) == pytest.approx(1, abs=1e-5)


def test_more_procedural_shapes_add_to_fewer():
    few, more = (procedural(count, points=32, workers=1, classes=["shelf"]) for count in (2, 3))
    assert np.array_equal(more.points[:2], few.points)
    other = procedural(2, seed=1, points=32, workers=1, classes=["shelf"], normals=False)
    assert not np.array_equal(other.points, few.points)
    assert other.normals is None


def test_points_are_spread_by_area():
    table = procedural(1, points=20_000, workers=1, classes=["bolt"])
    # The share of points that look sideways is the share of area that does, so mean normals cancel on a closed solid.
    assert np.abs(table.normals[0].mean(axis=0)).max() < 0.02


def test_bad_procedural_requests():
    with pytest.raises(InputError, match="no family is called 'mugg'"):
        procedural(1, classes=["mugg"])
    with pytest.raises(InputError, match="0 shapes a class"):
        procedural(0)


def test_the_summary_is_plain_data():
    summary = summarise(some())
    assert summary.classes == {"cup": 3, "bowl": 3}
    assert summary.properties[0].missing == 1
    assert json.dumps(asdict(summary)) == json.dumps(summary.to_dict())
    assert any("cup" in line for line in summary.lines())
    assert summarise(some().select([])).num_shapes == 0
