"""The training configurations that ship: each is read by its command and names what there is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from common.named import build_named
from common.training.optimiser import OptimiserConfig
from molgen.cli.train import TrainOptions as MoleculeOptions
from molgen.data.codec import MoleculeCodec
from molgen.models import NETWORKS as MOLECULE_NETWORKS
from molgen.models.parameterisation import MOLECULE_PARAMETERISATIONS
from shapegen.cli.train import TrainOptions as ShapeOptions
from shapegen.models import NETWORKS as SHAPE_NETWORKS

CONFIGS = Path(__file__).parents[2] / "configs"
# Options -> what its data tell a network.
DOMAINS = {
    "molgen": (MoleculeOptions, MOLECULE_NETWORKS, {"n_features": 5}),
    "shapegen": (ShapeOptions, SHAPE_NETWORKS, {"n_context": 3}),
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*gen/*.yaml")), ids=lambda path: path.name)
def test_a_training_configuration_is_sound(path):
    options_class, networks, told = DOMAINS[path.parent.name]
    content = yaml.safe_load(path.read_text())
    assert set(content) <= {field.name for field in dataclasses.fields(options_class)}
    options = options_class(**content)
    options.check()
    assert isinstance(options.optimiser_config(), OptimiserConfig)
    assert options.batch_config().batch_size == options.batch_size
    build_named({**options.network, **told}, networks, "network")
    if path.parent.name == "molgen":
        build_named(options.parameterisation, MOLECULE_PARAMETERISATIONS, "parameterisation")
        MoleculeCodec(elements=(1, 6), **options.codec)
