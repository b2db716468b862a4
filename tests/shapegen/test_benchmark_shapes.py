"""Benchmarks of shapes: the judge on the mesh and by the nearest held-out shapes, and what a user meets."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from common.benchmark.config import Benchmark, read_benchmark
from common.benchmark.published import read_published
from common.cli.benchmark import check_command, planned
from common.errors import InputError
from shapegen.benchmark.judge import MESHED, ShapeJudge, check_target, read_samples
from shapegen.benchmark.measure import PIECES, measure
from shapegen.benchmark.tasks import DOMAIN, METHODS, PUBLISHED, views
from shapegen.cli import main, verbs
from shapegen.cli.generate import GenerateOptions
from shapegen.data.codec import ShapeCodec
from shapegen.data.procedural import procedural
from shapegen.data.shapes import ShapeSet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shapes() -> ShapeSet:
    """Eight tables and eight vases, with exact labels."""
    return procedural(8, points=700, workers=1, classes=["table", "vase"], normals=False)


def judge_of(shapes: ShapeSet, codec: ShapeCodec = ShapeCodec(unit="m")) -> ShapeJudge:  # noqa: B008 (frozen)
    judge = ShapeJudge(Benchmark("b", "m", data="procedural", methods=()), workers=1)
    # The base that it would ask, and the data that it would load: a set of the same classes.
    judge.__dict__["_codec"] = codec
    judge.__dict__["_parts"] = (codec.as_generated(shapes),) * 2
    return judge


@pytest.mark.parametrize("mode", ["global", "centred", "per_shape"])
def test_what_the_base_normalises_away_plays_no_part(shapes, tmp_path, mode):
    """Shapes as a perfect model of each kind makes them; their points in the order of a scan."""
    codec = ShapeCodec.fit(shapes, mode)
    made = codec.decode(codec.encode(shapes))
    scanned = np.take_along_axis(made.points, made.points[:, :, 2].argsort(axis=1)[..., None], axis=1)
    dataclasses.replace(made, points=scanned).save(tmp_path / "samples.npz")
    judge = judge_of(shapes, codec)
    found = judge._classes(read_samples(tmp_path)[0])
    assert (found == shapes.class_index).mean() > 0.9
    metrics = {metric.name: metric.value for metric in judge._compare(made, (), 0)}
    assert metrics["1nna_cd_percent"] < 30  # Each has itself for a neighbour.


def test_samples_without_a_unit_are_taken_for_the_bases_and_not_the_other_way(shapes, tmp_path):
    dataclasses.replace(shapes.select([0]), unit="unitless").save(tmp_path / "samples.npz")
    verdict = judge_of(shapes)(tmp_path, "height_m=0.2±0.1", tmp_path / "judged.npz")
    assert verdict.notes[0] == "the samples do not say their unit; taken for m"
    shapes.select([0]).save(tmp_path / "samples.npz")
    with pytest.raises(InputError, match="makes shapes without a size"):
        judge_of(shapes, ShapeCodec(mode="per_shape"))(tmp_path, "", tmp_path / "judged.npz")


def test_the_bases_own_data_are_read_as_they_were_for_it(monkeypatch):
    """Else shapes lie on their side, and classes that it never saw are among the held-out."""
    options = {"up": "y", "unit": "cm", "classes": ["table"], "seed": 3}

    def load(name, **asked):
        raise InputError(f"{name}: {[asked[option] for option in options]}")

    monkeypatch.setattr("shapegen.benchmark.judge.load_data", load)
    for data, expected in (("towers", "['y', 'cm', ['table'], 3]"), ("others", "['z', None, None, 0]")):
        judge = ShapeJudge(Benchmark("b", "m", data=data, methods=()), workers=1)
        judge.__dict__["_base"] = {"data": "towers", "data_options": {**options, "points": 4096}}
        with pytest.raises(InputError, match=re.escape(f"{data}: {expected}")):
            _ = judge._parts


def test_a_hollow_is_no_second_piece():
    points = np.random.default_rng(0).normal(size=(1500, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[:500] *= 0.6
    assert measure((points, "unitless"))[PIECES] == 1


def test_class_and_size_are_judged_without_a_network(shapes, tmp_path):
    vases = np.flatnonzero(shapes.class_index == 1)[:2]
    points = np.concatenate([shapes.points[vases], shapes.points[:1], np.full((1, 700, 3), np.nan, np.float32)])
    # A point that is not finite is a broken sample, which `save` and `load` would refuse: it is judged as made.
    made = ShapeSet(points, np.array([1, 1, 0, 0]), shapes.class_names, "m")
    made.save(tmp_path / "samples.npz")
    verdict = judge_of(shapes)(tmp_path, "class=vase", tmp_path / "judged.npz")
    found = {metric.name: metric for metric in verdict.metrics}
    assert verdict.n_samples == found["hit_rate"].n == 4
    meshed = found["meshed"].value
    assert 0.5 <= meshed <= 0.75
    # No more than the two vases can hit.
    assert found["hit_rate"].value == pytest.approx(0.5, abs=0.01)
    assert sum(verdict.failures.values()) >= 1
    assert "too few to compare" in verdict.notes[0]
    kept = ShapeSet.load(tmp_path / "judged.npz", memory_map=True)
    assert kept.properties[MESHED].sum() == 4 * meshed
    shown = views(tmp_path / "judged.npz", 1)
    assert shown[0].caption.startswith("vase · ")
    assert shown[0].figure["data"]


def test_a_property_is_that_of_the_mesh(shapes, tmp_path):
    index = int(np.flatnonzero(shapes.class_index == 1)[0])
    exact = float(shapes.properties["aspect_ratio"][index])
    shapes.select([index]).save(tmp_path / "samples.npz")
    target = f"aspect_ratio={exact:.3f}±{0.1 * exact:.3f}"
    verdict = judge_of(shapes)(tmp_path, target, tmp_path / "judged.npz")
    found = {metric.name: metric for metric in verdict.metrics}
    assert found["hit_rate"].value == 1.0
    assert found["mae[aspect_ratio]"].value < 0.1 * exact
    assert verdict.achieved[0].judge.endswith("on the mesh")


def test_a_shape_stands_on_its_uneven_underside(shapes, tmp_path):
    """Meshes from points have no flat foot; a vase still tips over where the exact one does."""
    vase = int(np.flatnonzero(shapes.class_index == 1)[1])
    exact = float(shapes.properties["tip_angle_deg"][vase])
    assert exact > 15
    shapes.select([vase]).save(tmp_path / "samples.npz")
    verdict = judge_of(shapes)(tmp_path, f"tip_angle={exact:.2f}±5, drop_stable=1±0.5", tmp_path / "judged.npz")
    found = {metric.name: metric.value for metric in verdict.metrics}
    assert found["hit_rate"] == 1.0
    assert found["mae[tip_angle_deg]"] < 5
    assert found["mae[drop_stable]"] == 0
    kept = ShapeSet.load(tmp_path / "judged.npz", memory_map=True)
    assert kept.properties["drop_tilt_deg"][0] < 20


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("aspect_ratio=2", "with their tolerance"),
        ("maximise height", "expected a class or values"),
        ("hight=2±0.1", "did you mean 'height'"),
    ],
)
def test_a_target_is_something_to_hit(target, expected):
    with pytest.raises(InputError, match=expected):
        check_target(target)


def test_a_class_must_be_one_of_the_data():
    with pytest.raises(InputError, match="did you mean 'chair'"):
        check_target("class=chiar", ("chair", "mug"))
    with pytest.raises(InputError, match="names no 'data'"):
        ShapeJudge(Benchmark("b", "m"))


def test_shapes_that_cannot_be_read_are_counted(shapes, tmp_path):
    np.save(tmp_path / "good.npy", shapes.points[0])
    (tmp_path / "bad.stl").write_text("nothing")
    found, unread = read_samples(tmp_path, workers=1)
    assert (len(found), unread) == (1, 1)


def test_the_worker_of_the_judge_imports_no_torch():
    tree = ast.parse((ROOT / "shapegen" / "benchmark" / "measure.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    # What scores in the workers: torch-free by tests/test_architecture.py.
    torch_free = {"common.errors", "common.workers", "shapegen.rewards.body"}
    assert modules <= torch_free | {m for m in modules if m.startswith(("shapegen.families", "shapegen.geometry"))} | {
        "__future__",
        "collections.abc",
    }


@pytest.mark.parametrize(
    "name", ["shapes-quick", "shapes-proportion", "shapes-properties", "ldraw-quick", "ldraw-proportion"]
)
def test_configurations_that_ship_are_sound(name):
    benchmark = read_benchmark(ROOT / "configs" / "benchmarks" / f"{name}.yaml")
    trials = planned(benchmark, DOMAIN, Path("runs/x"))
    assert len(trials) == len(benchmark.methods) * len(benchmark.targets) * benchmark.seeds
    steered = "guidance" in GenerateOptions.__dataclass_fields__
    for trial in trials:
        for step in METHODS[trial.method].recipe("shapegen", benchmark, trial):
            # Steering and tuning are checked as soon as the verbs have them.
            if (steered or "--guidance" not in step.words) and step.words[1] in {verb.name for verb in verbs()}:
                check_command(step, verbs())


@pytest.mark.parametrize("name", sorted(path.stem for path in PUBLISHED.glob("*.yaml")))
def test_published_numbers_have_sources(name):
    for row in read_published(PUBLISHED, name).rows:
        assert re.search(r"arXiv \d{4}\.\d{5}", row.source)


def test_a_wrong_request_is_one_line(tmp_path, capsys):
    (tmp_path / "b.yaml").write_text("model: procedural\ndata: procedural\ntargets: [hight=1±0.1]\n")
    assert main(["benchmark", "run", str(tmp_path / "b.yaml")]) == 2
    assert "unknown shape property 'hight' (did you mean 'height'?)" in capsys.readouterr().err
