"""`NoisyPredictor`: a pooled network of point sets as a predictor of noisy states, which have a time.

On disk it is a folder like any model's (`common.diffusion.model_file`), of the domain `DOMAIN-classifier`. It belongs
to the models whose states it was trained on: those with the same codec, schedule and space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.diffusion import State
from common.diffusion.control import Control, Predicted
from common.diffusion.embedding import time_features
from common.diffusion.model_file import load_weights, read_model
from common.errors import InputError
from common.named import build, build_named
from common.predictors.predictor import standardised


class NoisyPredictor(nn.Module):
    """(state_t, t) -> what is known of y: mean (B,) and std (B,), or logits (B, C).

    The time enters as channels of each point, invariant under all that moves points, so that any network of clean
    states will do that takes more channels.

    Args:
        network: (x (B, N, D + n_time), mask (B, N)) -> standardised values (B, P, 2) and logits (B, C), as networks of
            `common.predictors` do; of a continuous y the first value counts, of a class the logits.
        control: y; its mean and std undo the standardisation.
        n_time: channels of the time.
    """

    def __init__(self, network: nn.Module, control: Control, n_time: int = 16) -> None:
        super().__init__()
        self.network = network
        self.control = control
        self.n_time = n_time

    def forward(self, state: State, t: Tensor) -> Predicted:
        """See above; t (B,)."""
        told = time_features(t, self.n_time).to(state.x.dtype)[:, None] * state.mask.unsqueeze(-1)
        values, logits = self.network(torch.cat([state.x, told], dim=-1), state.mask)
        if self.control.classes:
            return logits
        mean, std = standardised(values)
        return self.control.mean + self.control.std * mean[:, 0], self.control.std * std[:, 0]


# What of a model's description decides its noisy states.
_STATES = ("codec", "schedule", "space")


def create_noisy_predictor(
    description: Mapping[str, Any], networks: Mapping[str, Callable[..., nn.Module]]
) -> NoisyPredictor:
    """An untrained predictor from a description that began as `noisy_description`."""
    settings, n_time = dict(description["network"]), description["n_time"]
    # The network sees the time beside the channels of a state.
    settings["n_channels"] += n_time
    network = build_named(settings, networks, "architecture")
    return NoisyPredictor(network, build(Control, description["control"], "control"), n_time)


def noisy_description(
    model: Mapping[str, Any], control: Control, network: Mapping[str, Any], n_time: int = 16
) -> dict[str, Any]:
    """What `model.json` says of a predictor of y for the noisy states of `model`, a generator's description.

    `network` has its name, the `n_channels` of a state, and settings.
    """
    return {
        "domain": _domain(model["domain"]),
        "task": "prediction from noisy states",
        "network": dict(network),
        "control": asdict(control),
        "n_time": n_time,
        "states": {key: model[key] for key in _STATES},
    }


def load_noisy_predictor(
    directory: Path,
    model: Mapping[str, Any],
    networks: Mapping[str, Callable[..., nn.Module]],
    device: torch.device | str,
) -> NoisyPredictor:
    """The predictor in a folder or a run, frozen, on `device`.

    Args:
        directory: of the predictor.
        model: description of the generator whose states it is to see.
        networks: architecture -> constructor.
        device: where it works.

    Raises:
        InputError: there is none, or one that was trained on states of another kind.
    """
    description, weights = read_model(directory, _domain(model["domain"]))
    for key in _STATES:
        if description["states"][key] != model[key]:
            raise InputError(
                f"{directory} was trained on states of another {key} than those of '{model.get('name')}'; train one "
                "for this model with train-classifier"
            )
    predictor = create_noisy_predictor(description, networks)
    load_weights(predictor, weights, str(directory))
    return predictor.eval().requires_grad_(False).to(device)


def _domain(domain: str) -> str:
    """What `model.json` says, so that no other model is taken for one."""
    return f"{domain}-classifier"
