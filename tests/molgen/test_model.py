"""A whole model: sampling is a function of (seed, index), options are checked, files round-trip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import InputError
from molgen import load_pretrained
from molgen.data import gdb7_xtb
from molgen.model import MoleculeModel, SizeLaw
from molgen.train import ModelConfig, new_model

DESCRIPTION = {
    "domain": "molgen",
    "name": "tiny",
    "network": {"name": "transformer", "n_features": 3, "width": 32, "n_layers": 2, "n_heads": 2, "pair_width": 8},
    "parameterisation": {"name": "categorical_types"},
    "schedule": {"name": "cosine"},
    "space": {"name": "centered", "n_coordinates": 3},
    "codec": {"elements": [1, 6, 8], "coordinate_scale": 0.75, "type_scale": 1.0},
    "size_law": {"sizes": [5, 8, 12], "weights": [1, 2, 1]},
    "sampler": {"steps": 6, "solver": "sde-dpm2"},
}
SMALL = {"name": "transformer", "width": 32, "pair_width": 8, "n_layers": 1, "n_heads": 2, "n_vectors": 2}


@pytest.fixture(scope="module")
def model() -> MoleculeModel:
    torch.manual_seed(0)
    model = MoleculeModel.create(DESCRIPTION)
    model.denoiser.eval().requires_grad_(False)
    return model


def assert_same(first, second, atol=1e-4):
    np.testing.assert_array_equal(first.numbers, second.numbers)
    np.testing.assert_allclose(first.positions, second.positions, atol=atol)


def test_the_batch_size_changes_nothing(model):
    whole = model.sample(20, seed=3, batch_size=20)
    assert_same(model.sample(20, seed=3, batch_size=3), whole)
    assert_same(model.sample(8, seed=3, start=12, batch_size=5), whole.select(range(12, 20)))


def test_another_seed_gives_other_molecules(model):
    first, second = model.sample(4, seed=0, num_atoms=8), model.sample(4, seed=1, num_atoms=8)
    assert not np.allclose(first.positions, second.positions, atol=0.1)


def test_sizes_are_what_was_asked_for(model):
    assert model.sample(5, num_atoms=9).num_atoms.tolist() == [9] * 5
    assert set(model.sample(40, num_atoms=(8, 12)).num_atoms) == {8, 12}
    drawn = model.size_law.draw(0, 0, 4000)
    shares = [(drawn == size).mean() for size in (5, 8, 12)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert len(model.sample(0)) == 0


def test_each_sample_may_have_a_size_of_its_own(model):
    sizes = np.array([12, 5, 7])
    samples = model.sample(3, num_atoms=sizes, seed=3, start=2)
    assert samples.num_atoms.tolist() == sizes.tolist()
    assert_same(model.sample(1, num_atoms=7, seed=3, start=4), samples.select([2]))


def test_a_size_law_is_cut_without_a_gap():
    law = SizeLaw((5, 8, 12), (1, 2, 1))
    assert law.restrict(6, 12) == SizeLaw((8, 12), (2, 1))
    assert law.restrict(9, 10) == SizeLaw((9, 10), (1.0, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_atoms": 13}, "at most 12"),
        ({"num_atoms": 0}, "1 <= low <= high"),
        ({"num_atoms": np.array([8, 13])}, "at most 12"),
        ({"num_atoms": (9, 6)}, "1 <= low <= high"),
        ({"solver": "euler"}, "expected one of ancestral"),
        ({"steps": 0}, "at least 1"),
        ({"eta": -1.0}, "from 0"),
        ({"precision": "fp8"}, "'float32' or 'bf16'"),
    ],
)
def test_bad_options_are_one_line(model, options, message):
    with pytest.raises(InputError, match=message):
        model.sample(2, **options)


def test_generate_gives_rdkit_molecules_or_none(model):
    molecules = model.generate(6, seed=0)
    assert len(molecules) == 6
    for molecule in molecules:
        assert molecule is None or molecule.GetNumConformers() == 1


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "model")
    for path in (tmp_path, tmp_path / "model"):
        assert_same(load_pretrained(path).sample(3), model.sample(3), atol=0)


def test_models_of_others_are_refused(model, tmp_path):
    model.save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"domain": "molgen"', '"domain": "shapegen"'))
    with pytest.raises(InputError, match="model of 'shapegen', expected one of 'molgen'"):
        load_pretrained(tmp_path)
    (tmp_path / "model.json").write_text(text.replace('"width": 32', '"width": 16'))
    with pytest.raises(InputError, match="has shape"):
        load_pretrained(tmp_path)
    with pytest.raises(InputError, match="no model 'nosuch'"):
        load_pretrained("nosuch")


@pytest.mark.parametrize("type_scale", [0.25, 1.0, 2.0])
def test_weights_go_on_at_another_scale_of_types(type_scale, tmp_path):
    molecules = gdb7_xtb.load().select(np.arange(8))
    base = new_model(molecules, ModelConfig(SMALL), name="base", seed=0, facts={})
    base.save(tmp_path)
    codec = {"coordinate_scale": 0.75, "type_scale": type_scale}
    other = new_model(molecules, ModelConfig(SMALL, codec=codec), name="b", seed=1, facts={}, init_from=str(tmp_path))
    t = torch.full((8,), 0.1)
    raw = []
    for model in (base, other):
        state = model.codec.encode(molecules)
        with torch.no_grad():
            raw.append(model.denoiser.network(state.x, t, state.mask))
    torch.testing.assert_close(raw[1], raw[0])


def test_only_a_transformer_goes_on_at_another_scale_of_types(tmp_path):
    molecules = gdb7_xtb.load().select(np.arange(8))
    network = {"name": "egnn", "hidden_nf": 16, "n_layers": 1}
    new_model(molecules, ModelConfig(network), name="base", seed=0, facts={}).save(tmp_path)
    codec = {"coordinate_scale": 0.75, "type_scale": 0.25}
    with pytest.raises(InputError, match=r"type_scale 1 where the model has .* type_scale 0\.25"):
        new_model(molecules, ModelConfig(network, codec=codec), name="b", seed=1, facts={}, init_from=str(tmp_path))


def of_elements(molecules, *elements):
    owner = np.repeat(np.arange(len(molecules)), molecules.num_atoms)
    strange = np.unique(owner[~np.isin(molecules.numbers, elements)])
    return molecules.select(np.setdiff1d(np.arange(len(molecules)), strange))


def test_weights_go_on_with_other_elements(tmp_path):
    hydrocarbons = of_elements(gdb7_xtb.load(), 1, 6).select(np.arange(8))
    few = new_model(hydrocarbons, ModelConfig(SMALL), name="few", seed=0, facts={})
    few.save(tmp_path / "few")
    everything = gdb7_xtb.load().select(np.arange(200))
    more = new_model(everything, ModelConfig(SMALL), name="more", seed=1, facts={}, init_from=str(tmp_path / "few"))
    more.save(tmp_path / "more")
    again = new_model(hydrocarbons, ModelConfig(SMALL), name="b", seed=2, facts={}, init_from=str(tmp_path / "more"))
    assert len(more.codec.elements) > len(few.codec.elements) == len(again.codec.elements)
    t = torch.full((8,), 0.1)
    raw = {}
    for model in (few, more, again):
        state = model.codec.encode(hydrocarbons)
        with torch.no_grad():
            found = model.denoiser.network(state.x, t, state.mask)
        raw[model.description["name"]] = found[..., [*range(3), *(3 + model.codec.elements.index(z) for z in (1, 6))]]
    # Hydrocarbons are read, and their elements answered, as before.
    torch.testing.assert_close(raw["more"], raw["few"])
    torch.testing.assert_close(raw["b"], raw["few"])


@pytest.mark.parametrize("n_layers", [2, 3, 5])
def test_a_deeper_network_begins_as_the_shallow_one_and_learns_everywhere(n_layers, tmp_path):
    molecules = gdb7_xtb.load().select(np.arange(8))
    base = new_model(molecules, ModelConfig({**SMALL, "n_layers": 2}), name="base", seed=0, facts={})
    base.save(tmp_path)
    config = ModelConfig({**SMALL, "n_layers": n_layers})
    deep = new_model(molecules, config, name="deep", seed=1, facts={}, init_from=str(tmp_path))
    assert len(deep.denoiser.network.layers) == n_layers
    state, t = base.codec.encode(molecules), torch.full((8,), 0.1)
    network = deep.denoiser.network
    answers = [model.denoiser.network(state.x, t, state.mask) for model in (base, deep)]
    torch.testing.assert_close(answers[1], answers[0], atol=0, rtol=0)
    answers[1].square().sum().backward()
    for layer in network.layers:
        for outgoing in (layer.attention_out, layer.mlp_out, layer.pair_out):
            assert outgoing.weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": {"coordinate_scale": 0.5, "type_scale": 1.0}}, r"coordinate_scale 0\.5 of the codec, .* with 0\.75"),
        ({"network": {**SMALL, "width": 16}}, "has shape"),
        ({"network": {**SMALL, "n_layers": 2, "pair_width": 4}}, "has shape"),
        ({"network": {**SMALL, "n_layers": 0}}, "unknown"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, tmp_path):
    hydrocarbons = of_elements(gdb7_xtb.load(), 1, 6).select(np.arange(8))
    new_model(hydrocarbons, ModelConfig(SMALL), name="base", seed=0, facts={}).save(tmp_path)
    config = ModelConfig(**{"network": SMALL, **change})
    with pytest.raises(InputError, match=message):
        new_model(gdb7_xtb.load().select(np.arange(200)), config, name="b", seed=1, facts={}, init_from=str(tmp_path))


def test_types_have_one_scale():
    description = {**DESCRIPTION, "parameterisation": {"name": "categorical_types", "type_scale": 0.25}}
    with pytest.raises(InputError, match=r"type_scale 0\.25 of the parameterisation and 1 of the codec"):
        MoleculeModel.create(description)
