"""Networks that predict molecular properties: their contract, and how a predictor is found, asked and used."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.chemistry_cases import METHANE, WATER, molecule_set
from contracts.denoiser import make_batch, random_rotation
from contracts.predictor import assert_gradients, assert_invariant, assert_padding_and_batch_do_not_matter
from contracts.rewards import assert_reward

from common.algorithms.ctrl import ControlReward, ControlTerm
from common.diffusion.control import Control
from common.errors import InputError
from common.predictors import std_scale
from molgen.data.codec import MoleculeCodec
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.model import MoleculeModel
from molgen.predictors import PREDICTORS, load_predictor
from molgen.predictors.equivariant import E3Network
from molgen.predictors.invariant import InvariantEGNN
from molgen.rewards.reward import MoleculeReward
from molgen.rewards.table import find_scorer
from molgen.train_predictor import labels_of, new_predictor

KINDS = ("norm", "trace", "scalar", "scalar")
SMALL = {
    "egnn": {"hidden_nf": 16, "n_layers": 2, "n_radial": 6},
    "e3nn": {"scalars": 8, "vectors": 4, "tensors": 2, "n_layers": 2, "n_radial": 6, "radial_width": 8},
}
GENERATOR = MoleculeCodec((6, 1, 9, 8, 7), coordinate_scale=0.75, type_scale=0.25)


def network(name: str, **settings) -> torch.nn.Module:
    torch.manual_seed(1)
    made = {"egnn": InvariantEGNN, "e3nn": E3Network}[name](n_types=4, kinds=KINDS, n_classes=2, **SMALL[name])
    with torch.no_grad():
        made.readout.out.weight.mul_(20)  # so that all outputs differ visibly between molecules
    return made.double()


@pytest.fixture(scope="module", params=["egnn", "e3nn"])
def net(request) -> torch.nn.Module:
    return network(request.param)


# e3nn keeps its constants in float32.
TOLERANCE = 1e-6


def test_nothing_but_the_molecule_matters(net):
    assert_invariant(net, 4, tolerance=TOLERANCE)
    assert_padding_and_batch_do_not_matter(net, 4)


def test_a_network_that_depends_on_the_orientation_fails_the_contract():
    def broken(x, mask):
        height = (x[..., 2] * mask).square().sum(dim=1)
        return height[:, None, None].expand(-1, 1, 2), height[:, None][:, :0]

    with pytest.raises(AssertionError, match="rotation"):
        assert_invariant(broken, 4)


def test_gradients_reach_coordinates_types_and_weights(net):
    assert_gradients(net, 4)


def test_padded_pairs_give_what_packed_edges_give():
    egnn = network("egnn")
    x, _, mask, _ = make_batch(4)
    x = x * mask[..., None]
    torch.testing.assert_close(egnn._dense(x, mask), egnn._packed(x, mask))


def test_vectors_and_tensors_turn_with_the_molecule():
    e3 = network("e3nn")
    x, _, mask, _ = make_batch(4)
    rotation = random_rotation(3, reflect=True)
    moved = torch.cat([x[..., :3] @ rotation.T, x[..., 3:]], dim=-1)
    vectors, tensors = e3.vectors(x, mask), e3.tensors(x, mask)
    assert vectors.abs().max() > 0.01
    torch.testing.assert_close(e3.vectors(moved, mask), vectors @ rotation.T, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(e3.tensors(moved, mask), rotation @ tensors @ rotation.T, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(tensors, tensors.mT)
    traceless = tensors - tensors.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(3)
    assert traceless.abs().max() > 1e-3, "the tensor is isotropic: its orientation is not tested"
    values, _ = e3(x, mask)
    torch.testing.assert_close(values[:, 0, 0], vectors[:, 0].norm(dim=-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(values[:, 1, 0], tensors[:, 0].diagonal(dim1=-2, dim2=-1).mean(-1))


def test_what_no_network_can_be_is_refused():
    with pytest.raises(InputError, match="got kind 'vektor', expected one of scalar, norm, trace"):
        E3Network(n_types=4, kinds=["vektor"])
    with pytest.raises(InputError, match="got n_radial 3, expected an even number"):
        InvariantEGNN(n_types=4, kinds=["scalar"], n_radial=3)
    # No vector, no tensor, no class: nothing is left over that training could not reach.
    assert_gradients(E3Network(n_types=4, kinds=["scalar"], **SMALL["e3nn"]).double(), 4)


@pytest.fixture(scope="module")
def molecules() -> MoleculeSet:
    molecules = load().select(np.arange(0, 12000, 60))
    return replace(molecules, properties={name: molecules.properties[name] for name in ("gap_ev", "mu_d")})


@pytest.fixture(scope="module")
def folder(molecules, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor") / "mine"
    predictor = new_predictor(molecules, {"name": "egnn", **SMALL["egnn"]}, name="mine", seed=0, facts={"data": "x"})
    with torch.no_grad():
        predictor.network.readout.out.weight.mul_(20)
    predictor.save(folder)
    return folder


def test_a_predictor_reads_the_states_of_any_generator(folder, molecules):
    own = load_predictor(folder)
    elsewhere = load_predictor(folder, GENERATOR)
    some = molecules.select(range(7))
    native = MoleculeCodec(tuple(own.description["codec"]["elements"]), type_scale=1.0)
    found, expected = elsewhere(GENERATOR.encode(some)), own(native.encode(some))
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std, expected.std, rtol=1e-4, atol=1e-4)
    assert (found.std > 0).all()
    assert own.network is elsewhere.network, "loaded once"
    # The composition explains part of the gap before any training, and none of the dipole's length.
    gap = torch.from_numpy(some.properties["gap_ev"])
    assert torch.corrcoef(torch.stack([found.mean[:, 0].double(), gap]))[0, 1] > 0.3


def test_an_element_that_it_was_never_shown_is_no_number(folder):
    sulphur = MoleculeCodec((1, 6, 7, 8, 9, 16))
    molecules = MoleculeSet.from_molecules([*(pair for pair in molecule_set(WATER)), ([16, 1, 1], np.eye(3))])
    predictor = load_predictor(folder, sulphur)
    state = sulphur.encode(molecules)
    found = predictor(state)
    assert found.mean[0].isfinite().all()
    assert found.mean[1].isnan().all()
    assert found.std[1].isnan().all()
    state.x.requires_grad_()
    predictor(state).mean[:1].sum().backward()
    assert torch.isfinite(state.x.grad).all()


def test_one_property_at_a_time_as_control_terms_want_it(folder, molecules):
    predictor = load_predictor(folder, GENERATOR)
    gap = predictor.for_property("gap")
    assert (gap.name, gap.output.unit) == ("gap_ev", "eV")
    assert gap.output.low == molecules.properties["gap_ev"].min()
    state = GENERATOR.encode(molecules.select(range(4)))
    mean, std = gap(state)
    assert mean.shape == std.shape == (4,)
    term = ControlTerm(
        Control("gap_ev", mean=5.0, std=2.0), gap, torch.from_numpy(molecules.properties["gap_ev"]).float()
    )
    asked = state.replace(condition={"gap_ev": torch.full((4,), 5.0)})
    values = ControlReward([term])(asked).values
    torch.testing.assert_close(values, torch.distributions.Normal(mean, std).log_prob(torch.tensor(5.0)))
    with pytest.raises(InputError, match=r"knows no 'gpa_ev' \(did you mean 'gap_ev'\?\); it predicts gap_ev, mu_d"):
        predictor.for_property("gpa_ev")


def test_as_a_reward_it_is_differentiable_and_warns_outside_its_data(folder, molecules, caplog):
    state = GENERATOR.encode(MoleculeSet.concatenate([molecules.select(range(3)), molecule_set(WATER, METHANE)]))
    name = f"predicted_gap({folder})"
    with caplog.at_level(logging.WARNING), MoleculeReward(GENERATOR, f"{name}=40±0.5 eV") as reward:
        assert reward.differentiable
        assert_reward(reward, state)
        found = reward(state).parts[f"predicted_gap_ev({folder})"]
    assert "outside the training data" in caplog.text
    mean, _ = load_predictor(folder, GENERATOR).for_property("gap")(state)
    torch.testing.assert_close(found, mean)


def test_rows_are_found_by_short_names_and_refused_with_a_reason(folder, tmp_path):
    scorer = find_scorer("predicted_mu", str(folder))
    assert (scorer.name, scorer.unit) == (f"predicted_mu_d({folder})", "D")
    with pytest.raises(InputError, match="knows no 'homo_ev'"):
        find_scorer("predicted_homo", str(folder))
    with pytest.raises(InputError, match=r"no predictor of 'predicted_logS' ships; .*predicted_logS\(FOLDER\)"):
        find_scorer("predicted_logS")
    with pytest.raises(InputError, match="no model 'runs/nowhere'"):
        find_scorer("predicted_gap", "runs/nowhere")
    with pytest.raises(InputError, match="expected a predictor"):
        find_scorer("predicted_gap", str(PREDICTORS.folder.parent / "gdb7-xtb"))
    with pytest.raises(InputError, match="'molgen-predictor', expected one of 'molgen'"):
        MoleculeModel.load(folder)


def test_a_new_file_in_the_same_place_is_read_anew(molecules, tmp_path):
    for seed in (0, 1):
        new_predictor(
            molecules, {"name": "egnn", **SMALL["egnn"]}, name="mine", seed=seed, facts={}
        ).save(tmp_path)  # fmt: skip
        weights = load_predictor(tmp_path).network.embedding.weight.clone()
        if seed == 0:
            first = weights
    assert not torch.equal(first, weights)


def test_the_shipped_predictor_is_what_its_card_says():
    """On 400 held-out molecules, about as good as `model.json` claims, and honest about its errors."""
    from molgen.data.sources import split_data

    molecules = load()
    test = molecules.select(split_data("gdb7-xtb", molecules)["test"][:400])
    predictor = load_predictor()
    codec = MoleculeCodec(tuple(predictor.description["codec"]["elements"]), type_scale=1.0)
    found = predictor(codec.encode(test))
    claimed = predictor.description["quality"]
    for k, output in enumerate(predictor.outputs):
        true = torch.from_numpy(test.properties[output.name])
        mean, std = found.mean[:, k].double(), found.std[:, k].double()
        assert (mean - true).abs().mean() < 1.25 * claimed[output.name]["mae"]
        assert claimed[output.name]["mae"] < 0.6 * claimed[output.name]["constant_mae"]
        assert 0.75 < std_scale(mean, std, true) < 1.35
    assert len(labels_of(test).values) == 400
    assert json.dumps(claimed)
