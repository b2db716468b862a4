"""Read the checkpoints that the EDM project publishes, without running code from them.

A checkpoint is a folder with `args.pickle` (the training command's arguments) and `generative_model_ema.npy` or
`generative_model.npy` (a torch state dict, in spite of the name). The project: E(3) Equivariant Diffusion Model,
arXiv 2203.17003.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.errors import InputError
from molgen.models.egnn import EGNN

ARGUMENTS = "args.pickle"
WEIGHTS = ("generative_model_ema.npy", "generative_model.npy")

# Published argument files have about a kilobyte.
_MAX_ARGUMENT_BYTES = 1_000_000

# (data set, hydrogens removed) -> atomic numbers in the order of the one-hot columns.
_ATOM_TYPES = {
    ("qm9", False): (1, 6, 7, 8, 9),
    ("qm9", True): (6, 7, 8, 9),
    ("qm9_second_half", False): (1, 6, 7, 8, 9),
    ("geom", False): (1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 80, 83),
}

# EDM's parameter names, piece by piece, and ours. "edge_mlp.1" and "edge_mlp.3" are activations without parameters.
_NAMES = {
    "edge_mlp.0": "edge.first",
    "edge_mlp.2": "edge.second",
    "att_mlp.0": "gate",
    "node_mlp.0": "node_first",
    "node_mlp.2": "node_second",
    "coord_mlp.0": "edge.first",
    "coord_mlp.2": "edge.second",
    "coord_mlp.4": "scale",
}


@dataclass(frozen=True)
class EDMSettings:
    """What an EDM checkpoint says about its diffusion process and its data.

    Attributes:
        noise_schedule: "cosine" or "polynomial_<power>".
        diffusion_steps: T, the number of discrete steps.
        noise_precision: s, which keeps alpha^2 of the polynomial schedule within [s, 1 - s].
        normalize_factors: divisors of coordinates, one-hot types and integer charge.
        norm_biases: what is subtracted before the division, in the same order (EDM trains with zeros).
        dataset: "qm9", "qm9_second_half" or "geom".
        remove_h: hydrogens are left out.
        atom_types: atomic numbers in the order of the one-hot columns.
        include_charges: the last feature is the atomic number, divided by `normalize_factors[2]`.
        context: property names, in the order of the context columns, under EDM's names. The network sees
            (value - mean) / mean absolute deviation over EDM's training set; the checkpoint does not hold those.
        weights: name of the file the weights came from.
    """

    noise_schedule: str
    diffusion_steps: int
    noise_precision: float
    normalize_factors: tuple[float, float, float]
    norm_biases: tuple[float, float, float]
    dataset: str
    remove_h: bool
    atom_types: tuple[int, ...]
    include_charges: bool
    context: tuple[str, ...]
    weights: str


def load_edm_checkpoint(directory: str | Path) -> tuple[EGNN, EDMSettings]:
    """The network, on the CPU and in evaluation mode, and the settings of a published EDM checkpoint.

    The averaged weights are taken where both files are there.

    Raises:
        InputError: a file is missing or not what it should be, the pickle names anything but plain data, the
            model is not EDM's EGNN, or the weights do not fit the arguments.
    """
    directory = Path(directory)
    arguments = read_arguments(directory / ARGUMENTS)
    weights = next((name for name in WEIGHTS if (directory / name).is_file()), None)
    if weights is None:
        raise InputError(f"{directory} has no weights: expected {' or '.join(WEIGHTS)}")
    settings = _settings(arguments, weights, directory)
    network = _network(arguments, settings, directory)
    state = network_state(_read_state(directory / weights), directory / weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{directory / weights} does not fit {ARGUMENTS} beside it: {reason}") from error
    return network.eval(), settings


def network_state(state: Mapping[str, Tensor], source: str | Path = "the state dict") -> dict[str, Tensor]:
    """The network's part of an EDM state dict, under the names of `EGNN`.

    Raises `InputError` if there is no such part, or a key that no EDM model has; `source` is named there.
    """
    mapped = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name == "buffer" or name.startswith("gamma."):
            # The tabulated noise schedule: made anew from the settings.
            continue
        if not name.startswith("dynamics.egnn."):
            raise InputError(f"{source} has the key '{key}', which no EDM model has; expected 'dynamics.egnn.*'")
        name = re.sub(r"^e_block_(\d+)\.", r"blocks.\1.", name.removeprefix("dynamics.egnn."))
        name = re.sub(r"\bgcl_(\d+)\b", r"messages.\1", name).replace("gcl_equiv", "update")
        mapped[re.sub(r"(edge|att|node|coord)_mlp\.\d", lambda m: _NAMES.get(m[0], m[0]), name)] = value
    if not mapped:
        raise InputError(f"{source} has no keys 'dynamics.egnn.*': it is not an EDM model")
    return mapped


def read_arguments(path: str | Path) -> dict[str, Any]:
    """The arguments in EDM's `args.pickle` as a plain dict; nothing in the file is executed.

    Only an `argparse.Namespace` of plain values is accepted; `torch.device` and paths become strings.

    Raises:
        InputError: the file is missing, too large, damaged, or names any other class or function.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_ARGUMENT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): expected EDM's {ARGUMENTS}") from error
    if len(data) > _MAX_ARGUMENT_BYTES:
        raise InputError(f"{path} has more than {_MAX_ARGUMENT_BYTES} bytes: it is not EDM's {ARGUMENTS}")
    try:
        arguments = _PlainUnpickler(io.BytesIO(data), path).load()
    except InputError:
        raise
    # A damaged pickle fails in whichever way its first wrong byte leads to.
    except (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise InputError(f"{path} is not a readable pickle ({type(error).__name__}: {error})") from error
    if not isinstance(arguments, _Namespace):
        raise InputError(f"{path} holds a {type(arguments).__name__}, expected the arguments of an EDM training")
    return vars(arguments)


class _Namespace:
    """Stands in for argparse.Namespace: attributes and nothing else."""


def _first_as_text(*parts: object) -> str:
    """Stands in for torch.device and paths: their parts as text."""
    return "/".join(str(part) for part in parts)


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the few names below and refuses every other; no name leads to code of the file's choice."""

    _allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("argparse", "Namespace"): _Namespace,
        ("torch", "device"): _first_as_text,
        ("pathlib", "PosixPath"): _first_as_text,
        ("pathlib", "WindowsPath"): _first_as_text,
        ("collections", "OrderedDict"): dict,
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
    }

    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise InputError(
                f"{self._path} was refused: it names {module}.{name}, which loading would run; "
                "an EDM args.pickle holds only plain values"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise InputError(f"{self._path} was refused: it refers to an object outside the file ({pid!r})")


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a file of plain tensors and was refused: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict: expected names and tensors, as EDM writes them")
    return state


def _get(arguments: Mapping[str, Any], name: str, directory: Path) -> Any:
    try:
        return arguments[name]
    except KeyError:
        raise InputError(f"{directory / ARGUMENTS} has no '{name}': it is not from an EDM training") from None


def _settings(arguments: Mapping[str, Any], weights: str, directory: Path) -> EDMSettings:
    schedule = str(_get(arguments, "diffusion_noise_schedule", directory))
    if schedule != "cosine" and not re.fullmatch(r"polynomial_\d+(\.\d+)?", schedule):
        raise InputError(f"{directory} uses the noise schedule '{schedule}', expected cosine or polynomial_<power>")
    data = str(_get(arguments, "dataset", directory)), bool(_get(arguments, "remove_h", directory))
    if data not in _ATOM_TYPES:
        known = ", ".join(f"{name}{' without H' * removed}" for name, removed in _ATOM_TYPES)
        raise InputError(f"{directory} was trained on '{data[0]}'{' without H' * data[1]}, expected one of {known}")
    try:
        coordinates, types, charge = map(float, _get(arguments, "normalize_factors", directory))
        return EDMSettings(
            noise_schedule=schedule,
            diffusion_steps=int(_get(arguments, "diffusion_steps", directory)),
            noise_precision=float(_get(arguments, "diffusion_noise_precision", directory)),
            normalize_factors=(coordinates, types, charge),
            norm_biases=(0.0, 0.0, 0.0),
            dataset=data[0],
            remove_h=data[1],
            atom_types=_ATOM_TYPES[data],
            include_charges=bool(_get(arguments, "include_charges", directory)),
            context=tuple(str(name) for name in _get(arguments, "conditioning", directory)),
            weights=weights,
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{directory / ARGUMENTS} has a value of the wrong type: {error}") from error


def _network(arguments: Mapping[str, Any], settings: EDMSettings, directory: Path) -> EGNN:
    for name, expected in (("model", "egnn_dynamics"), ("probabilistic_model", "diffusion")):
        found = _get(arguments, name, directory)
        if found != expected:
            raise InputError(f"{directory} has {name} '{found}', expected '{expected}'")
    try:
        return EGNN(
            n_features=len(settings.atom_types) + settings.include_charges,
            n_context=int(_get(arguments, "context_node_nf", directory)),
            hidden_nf=int(_get(arguments, "nf", directory)),
            n_layers=int(_get(arguments, "n_layers", directory)),
            attention=bool(_get(arguments, "attention", directory)),
            tanh=bool(_get(arguments, "tanh", directory)),
            norm_constant=float(_get(arguments, "norm_constant", directory)),
            inv_sublayers=int(_get(arguments, "inv_sublayers", directory)),
            sin_embedding=bool(_get(arguments, "sin_embedding", directory)),
            # Older checkpoints lack these two; EDM fills in the same values.
            normalization_factor=float(arguments.get("normalization_factor", 1)),
            aggregation_method=str(arguments.get("aggregation_method", "sum")),
            condition_time=bool(_get(arguments, "condition_time", directory)),
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{directory / ARGUMENTS} has a value of the wrong type: {error}") from error
