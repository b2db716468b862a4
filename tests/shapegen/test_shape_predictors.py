"""Predictors of shapes: the network's contract, the verb, and what states of other codecs become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contracts.predictor import assert_gradients, assert_invariant, assert_padding_and_batch_do_not_matter

from common.errors import InputError
from shapegen.cli import main
from shapegen.data.codec import ShapeCodec
from shapegen.data.procedural import procedural
from shapegen.data.shapes import ShapeSet
from shapegen.predictors import load_predictor
from shapegen.predictors.point_set import PointSet
from shapegen.rewards.reward import ShapeReward, read_conditions
from shapegen.train_predictor import find_columns, new_predictor

SMALL = {"width": 16, "n_frequencies": 2}


@pytest.fixture(scope="module")
def shapes() -> ShapeSet:
    return procedural(40, points=128, workers=1, classes=["vase", "bolt", "pipe"])


def network() -> PointSet:
    torch.manual_seed(0)
    made = PointSet(kinds=["scalar"] * 2, n_classes=3, **SMALL)
    with torch.no_grad():
        made.out.weight.mul_(20)
    return made.double()


def test_the_order_and_the_place_of_the_points_do_not_matter():
    net = network()
    assert_invariant(net, 0, rotation=False)
    assert_padding_and_batch_do_not_matter(net, 0)
    assert_gradients(net, 0)
    with pytest.raises(AssertionError, match="rotation"):
        assert_invariant(net, 0)


def test_the_same_surface_in_more_points_gives_almost_the_same(shapes):
    predictor = new_predictor(shapes, ["volume_m3"], True, {"name": "point_set"}, name="x", seed=0, facts={})
    codec = ShapeCodec(**predictor.description["codec"])
    state = codec.encode(shapes)
    with torch.no_grad():
        all_points = predictor(state).logits
        half = predictor(replace(state, x=state.x[:, :64], mask=state.mask[:, :64])).logits
    assert (half - all_points).abs().mean() < 0.5 * all_points.std(dim=0).mean()


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predictor")
    shapes.save(folder / "mine.npz")
    arguments = ["train-predictor", "--data", str(folder / "mine.npz"), "--stored-points", "128", "--points", "64"]
    arguments += ["--property", "class", "--property", "height", "--property", "volume", "--device", "cpu"]
    arguments += ["--steps", "150", "--batch-size", "16", "--settings", "{width: 32}", "--measure-every", "0", "--json"]
    arguments += ["--optimiser", "{name: muon, learning_rate: 0.003, warmup_steps: 10}"]
    assert main([*arguments, "--output-dir", str(folder / "run")]) == 0
    return folder / "run"


def test_it_learns_the_class_and_the_height(run):
    measured = json.loads((run / "model" / "model.json").read_text())["quality"]
    assert measured["class"]["accuracy"] > 0.8
    assert measured["height_m"]["mae"] < 0.5 * measured["height_m"]["constant_mae"]
    predictor = load_predictor(run)
    assert predictor.names == ("height_m", "volume_m3", "class")
    assert [output.unit for output in predictor.outputs] == ["m", "m^3"]
    assert predictor.classes == ("vase", "bolt", "pipe")


def test_states_of_any_generator_mean_the_same(run, shapes):
    own = load_predictor(run)
    expected = own(ShapeCodec(**own.description["codec"]).encode(shapes))
    scale = float(expected.mean.std())
    generators = [ShapeCodec.fit(shapes, "global"), ShapeCodec.fit(shapes, "centred")]
    in_mm = shapes.in_unit("mm")
    for codec, data in [*((codec, shapes) for codec in generators), (ShapeCodec.fit(in_mm), in_mm)]:
        found = load_predictor(run, codec)(codec.encode(data))
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-3, atol=1e-3 * scale)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-2)
    height = load_predictor(run, generators[0]).for_property("height")
    mean, std = height(generators[0].encode(shapes))
    assert mean.shape == std.shape == (len(shapes),)
    assert load_predictor(run).for_property("class")(generators[0].encode(shapes)).shape == (len(shapes), 3)


def test_states_without_size_or_unit_are_refused(run, shapes):
    with pytest.raises(InputError, match="have no size"):
        load_predictor(run, ShapeCodec.fit(shapes, "per_shape"))
    with pytest.raises(InputError, match="'unitless', but the predictor learned from 'm'"):
        load_predictor(run, ShapeCodec(scale=2.0))


def test_a_prediction_is_a_reward_of_states_and_of_files(run, shapes, capsys, caplog, tmp_path):
    predictor = load_predictor(run)
    codec = ShapeCodec.fit(shapes, "global")
    text = f"predicted_height({run})"
    with ShapeReward(codec, f"{text}=0.1±0.02") as reward:
        assert reward.differentiable
        found = reward(codec.encode(shapes))
    expected = load_predictor(run, codec)(codec.encode(shapes)).mean[:, 0]
    (values,) = found.parts.values()
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))

    shapes.in_unit("mm").save(tmp_path / "mm.npz")
    assert main(["score", str(tmp_path / "mm.npz"), "--reward", f"{text}<-9±1", "--json", "--device", "cpu"]) == 0
    (column,) = json.loads(capsys.readouterr().out)["columns"].values()
    assert (column["unit"], column["n"]) == ("m", len(shapes))
    assert column["mean"] == pytest.approx(float(expected.mean()), rel=1e-3)
    output = predictor.outputs[0]
    assert f"outside the training data, which range from {output.low:g} to {output.high:g} m" in caplog.text


def test_predictions_that_cannot_be_are_refused(run, shapes):
    for text, message in [
        ("maximise predicted_width", "knows no 'width'.*it predicts volume_m3, area_m2"),
        (f"maximise predicted_width({run})", "knows no 'width'.*it predicts height_m, volume_m3"),
        ("maximise predicted_height(nowhere)", "no model 'nowhere'"),
    ]:
        with pytest.raises(InputError, match=message):
            read_conditions(text)
    for codec, message in [(ShapeCodec.fit(shapes, "per_shape"), "have none"), (ShapeCodec(), "cannot be converted")]:
        with pytest.raises(InputError, match=message):
            ShapeReward(codec, f"maximise predicted_height({run})")


def test_names_of_labels_are_found_and_the_rest_refused(shapes):
    assert find_columns(shapes, ["volume", "class", "tip_angle_deg", "volume"]) == (
        ["volume_m3", "tip_angle_deg"],
        True,
    )
    with pytest.raises(InputError, match=r"no property 'volme' \(did you mean 'volume"):
        find_columns(shapes, ["volme"])
    with pytest.raises(InputError, match="one class only"):
        find_columns(shapes.select_classes(["vase"]), ["class"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to predict"),
        (["--property", "class", "--points", "5000"], "expected 1 to 2048"),
        (["--property", "class", "--noise", "-1"], "expected at least 0"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, capsys, arguments, message):
    assert main(["train-predictor", "--output-dir", str(tmp_path / "x"), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not (tmp_path / "x").exists()
