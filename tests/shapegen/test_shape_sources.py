import numpy as np
import pytest

from common.errors import InputError
from shapegen.data.procedural import procedural
from shapegen.data.sources import SOURCES, find_source, load_data, split_data
from shapegen.data.splits import split
from shapegen.families import FAMILIES


def names(count: int) -> np.ndarray:
    return np.array([f"shape {k}" for k in range(count)])


def test_a_split_covers_every_class_alike():
    index = np.repeat([0, 1, 2], [100, 50, 10])
    parts = split(index, names(160), seed=1)
    assert {name: np.bincount(index[p], minlength=3).tolist() for name, p in parts.items()} == {
        "train": [80, 40, 8],
        "val": [10, 5, 1],
        "test": [10, 5, 1],
    }


def test_a_split_depends_on_names_alone():
    index, ids = np.repeat([0, 1], 40), names(80)
    order = np.random.default_rng(0).permutation(80)
    first, second = split(index, ids), split(index[order], ids[order])
    only = split(index[:40], ids[:40])
    for part in first:
        assert set(ids[first[part]]) == set(ids[order][second[part]])
        assert set(ids[:40][only[part]]) == set(ids[first[part]]) & set(ids[:40])
    assert not np.array_equal(split(index, ids, seed=1)["test"], first["test"])


def test_groups_stay_together():
    groups = np.repeat(names(20), 3)
    parts = split(np.zeros(60, int), groups)
    assert sum(len(set(groups[p])) for p in parts.values()) == 20


def test_small_classes_are_for_training():
    parts = split(np.array([0, 0, 1, 1, 1]), names(5))
    assert {0, 1} <= set(parts["train"].tolist())
    assert [len(p) for p in parts.values()] == [3, 1, 1]


def test_bad_splits():
    with pytest.raises(InputError, match="must sum to 1"):
        split(np.zeros(3, int), names(3), fractions={"train": 0.5, "test": 0.4})
    with pytest.raises(InputError, match="no shapes to split"):
        split(np.zeros(0, int), names(0))


def test_procedural_by_name():
    report = load_data("procedural", points=64, classes=["table", "bolt"], count_per_class=10, workers=1, seed=2)
    assert report.shapes.digest() == procedural(10, 2, 64, 1, ["table", "bolt"]).digest()
    assert {part: len(v) for part, v in split_data(report).items()} == {"train": 16, "val": 2, "test": 2}
    assert report.missing == {}
    assert report.lines() == ["read 20 of 20 shapes in 2 classes"]
    a, b = (split_data(report, half=half) for half in "ab")
    assert sorted([*a["train"], *b["train"]]) == split_data(report)["train"].tolist()
    assert len(a["train"]) == len(b["train"]) == 8
    assert b["val"].tolist() == split_data(report)["val"].tolist()


def test_a_training_gets_the_same_shapes_without_measuring_them():
    options = {"points": 32, "count_per_class": 2, "workers": 1}
    whole, bare = (load_data("procedural", **options, labels=flag).shapes for flag in (True, False))
    assert whole.properties
    assert not bare.properties
    assert whole.digest() == bare.digest()


def test_sources_are_described():
    assert set(SOURCES) == {"procedural", "shapenet", "modelnet", "ldraw"}
    assert f"{len(FAMILIES)} parametric families" in SOURCES["procedural"].description


def test_unknown_names():
    with pytest.raises(InputError, match="did you mean 'procedural'"):
        find_source("procedurel")
    with pytest.raises(InputError, match="did you mean 'ldraw'"):
        load_data("ldrow")
    with pytest.raises(InputError, match="no such file or folder"):
        load_data("./ldraw")


def test_a_missing_data_set_says_where_to_look(tmp_path):
    for name in ("shapenet", "modelnet", "ldraw"):
        with pytest.raises(InputError, match="no such folder"):
            load_data(name, data_folder=tmp_path)


def test_modelnet_layout(tmp_path, in_process):
    # Some files of ModelNet have the counts on the line of the word OFF.
    text = "OFF4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
    for part, count in {"train": 4, "test": 2}.items():
        for k in range(count):
            path = tmp_path / "modelnet" / "tent" / part / f"tent_{k}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("0 0 1\n", f"0 0 {k + 1}\n"))
    report = load_data("modelnet", data_folder=tmp_path, points=32, workers=1)
    assert report.shapes.class_counts == {"tent": 6}
    assert sorted(report.shapes.properties["volume"]) == pytest.approx(np.array([1, 1, 2, 2, 3, 4]) / 6)
    assert {part: len(v) for part, v in split_data(report).items()} == {"train": 3, "val": 1, "test": 2}


def test_shapenet_layout(tmp_path):
    for part in ("train", "val", "test"):
        path = tmp_path / "shapenet" / "03001627" / part / f"{part}.npy"
        path.parent.mkdir(parents=True)
        np.save(path, np.random.default_rng(len(part)).random((100, 3)) * [1, 2, 1])
    report = load_data("shapenet", data_folder=tmp_path, points=50, classes=["chair"])
    # Y is up in the files.
    assert (report.shapes.properties["height"] > 1.5).all()
    assert [len(v) for v in split_data(report).values()] == [1, 1, 1]
