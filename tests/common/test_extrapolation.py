"""Weights moved away from weaker ones: autoguidance to first order, and what does not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from contracts.toy import PointwiseModel

import molgen
import shapegen
from common.diffusion import Centered, Cosine, Process, State
from common.diffusion.extrapolation import extrapolate, relative_distance
from common.errors import InputError
from common.guidance import Autoguidance
from molgen.cli import main as molgen_main
from shapegen.cli import main as shapegen_main


def denoiser(moved: float = 0.0, seed: int = 1):
    """The toy denoiser in double precision, its weights moved by chance."""
    made = PointwiseModel(Process(Cosine(), Centered(3))).denoiser.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(moved * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return made.requires_grad_(False)


def noisy() -> tuple[State, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(6, 4, dtype=torch.bool)
    x = Centered(3).project(torch.randn(6, 4, 3, generator=generator, dtype=torch.float64), mask)
    return State(x, mask), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)


def test_it_is_autoguidance_to_first_order():
    state, t = noisy()
    errors = []
    for moved in (1e-2, 1e-3):
        strong, weaker, further = denoiser(), denoiser(moved), denoiser()
        further.load_state_dict(extrapolate(strong.state_dict(), weaker.state_dict(), 2.0))
        guided = Autoguidance(weaker, scale=2.0, active_from=0.0)(strong)(state, t)
        away = (guided - strong(state, t)).norm()
        errors.append(float((further(state, t) - guided).norm() / away))
        assert away > 0
    # What is left is of second order: ten times nearer, ten times less of the way itself.
    assert errors[0] < 0.2
    assert errors[1] < 0.2 * errors[0]


def test_the_ends_of_the_way():
    own, weaker = denoiser().state_dict(), denoiser(0.1).state_dict()
    for scale, expected in ((0.0, own), (-1.0, weaker)):
        torch.testing.assert_close(extrapolate(own, weaker, scale), {k: v.float() for k, v in expected.items()})
    half = extrapolate(own, weaker, -0.5)
    whole = relative_distance(own, weaker)
    assert relative_distance(own, half) == pytest.approx(whole / 2, rel=1e-4)


def test_whole_numbers_stay():
    own = {"count": torch.tensor(3), "weight": torch.tensor([1.0, 2.0])}
    weaker = {"count": torch.tensor(5), "weight": torch.tensor([0.0, 4.0])}
    moved = extrapolate(own, weaker, 0.5)
    assert moved["count"] == 3
    assert moved["weight"].tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    ("weaker", "message"),
    [
        ({}, r"weight is missing there and of shape \(2,\) here"),
        ({"weight": torch.zeros(3)}, r"of shape \(3,\) there and of shape \(2,\) here"),
        ({"weight": torch.zeros(2), "more": torch.zeros(1)}, r"more is of shape \(1,\) there and missing here"),
    ],
)
def test_another_network_is_refused(weaker, message):
    with pytest.raises(InputError, match=message):
        extrapolate({"weight": torch.zeros(2)}, weaker, 0.1)


@pytest.fixture
def weaker(tmp_path) -> Path:
    """A model of molecules whose weights are the shipped one's, a tenth smaller."""
    model = molgen.load_pretrained("gdb7-xtb")
    weights = {name: 0.9 * value for name, value in model.denoiser.state_dict().items()}
    model.denoiser.load_state_dict(weights)
    model.save(tmp_path / "weaker")
    return tmp_path / "weaker"


def test_the_command_makes_a_model_like_any_other(weaker, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["extrapolate", "gdb7-xtb", "--weaker", str(weaker), "--scale", "0.5", "--output-dir", str(run)]
    assert molgen_main(words) == 0
    assert "molgen generate" in capsys.readouterr().out
    strong, moved = molgen.load_pretrained("gdb7-xtb"), molgen.load_pretrained(run)
    for name, value in strong.denoiser.state_dict().items():
        torch.testing.assert_close(moved.denoiser.state_dict()[name], 1.05 * value)
    assert moved.description["name"] == "gdb7-xtb-extrapolated"
    assert moved.description["extrapolation"] == {"model": "gdb7-xtb", "weaker": str(weaker), "scale": 0.5}
    # What was measured of the model that it came from says nothing of it.
    assert "quality" not in moved.description
    record = json.loads((run / "run.json").read_text())
    assert record["distance"] == pytest.approx(0.1)
    assert molgen_main(["generate", str(run), "--num-samples", "2", "--steps", "3", "--pictures", "0",
                        "--output-dir", str(tmp_path / "samples")]) == 0  # fmt: skip
    # A finished run is kept, unless it may be replaced.
    assert molgen_main(words) == 2
    assert molgen_main([*words, "--overwrite"]) == 0


def test_shapes_have_it_too(tmp_path):
    run = tmp_path / "run"
    words = ["extrapolate", "procedural", "--weaker", "procedural", "--json", "--output-dir", str(run)]
    assert shapegen_main(words) == 0
    shipped, moved = shapegen.load_pretrained("procedural"), shapegen.load_pretrained(run)
    torch.testing.assert_close(moved.denoiser.state_dict(), shipped.denoiser.state_dict())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --weaker MODEL"),
        (("--weaker", "qm9-test-sound"), "states of another codec"),
        (("--weaker", "nothing"), "no model 'nothing'"),
        (("--weaker", "gdb7-xtb-distilled", "--scale", "-2"), "expected at least -1"),
    ],
)
def test_wrong_requests_are_one_line(words, message, tmp_path, capsys):
    assert molgen_main(["extrapolate", "gdb7-xtb", *words, "--output-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_weaker_model_from_elsewhere_is_told(tmp_path, capsys):
    """Weights of another beginning are 1.4 of their norm away."""
    model = molgen.load_pretrained("gdb7-xtb")
    torch.manual_seed(0)
    for weight in model.denoiser.parameters():
        weight.copy_(weight.std() * torch.randn_like(weight) if weight.numel() > 1 else weight)
    model.save(tmp_path / "other")
    words = ["extrapolate", "gdb7-xtb", "--weaker", str(tmp_path / "other"), "--output-dir", str(tmp_path / "run")]
    assert molgen_main(words) == 0
    assert "was not trained from those of gdb7-xtb" in capsys.readouterr().err
