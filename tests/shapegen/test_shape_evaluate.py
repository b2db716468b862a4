"""The verb `evaluate`: which sets are compared, in which unit, and what is printed and written."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from shapegen.cli import main
from shapegen.cli.evaluate import EvaluateOptions, _comparison_sets, _known_classes
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import ShapeSet
from shapegen.data.sources import load_data, split_data


def blobs(count, seed=0, size=0.1, points=24):
    """Ellipsoids of two classes, upright and lying, in metres."""
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % 2
    sides = np.where(kind[:, None] == 0, [1.0, 1.0, 3.0], [3.0, 1.0, 1.0]) * rng.uniform(0.8, 1.2, (count, 1))
    cloud = rng.normal(size=(count, points, 3))
    cloud /= np.linalg.norm(cloud, axis=2, keepdims=True)
    return ShapeSet(size * sides[:, None] * cloud, kind, ("tall", "long"), unit="m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set, samples in metres and in millimetres, and held-out shapes alone."""
    folder = tmp_path_factory.mktemp("evaluate")
    blobs(120).save(folder / "data.npz")
    blobs(12, seed=1).save(folder / "samples.npz")
    blobs(12, seed=1).in_unit("mm").save(folder / "mm.npz")
    blobs(16, seed=2).save(folder / "held.npz")
    return folder


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments), "--workers", "1", "--device", "cpu"])


def values(result, key="metrics"):
    return {row["name"]: row["value"] for row in result[key]}


def test_the_training_set_stands_beside_the_samples(folder, tmp_path, capsys):
    arguments = [folder / "samples.npz", "--reference", folder / "held.npz", "--train", folder / "data.npz"]
    assert evaluate(*arguments, "--output-dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "metrics (quick mode): 12 samples, 16 held-out shapes, 120 of the training set" in printed
    assert "training set" in printed
    assert "by class" in printed
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["protocol"]["name"] == "quick"
    assert values(result).keys() - {"finite_percent"} == values(result, "oracle").keys()
    assert set(result["per_class"]) == {"tall", "long"}
    # Samples and references are of one law.
    assert 20 < values(result)["1nna_cd_percent"] < 80


def test_more_or_fewer_shapes_can_be_asked_for(folder, tmp_path, capsys):
    arguments = [folder / "samples.npz", "--reference", folder / "held.npz", "--train", folder / "data.npz", "--json"]
    assert evaluate(*arguments, "--shapes", "6") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"]["name"] == "quick, 6 shapes"
    counts = {row["name"]: row["n"] for row in result["metrics"]}
    assert counts["1nna_cd_percent"] == 12
    assert counts["1nna_emd_percent"] == 24
    assert evaluate(*arguments, "--shapes", "3") == 2
    assert "got 3 shapes, at least 5" in capsys.readouterr().err


def test_the_unit_of_the_samples_does_not_matter(folder, capsys):
    found = []
    for name in ("samples.npz", "mm.npz"):
        assert evaluate(folder / name, "--reference", folder / "data.npz", "--classes", '["tall"]', "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["sets"] == found[1]["sets"] == {"samples": 6, "held_out": 6, "training": 48}
    for name, value in values(found[0]).items():
        assert values(found[1])[name] == pytest.approx(value, rel=1e-3)


def run_directory(path, folder, samples, **description):
    """A run of `generate` as it leaves one, with a model that says `description` of itself."""
    (path / "model").mkdir(parents=True)
    samples.save(path / "samples.npz")
    model = {"format": 1, "domain": "shapegen", "data": str(folder / "data.npz"), "codec": asdict(ShapeCodec())}
    (path / "model" / "model.json").write_text(json.dumps(model | description))
    (path / "run.json").write_text(json.dumps({"model": str(path)}))
    (path / "metrics.json").write_text(json.dumps({"generation": {"seconds": 3.0}}))
    return path


def test_a_run_is_compared_with_what_its_model_was_not_trained_on(folder, tmp_path, capsys):
    train = load_data(folder / "data.npz")
    known = train.shapes.select(split_data(train)["train"]).digest()
    run = run_directory(tmp_path / "run", folder, blobs(12, seed=1), data_hash=known)
    assert evaluate(run) == 0
    printed = capsys.readouterr()
    assert "is not what this model was trained on" not in printed.err
    assert "12 samples, 12 held-out shapes, 96 of the training set" in printed.out
    written = json.loads((run / "metrics.json").read_text())
    assert written["generation"] == {"seconds": 3.0}, "what generate wrote stays"
    assert values(written)["finite_percent"] == 100


def sets(run, **model):
    return _comparison_sets(EvaluateOptions(samples=str(run), workers=1), model)


def test_other_data_than_the_model_knew_is_a_warning(folder, tmp_path, caplog):
    sets(tmp_path, data=str(folder / "data.npz"), data_hash="0000")
    assert "is not what this model was trained on" in caplog.text


def test_the_options_of_the_training_are_taken_unless_others_are_typed(folder, tmp_path):
    points = blobs(120).points
    np.save(tmp_path / "bare.npy", points)
    model = {"data": str(tmp_path / "bare.npy"), "data_options": {"unit": "cm", "up": "y", "points": 8, "seed": 0}}
    reference, _ = sets(tmp_path, **model)
    assert reference.unit == "cm"
    assert reference.num_points == 8
    typed = EvaluateOptions(samples="x", unit="mm", points=6, workers=1)
    reference, _ = _comparison_sets(typed, model)
    assert (reference.unit, reference.num_points) == ("mm", 6)


def test_broken_samples_of_a_run_count_as_failures(folder, tmp_path, capsys):
    samples = blobs(12, seed=1)
    broken = samples.points.copy()
    broken[:3] = np.nan
    run = run_directory(tmp_path / "run", folder, replace(samples, points=broken), data_hash="")
    assert evaluate(run, "--json") == 0
    assert values(json.loads(capsys.readouterr().out))["finite_percent"] == 75


@pytest.mark.parametrize("mode", ["centred", "per_shape"])
def test_what_a_model_normalises_away_is_taken_from_the_reference_too(mode, folder, tmp_path, capsys):
    """Samples of such a model have no place (and no size): the held-out shapes, encoded, are still themselves."""
    codec = ShapeCodec.fit(blobs(120), mode)
    generated = codec.decode(codec.encode(blobs(16, seed=2)))
    run = run_directory(tmp_path / mode, folder, generated, codec=asdict(codec))
    arguments = [run, "--reference", folder / "held.npz", "--train", folder / "data.npz", "--json"]
    assert evaluate(*arguments) == 0
    result = values(json.loads(capsys.readouterr().out))
    assert result["mmd_cd"] == pytest.approx(0, abs=1e-9)
    assert result["cov_cd_percent"] == 100


def test_a_run_whose_model_is_gone_is_compared_as_it_is(folder, tmp_path, capsys):
    run = run_directory(tmp_path / "run", folder, blobs(12, seed=1))
    (run / "run.json").write_text(json.dumps({"model": "gone"}))
    assert evaluate(run, "--reference", folder / "held.npz", "--train", folder / "data.npz") == 0
    assert "is not at hand: its samples are compared as they are" in capsys.readouterr().err


def test_classes_are_compared_where_both_sets_name_them(caplog):
    reference = blobs(8)
    assert _known_classes(blobs(4), reference) == ["tall", "long"] * 2
    assert _known_classes(replace(blobs(4), class_names=("a", "b")), reference) is None
    assert _known_classes(blobs(4), reference.select_classes(["tall"])) is None
    assert caplog.text == ""
    _known_classes(blobs(4).select([0, 2]), reference)
    assert "1 of the 2 held-out classes have no sample (long)" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samples.npz"], "nothing to compare with"),
        (["samples.npz", "--train", "data.npz"], "got --train without --reference"),
        (["samples.npz", "--reference", "proceduall"], "did you mean 'procedural'?"),
        (["samples.npz", "--reference", "bare.npy"], "'unitless': their sizes do not compare"),
        (["nowhere.npz", "--reference", "data.npz"], "no such file"),
        (["samples.npz", "--reference", "few.npz"], "has no test part"),
        (["samples.npz", "--reference", "few.npz", "--train", "data.npz"], "has 2 shapes, at least 5 are needed"),
        (["samples.npz", "--reference", "data.npz", "--classes", '["cube"]'], "no class is called 'cube'"),
        (["trained", "--reference", "data.npz"], "holds no samples"),
        (["orphan"], "name its data by --reference"),
    ],
)
def test_bad_input_is_one_line(arguments, message, folder, tmp_path, capsys):
    np.save(tmp_path / "bare.npy", blobs(120).points)
    blobs(2).save(tmp_path / "few.npz")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "run.json").write_text("{}")
    (tmp_path / "orphan").mkdir()
    blobs(6).save(tmp_path / "orphan" / "samples.npz")
    (tmp_path / "orphan" / "run.json").write_text('{"model": "gone/with/the/wind"}')
    places = {name: folder / name for name in ("samples.npz", "data.npz")}
    places |= {name: tmp_path / name for name in ("bare.npy", "few.npz", "trained", "orphan", "nowhere.npz")}
    assert evaluate(*(places.get(word, word) for word in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
