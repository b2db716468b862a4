"""A predictor of noisy states from training to guidance, on the command line of molecules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.diffusion import State
from common.diffusion.control import Control
from common.errors import InputError
from common.guidance import NoisyLikelihood, NoisyPredictor, load_clean_predictor, load_noisy_predictor
from molgen import load_pretrained
from molgen.cli import main
from molgen.finetune import MoleculeTask
from molgen.models import EGNN, NETWORKS, EquivariantTransformer

SHORT = ("--steps", "4", "--batch-size", "8", "--measure-every", "2", "--measure-samples", "64")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("classifier") / "run"
    words = ["train-classifier", "gdb7-xtb", "--property", "gap", "--labels", "40", *SHORT, "--output-dir", str(run)]
    assert main(words) == 0
    return run


def test_it_says_what_it_is_and_how_much_it_knows(trained):
    description = json.loads((trained / "model" / "model.json").read_text())
    assert description["domain"] == "molgen-classifier"
    assert description["control"]["name"] == "gap_ev"
    assert description["training"]["labels"] == 40
    assert set(description["quality"]) == {"nats_t0.02", "nats_t0.1", "nats_t0.3", "nats_t0.5", "nats_t0.7"}
    assert all(np.isfinite(list(description["quality"].values())))


def test_it_is_differentiable_and_asks_for_its_value(trained):
    base = load_pretrained("gdb7-xtb")
    predictor = load_noisy_predictor(trained, base.description, NETWORKS, "cpu")
    state = base.codec.encode(base.sample(2, seed=0, steps=3))
    state = state.replace(x=state.x.requires_grad_(True))
    t = torch.tensor([0.3, 0.6])
    low, high = (NoisyLikelihood(predictor.control, predictor, value=value)(state, t) for value in (2.0, 12.0))
    assert not torch.allclose(low, high)
    (gradient,) = torch.autograd.grad(low.sum(), state.x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_generate_follows_it(trained, tmp_path):
    words = ["generate", "gdb7-xtb", "--num-samples", "3", "--steps", "6", "--pictures", "0"]
    guidance = ["--target", "gap=9", "--guidance", "classifier scale=5", "--classifier", str(trained)]
    assert main([*words, "--output-dir", str(tmp_path / "plain")]) == 0
    assert main([*words, *guidance, "--output-dir", str(tmp_path / "guided")]) == 0
    plain, guided = (np.load(tmp_path / name / "samples.npz")["positions"] for name in ("plain", "guided"))
    assert not np.allclose(plain, guided)
    generation = json.loads((tmp_path / "guided" / "metrics.json").read_text())["generation"]
    assert generation["guidance"] == ["classifier scale=5"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "gap=4", "--guidance", "classifier"), "needs --classifier FOLDER"),
        (
            ("--target", "mu=4", "--guidance", "classifier", "--classifier", "{trained}"),
            "classifier predicts gap_ev",
        ),
        (("--target", "gap=4", "--guidance", "smc", "--classifier", "{trained}"), "without --guidance classifier"),
        (("--target", "gap=4", "--guidance", "classifier", "--classifier", "{base}"), "expected one of"),
    ],
)
def test_wrong_requests_are_one_line(trained, tmp_path, capsys, words, message):
    places = {"trained": trained, "base": "molgen/pretrained/gdb7-xtb"}
    words = [word.format(**places) if "{" in word else word for word in words]
    assert main(["generate", "gdb7-xtb", *words, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_belongs_to_one_kind_of_states(trained):
    description = load_pretrained("gdb7-xtb").description
    other = {**description, "schedule": {"name": "polynomial"}}
    with pytest.raises(InputError, match="another schedule"):
        load_noisy_predictor(trained, other, NETWORKS, "cpu")


def test_what_is_missing_is_one_line(capsys, tmp_path):
    assert main(["train-classifier", "gdb7-xtb", "--output-dir", str(tmp_path / "x")]) == 2
    assert "give --property" in capsys.readouterr().err
    assert main(["train-classifier", "gdb7-xtb", "--property", "cv", "--output-dir", str(tmp_path / "x")]) == 2
    assert "no column 'cv_cal_mol_k', and no scorer measures it" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_control_learns_from_what_it_says_of_clean_molecules(trained, tmp_path, capsys):
    short = ["--method", "rgdm", "--steps", "1", "--batch-size", "4", "--rollout-steps", "4", "--measure-every", "0"]
    words = ["finetune", "gdb7-xtb", *short, "--measure-samples", "4", "--workers", "1", "--predictor", str(trained)]
    assert main([*words, "--control", "gap", "--output-dir", str(tmp_path / "run")]) == 0
    assert (
        json.loads((tmp_path / "run" / "model" / "model.json").read_text())["control"]["controls"][0]["name"]
        == "gap_ev"
    )
    assert main([*words, "--control", "mu", "--output-dir", str(tmp_path / "other")]) == 2
    assert "predicts gap_ev, expected mu_d" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_it_says_of_clean_molecules_is_calibrated(trained):
    base = load_pretrained("gdb7-xtb")
    found = load_clean_predictor(trained, base.description, NETWORKS, "cpu", "gap_ev")
    assert found is not None
    predictor, scale = found
    # Those that it was calibrated on.
    state = next(iter(MoleculeTask(base).data(64, 0, ["gap_ev"], "val")(0, 0, 1)))
    mean, std = predictor(state)
    z = (state.condition["gap_ev"] - mean) / (scale * std)
    assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=1e-3)
    assert load_clean_predictor(Path("gdb7-xtb-egnn"), base.description, NETWORKS, "cpu", "gap_ev") is None


@pytest.mark.slow
def test_it_knows_something_before_it_has_seen_all_the_data(tmp_path):
    words = ["train-classifier", "gdb7-xtb", "--property", "gap", "--steps", "80", "--batch-size", "32",
             "--measure-every", "0", "--output-dir", str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 0
    quality = json.loads((tmp_path / "run" / "model" / "model.json").read_text())["quality"]
    assert quality["nats_t0.1"] > 0.3
    assert quality["nats_t0.3"] > 0.1


@pytest.mark.parametrize(
    "network",
    [
        EGNN(n_features=2, hidden_nf=16, n_layers=2),
        EquivariantTransformer(n_features=2, width=32, n_layers=1, n_heads=2),
    ],
)
def test_every_network_of_molecules_can_be_read_and_looks_at_molecules_alone(network):
    torch.manual_seed(0)
    predictor = NoisyPredictor(network, Control("y"), 4.0)
    predictor.freeze_unused(5)
    assert any(weight.requires_grad for weight in network.parameters())
    assert not all(weight.requires_grad for weight in network.parameters())
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    state = State(torch.randn(2, 4, 5) * mask[..., None], mask)
    t = torch.tensor([0.3, 0.6])
    both = predictor(state, t)
    for k, size in enumerate((2, 3)):
        alone = predictor(State(state.x[k : k + 1, :size], mask[k : k + 1, :size]), t[k : k + 1])
        for found, expected in zip(both, alone, strict=True):
            torch.testing.assert_close(found[k : k + 1], expected, rtol=1e-4, atol=1e-5)
    rotation = torch.linalg.qr(torch.randn(3, 3))[0]
    turned = state.replace(x=torch.cat([state.x[..., :3] @ rotation, state.x[..., 3:]], dim=-1))
    for found, expected in zip(predictor(turned, t), both, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
