"""`NoisyPredictor`: a generator's own network, taught to say what its noisy states will be.

A generator knows already what noisy states may become; a network that starts from nothing has to learn that first.
So the predictor begins from the generator's weights, and a readout of what the network knows of each point, just before
it says where the point goes.

On disk it is a folder like any model's (`common.diffusion.model_file`), of the domain `DOMAIN-classifier`. It belongs
to the models whose states it was trained on: those with the same codec, schedule and space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.diffusion import Denoiser, State
from common.diffusion.control import Control, ControlledDenoiser, Predicted, without_adapters
from common.diffusion.model_file import (
    DESCRIPTION,
    STATES,
    check_states,
    load_weights,
    model_directory,
    read_description,
    read_model,
)
from common.errors import InputError
from common.named import build, build_named
from common.predictors.predictor import standardised
from common.predictors.readout import Readout


class NoisyPredictor(nn.Module):
    """(state_t, t) -> what is known of y: mean (B,) and std (B,), or logits (B, C).

    It does not look at conditions of the generator, such as a class, so that it serves for all of them.

    Args:
        network: of a `Denoiser`; the submodule that its `readout_site` names is given what is known of each point,
            (B, N, W) or (number of real points, W).
        control: y; its mean and std undo the standardisation.
        typical_size: points of a typical sample.

    Raises:
        InputError: a network that has no such place.
    """

    # Outputs: Muon leaves them to AdamW.
    edge_modules = ("readout",)

    def __init__(self, network: nn.Module, control: Control, typical_size: float) -> None:
        super().__init__()
        site = getattr(network, "readout_site", None)
        if site is None:
            raise InputError(
                f"{type(network).__name__} knows each point alone, so that no predictor of noisy states can be made of "
                "it; guide by --guidance reconstruction, or take a base with another network"
            )
        self.network, self.control, self.site = network, control, site
        width = network.get_submodule(site).in_features
        self.readout = Readout(width, int(not control.classes), control.classes, typical_size)  # type: ignore[arg-type]

    def forward(self, state: State, t: Tensor) -> Predicted:
        """See above; t (B,)."""
        values, logits = self.readout(self._known(state, t), state.mask)
        if self.control.classes:
            return logits
        mean, std = standardised(values)
        return self.control.mean + self.control.std * mean[:, 0], self.control.std * std[:, 0]

    def _known(self, state: State, t: Tensor) -> Tensor:
        """(B, N, W) of each point; zero on padding."""
        given: list[Tensor] = []
        site = self.network.get_submodule(self.site)
        hook = site.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        width = getattr(self.network, "n_context", 0)
        try:
            self.network(state.x, t, state.mask, state.x.new_zeros(len(state), width) if width else None)
        finally:
            hook.remove()
        known = given[0].to(state.x.dtype)
        if known.ndim == 3:
            return known
        return known.new_zeros(*state.mask.shape, known.shape[-1]).index_put((state.mask,), known)

    def freeze_unused(self, n_channels: int) -> None:
        """Freeze what lies behind the readout, for it learns nothing, and processes side by side wait for all that may.

        Args:
            n_channels: of a state.
        """
        x = torch.randn(2, 3, n_channels, generator=torch.Generator().manual_seed(0))
        state = State(x, torch.ones(2, 3, dtype=torch.bool)).to(next(self.parameters()).device)
        known = self._known(state, torch.full((2,), 0.5, device=state.x.device))
        weights = list(self.network.parameters())
        found = torch.autograd.grad(known.square().sum(), weights, allow_unused=True)
        for weight, gradient in zip(weights, found, strict=True):
            weight.requires_grad_(gradient is not None)


# The time at which a clean state is looked at: there is always a little noise on what a generator takes for clean.
CLEAN_TIME = 0.02


@dataclass(frozen=True)
class LookingAtClean:
    """A `NoisyPredictor` as a `common.predictors.Predictor` of the generator's clean states."""

    predictor: NoisyPredictor

    def __call__(self, state: State) -> Predicted:
        """See `Predictor`."""
        return self.predictor(state, torch.full((len(state),), CLEAN_TIME, device=state.x.device))


def begin_noisy_predictor(
    model: Mapping[str, Any], denoiser: Denoiser | ControlledDenoiser, control: Control, typical_size: float
) -> tuple[NoisyPredictor, dict[str, Any]]:
    """A predictor of y that begins from a generator's weights, and what its `model.json` says.

    Args:
        model: description of the generator.
        denoiser: of the generator; it is copied.
        control: y.
        typical_size: points of a typical sample.

    Raises:
        InputError: a network of which no predictor can be made.
    """
    network = without_adapters(denoiser).network.train().requires_grad_(True)
    description = {
        "domain": _domain(model["domain"]),
        "task": "prediction from noisy states",
        "network": model["network"],
        "control": asdict(control),
        "typical_size": typical_size,
        "states": {key: model[key] for key in STATES},
    }
    return NoisyPredictor(network, control, typical_size), description


def load_clean_predictor(
    directory: Path,
    model: Mapping[str, Any],
    networks: Mapping[str, Callable[..., nn.Module]],
    device: torch.device | str,
    name: str,
) -> tuple[LookingAtClean, float] | None:
    """The predictor of noisy states in a folder or a run as one of clean ones, and its calibration.

    Args:
        directory, model, networks, device: see `load_noisy_predictor`.
        name: of what it shall predict.

    Returns:
        The predictor and its scale (`Control.log_prob`); None where the folder holds something else.

    Raises:
        InputError: as `load_noisy_predictor`, or it predicts another property.
    """
    folder = model_directory(directory)
    if not (folder / DESCRIPTION).exists():
        return None
    description = read_description(folder)
    if description.get("domain") != _domain(model["domain"]):
        return None
    predictor = load_noisy_predictor(directory, model, networks, device)
    if predictor.control.name != name:
        raise InputError(f"{directory} predicts {predictor.control.name}, expected {name}")
    return LookingAtClean(predictor), float(description["clean_scale"])


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
        networks: network -> constructor, of the domain's generators.
        device: where it works.

    Raises:
        InputError: there is none, or one that was trained on states of another kind.
    """
    description, weights = read_model(directory, _domain(model["domain"]))
    check_states(model, description["states"], str(directory), "train one for this model with train-classifier")
    predictor = NoisyPredictor(
        build_named(description["network"], networks, "network"),
        build(Control, description["control"], "control"),
        description["typical_size"],
    )
    load_weights(predictor, weights, str(directory))
    return predictor.eval().requires_grad_(False).to(device)


def _domain(domain: str) -> str:
    """What `model.json` says, so that no other model is taken for one."""
    return f"{domain}-classifier"
