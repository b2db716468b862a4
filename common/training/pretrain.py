"""`pretrain`: a generator of any domain from its data, in a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common.algorithms.algorithm import Algorithm
from common.algorithms.distillation import Distillation, check_latents
from common.algorithms.latent_pretraining import pretraining
from common.algorithms.likelihood import Likelihood
from common.diffusion import DenoiserFunction
from common.training.callbacks import Measure
from common.training.fit import FitConfig, FitResult, fit, learnable_count
from common.training.module import BatchSource
from common.training.optimiser import OptimiserConfig


class TrainableModel(Protocol):
    """A domain's model as this module needs it."""

    denoiser: Any
    description: Mapping[str, Any]

    def save(self, directory: Path) -> None:
        """Write the model folder."""
        ...


@dataclass(frozen=True)
class BatchConfig:
    """What one step sees.

    Attributes:
        batch_size: samples a process and step.
        max_weight, timesteps, focus: see `Likelihood`.
    """

    batch_size: int = 128
    max_weight: float | None = None
    timesteps: int | None = None
    focus: tuple[float, float, float] | None = None


def pretrain(
    model: TrainableModel,
    batches: BatchSource,
    directory: Path,
    *,
    batch_config: BatchConfig,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
    measure: Measure | None = None,
    teacher: DenoiserFunction | None = None,
) -> FitResult:
    """Train `model` by the denoising loss, or by a teacher; it ends with averaged weights, as does `directory/model`.

    Args:
        model: untrained, or what training starts from.
        batches: (start, rank, world_size) -> endless clean states.
        directory: of the run.
        batch_config, optimiser, fit_config: see there.
        resume: go on from the checkpoint in `directory`.
        measure: quality of the averaged denoiser, every `fit_config.measure_every` steps.
        teacher: of the same states; the model learns its answers on noised data, see `Distillation`.

    Raises:
        InputError: unusable configuration or data.
    """
    likelihood = Likelihood(batch_config.timesteps, batch_config.max_weight, batch_config.focus)
    algorithm: Algorithm = pretraining(model.denoiser.network, likelihood)
    if teacher is not None:
        check_latents(model.denoiser)
        algorithm = Distillation(teacher=teacher, likelihood=likelihood)
    result = fit(
        model.denoiser, algorithm, optimiser, batches, fit_config, directory, resume=resume, measure=measure
    )  # fmt: skip
    model.description = {
        **model.description,
        "training": {**result.facts(), "parameters": learnable_count(result.denoiser)},
    }
    if result.is_first_process:
        model.save(directory / "model")
    return result
