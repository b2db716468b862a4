"""Models on disk: a folder with `model.safetensors` (weights) and `model.json` (everything else). Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from common.atomic import atomic_writer, write_json
from common.diffusion import PARAMETERISATIONS, SCHEDULES, SPACES, Denoiser, Process
from common.diffusion.control import ControlledDenoiser, build_controlled
from common.errors import InputError
from common.named import build_named

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
# What of a model's description decides its noisy states.
STATES = ("codec", "schedule", "space")


def save_model(directory: Path, weights: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> None:
    """Write a model folder; each file appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_writer(directory / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(tensors))
    write_json(directory / DESCRIPTION, {"format": FORMAT, **description})


def read_description(directory: Path) -> dict[str, Any]:
    """`model.json` of a model folder; raises `InputError` where there is none that this program can read."""
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} is not a model: it has no {DESCRIPTION}; expected a model folder, or a run that has trained"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise InputError(f"{path} has format {found!r}, expected {FORMAT}: it was written by another version")
    return description


def read_model(directory: Path, domain: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and weights of the `domain` model in a folder, or in the `model` folder of a run.

    Raises:
        InputError: there is no model, or one of another domain.
    """
    directory = model_directory(directory)
    description = read_description(directory)
    if description.get("domain") != domain:
        raise InputError(f"{directory} is a model of {description.get('domain')!r}, expected one of '{domain}'")
    return description, read_weights(directory)


def model_directory(path: Path) -> Path:
    """The model folder that a path means: itself, or the `model` folder of a run directory."""
    inner = path / "model"
    return inner if inner.is_dir() else path


def weights_digest(module: nn.Module) -> str:
    """Hash of names and weights, which tells one model from another in a run's provenance."""
    content = hashlib.sha256()
    for name, value in module.state_dict().items():
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """`model.safetensors` of a model folder; pickled files are refused."""
    path = directory / WEIGHTS
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        pickled = [p.name for p in directory.glob("*") if p.suffix in {".pt", ".pth", ".ckpt", ".pkl", ".pickle"}]
        hint = f"; {pickled[0]} is a pickle, which can run code when it is read and is refused" if pickled else ""
        raise InputError(f"{directory} has no {WEIGHTS}{hint}") from error
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}); a pickle is refused, whatever its name"
        ) from error


def check_states(model: Mapping[str, Any], other: Mapping[str, Any], source: str, remedy: str) -> None:
    """Raise `InputError` where two descriptions mean other noisy states.

    Args:
        model: description of the model whose states are given.
        other: that of what is to see them.
        source: of the other, for the message.
        remedy: what to do about it.
    """
    for key in STATES:
        # As JSON has it: tuples and lists are the same.
        if json.dumps(other[key], sort_keys=True) != json.dumps(model[key], sort_keys=True):
            raise InputError(
                f"{source} was trained on states of another {key} than those of '{model.get('name')}'; {remedy}"
            )


def build_denoiser(
    description: Mapping[str, Any],
    networks: Mapping[str, Callable[..., nn.Module]],
    parameterisations: Mapping[str, Callable[..., Any]] = PARAMETERISATIONS,
) -> Denoiser | ControlledDenoiser:
    """An untrained denoiser from the `network`, `schedule`, `space` and `parameterisation` of a description; with
    control inputs, if it has `control`."""
    process = Process(
        build_named(description["schedule"], SCHEDULES, "schedule"), build_named(description["space"], SPACES, "space")
    )
    denoiser = Denoiser(
        build_named(description["network"], networks, "network"),
        process,
        build_named(description["parameterisation"], parameterisations, "parameterisation"),
    )
    return build_controlled(denoiser, description["control"]) if "control" in description else denoiser


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Put weights into a module; an `InputError` names the first that does not fit, or is not finite."""
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unknown:
        raise InputError(
            f"{source} does not fit this network: {len(missing)} tensors missing"
            f"{f' (first: {missing[0]})' if missing else ''}, {len(unknown)} unknown"
            f"{f' (first: {unknown[0]})' if unknown else ''}"
        )
    for name, value in weights.items():
        if own[name].shape != value.shape:
            raise InputError(f"{source}: {name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{source}: {name} has values that are not finite; its training went astray")
    module.load_state_dict(dict(weights))
