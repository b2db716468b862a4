"""The model of shapes, untrained: what sampling promises whatever the weights."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import trimesh

from common.diffusion import State
from common.errors import InputError
from common.training.fit import FitConfig
from common.training.optimiser import OptimiserConfig
from shapegen.data.shapes import ShapeSet
from shapegen.model import ShapeModel
from shapegen.pretrained import load_pretrained
from shapegen.train import ModelConfig, ShapeBatchConfig, hide_context, new_model, train

NETWORK = {"name": "set_transformer", "width": 32, "point_width": 32, "n_latents": 4, "n_blocks": 1, "cond_width": 16}


@pytest.fixture
def shapes() -> ShapeSet:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 64, 3)) * 0.1 + [0.0, 0.0, 0.3]
    return ShapeSet(points, np.arange(12) % 3, ("ball", "blob", "bubble"), unit="m")


@pytest.fixture
def model(shapes) -> ShapeModel:
    model = new_model(shapes, ModelConfig(network=NETWORK), name="toy", seed=0, facts={"data": "toy"})
    # At initialisation a class says nothing; trained weights do.
    torch.nn.init.normal_(model.denoiser.network.embed_context.weight)
    for module in model.denoiser.modules():
        if hasattr(module, "modulation"):
            torch.nn.init.normal_(module.modulation.weight, std=0.3)
    model.denoiser.eval().requires_grad_(False)
    return model


def test_a_sample_depends_on_its_index_alone(model):
    whole = model.sample(5, points=20, steps=3, seed=1, batch_size=2)
    part = model.sample(2, points=20, steps=3, seed=1, start=3)
    np.testing.assert_allclose(part.points, whole.points[3:], atol=1e-6)
    np.testing.assert_array_equal(part.class_index, whole.class_index[3:])
    other = model.sample(5, points=20, steps=3, seed=2)
    assert np.abs(other.points - whole.points).max() > 0.01


def test_any_number_of_points_in_the_units_of_the_data(model, shapes):
    for points in (1, 300):
        found = model.sample(2, points=points, steps=3)
        assert found.points.shape == (2, points, 3)
    assert found.unit == "m"
    # Untrained, it gives about the data's place and size: the codec is undone.
    assert np.abs(found.points.mean(axis=(0, 1)) - shapes.points.mean(axis=(0, 1))).max() < 0.1


def test_classes_follow_the_data_or_the_wish(model):
    drawn = model.sample(60, points=1, steps=1).class_index
    assert set(drawn) == {0, 1, 2}
    wished = model.sample(4, points=8, steps=2, class_name="blob")
    assert wished.class_index.tolist() == [1] * 4
    assert np.abs(wished.points - model.sample(4, points=8, steps=2, class_name="ball").points).max() > 1e-4
    with pytest.raises(InputError, match=r"got class 'bal' \(did you mean 'ball'\?\), expected one of ball, blob"):
        model.sample(1, class_name="bal")


def test_a_model_without_classes_says_so(shapes):
    model = new_model(shapes, ModelConfig(network=NETWORK, classes=False), name="toy", seed=0, facts={})
    assert model.class_names == ()
    assert model.sample(2, points=4, steps=2).class_names == ("shape",)
    with pytest.raises(InputError, match="this model has no classes"):
        model.sample(1, class_name="ball")


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save(tmp_path / "run" / "model")
    again = load_pretrained(tmp_path / "run")
    assert again.class_names == model.class_names
    assert again.codec == model.codec
    np.testing.assert_array_equal(again.sample(3, points=9, steps=3).points, model.sample(3, points=9, steps=3).points)
    with pytest.raises(InputError, match="no model 'nothing'"):
        load_pretrained("nothing")


def test_a_model_of_other_classes_goes_on_from_what_is_known(model, shapes, tmp_path):
    model.save(tmp_path / "base")
    others = replace(shapes, class_index=shapes.class_index % 2, class_names=("fork", "blob"))
    config = ModelConfig(network=NETWORK)
    started = new_model(others, config, name="other", seed=1, facts={}, init_from=str(tmp_path / "base"))
    columns = started.denoiser.network.embed_context.weight
    torch.testing.assert_close(columns[:, 1], model.denoiser.network.embed_context.weight[:, 1])
    assert not columns[:, 0].any()
    options = {"points": 8, "steps": 2, "class_name": "blob"}
    np.testing.assert_allclose(started.sample(2, **options).points, model.sample(2, **options).points, atol=1e-6)
    deeper = ModelConfig(network={**NETWORK, "n_blocks": 2})
    with pytest.raises(InputError, match="does not fit this network"):
        new_model(others, deeper, name="other", seed=1, facts={}, init_from=str(tmp_path / "base"))


def test_the_library_gives_trimesh_objects(model):
    clouds = model.generate(2, points=10, steps=2)
    assert all(isinstance(cloud, trimesh.PointCloud) for cloud in clouds)
    assert clouds[0].vertices.shape == (10, 3)
    assert clouds[0].metadata["units"] == "m"


def test_bad_numbers_of_points_are_refused(model):
    for points in (0, 2_000_000):
        with pytest.raises(InputError, match="expected 1 to"):
            model.sample(1, points=points)


def test_a_short_training_learns_and_resumes(shapes, tmp_path):
    def run(directory, steps, resume=False):
        model = new_model(shapes, ModelConfig(network=NETWORK), name="toy", seed=0, facts={})
        result = train(
            model, shapes, directory,
            batch_config=ShapeBatchConfig(batch_size=4, points=16), optimiser=OptimiserConfig(warmup_steps=5),
            fit_config=FitConfig(max_steps=steps, precision="float32", device="cpu", log_every=10), resume=resume,
        )  # fmt: skip
        assert result.steps == steps
        return ShapeModel.load(directory)

    first = run(tmp_path / "a", 6)
    assert first.description["training"]["samples_seen"] == 24
    longer = run(tmp_path / "a", 9, resume=True)
    assert longer.description["training"]["steps"] == 9


def test_hidden_classes_are_a_function_of_the_step():
    def endless():
        while True:
            yield State(torch.zeros(50, 1, 3), torch.ones(50, 1, dtype=torch.bool), {"context": torch.ones(50, 3)})

    def shown(start, count):
        batches = islice(hide_context(endless(), 0.3, (0, 0), start), count)
        return torch.stack([batch.condition["context"][:, 0] for batch in batches])

    whole = shown(0, 40)
    torch.testing.assert_close(shown(30, 10), whole[30:])
    assert whole.mean() == pytest.approx(0.7, abs=0.03)
    assert shown(0, 1)[0].unique().tolist() == [0.0, 1.0]
