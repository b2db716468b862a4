"""EDM's published checkpoints as models of this program: network, process, scaling and atom counts together."""

from __future__ import annotations

from pathlib import Path

import torch

from common.diffusion import Centered, Cosine, Denoiser, Eps, Polynomial, Process, Sampler, Schedule
from common.errors import InputError
from molgen.data.codec import MoleculeCodec
from molgen.model import MoleculeModel, SizeLaw
from molgen.models.edm_checkpoint import ARGUMENTS, EDMSettings, load_edm_checkpoint

# Number of atoms -> molecules in EDM's QM9 training set (arXiv 2203.17003, the project's data set configuration).
_QM9_SIZES = {
    3: 1, 4: 4, 5: 5, 6: 9, 7: 16, 8: 49, 9: 124, 10: 362, 11: 807, 12: 1689, 13: 3060, 14: 5136, 15: 7796, 16: 10644,
    17: 13025, 18: 13364, 19: 13832, 20: 9482, 21: 9970, 22: 3393, 23: 4848, 24: 539, 25: 1506, 26: 48, 27: 266, 29: 25,
}  # fmt: skip


def is_edm_checkpoint(directory: Path) -> bool:
    """Whether a folder looks like one of EDM's `outputs/...`."""
    return (directory / ARGUMENTS).is_file()


def load_edm_model(directory: Path, device: torch.device | str = "cpu") -> MoleculeModel:
    """The unconditional QM9 model in a folder of EDM's, with EDM's own sampler (T + 1 evaluations) as default.

    Raises:
        InputError: not such a checkpoint, or one that needs a condition or another data set's atom counts.
    """
    network, settings = load_edm_checkpoint(directory)
    if settings.context:
        raise InputError(
            f"{directory} wants the condition {', '.join(settings.context)}, expected an unconditional model"
        )
    if not settings.dataset.startswith("qm9") or settings.remove_h:
        raise InputError(f"{directory} was trained on {settings.dataset}, expected QM9 with hydrogens")
    process = Process(_schedule(settings), Centered(3))
    coordinates, types, number = settings.normalize_factors
    model = MoleculeModel(
        denoiser=Denoiser(network, process, Eps()),
        codec=MoleculeCodec(
            elements=settings.atom_types,
            coordinate_scale=1 / coordinates,
            type_scale=1 / types,
            number_scale=1 / number if settings.include_charges else 0.0,
        ),
        size_law=SizeLaw(tuple(_QM9_SIZES), tuple(float(count) for count in _QM9_SIZES.values())),
        sampler=Sampler.edm(process, settings.diffusion_steps),
        description={"domain": "molgen", "name": f"edm-{directory.name}", "task": "unconditional"},
    )
    model.denoiser.eval().requires_grad_(False).to(device)
    return model


def _schedule(settings: EDMSettings) -> Schedule:
    if settings.noise_schedule == "cosine":
        return Cosine()
    power = float(settings.noise_schedule.removeprefix("polynomial_"))
    return Polynomial(settings.diffusion_steps, power, settings.noise_precision)
