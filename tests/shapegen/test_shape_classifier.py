"""A predictor of noisy shapes from training to guidance, on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from common.diffusion import State
from common.diffusion.control import Control
from common.errors import InputError
from common.guidance import NoisyPredictor, load_noisy_predictor
from shapegen import load_pretrained
from shapegen.cli import main
from shapegen.models import NETWORKS, PointwiseMLP


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("classifier") / "run"
    words = ["train-classifier", "procedural", "--property", "aspect_ratio", "--points", "64", "--count-per-class", "3",
             "--steps", "3", "--batch-size", "6", "--measure-every", "0", "--measure-samples", "13",
             "--output-dir", str(run)]  # fmt: skip
    assert main(words) == 0
    return run


def test_shapes_follow_it(trained, tmp_path):
    quality = json.loads((trained / "model" / "model.json").read_text())["quality"]
    assert np.isfinite(list(quality.values())).all()
    words = ["generate", "procedural", "--num-samples", "2", "--points", "64", "--steps", "4", "--pictures", "0"]
    guidance = ["--target", "aspect_ratio=2", "--guidance", "classifier scale=20", "--classifier", str(trained)]
    assert main([*words, "--output-dir", str(tmp_path / "plain")]) == 0
    assert main([*words, *guidance, "--output-dir", str(tmp_path / "guided")]) == 0
    plain, guided = (np.load(tmp_path / name / "samples.npz")["points"] for name in ("plain", "guided"))
    assert plain.shape == guided.shape
    assert not np.allclose(plain, guided)


def test_it_is_for_every_class(trained):
    base = load_pretrained("procedural")
    predictor = load_noisy_predictor(trained, base.description, NETWORKS, "cpu")
    x, mask, t = torch.randn(2, 30, 3), torch.ones(2, 30, dtype=torch.bool), torch.tensor([0.3, 0.7])
    told = State(x, mask, {"context": torch.eye(2)})
    for with_class, without in zip(predictor(told, t), predictor(State(x, mask), t), strict=True):
        torch.testing.assert_close(with_class, without)


def test_a_base_of_single_points_is_refused():
    with pytest.raises(InputError, match="PointwiseMLP knows each point alone"):
        NoisyPredictor(PointwiseMLP(n_latent=8), Control("height_m"), 64.0)
