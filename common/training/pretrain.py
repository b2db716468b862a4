"""`pretrain`: a generator of any domain from its data, in a run directory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from common.algorithms.algorithm import Algorithm
from common.algorithms.distillation import Distillation, check_latents
from common.algorithms.latent_pretraining import pretraining
from common.algorithms.likelihood import Likelihood
from common.algorithms.moment_matching import MomentMatching
from common.diffusion import DenoiserFunction, Sampler, V, build_sampler
from common.diffusion.denoiser import Parameterisation
from common.errors import InputError
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


@dataclass(frozen=True)
class Teacher:
    """A denoiser that another one learns from.

    Attributes:
        denoiser: (state_t, t) -> x0_hat, of the student's states.
        few_steps: the student learns to sample as it does in the few steps of the student's own sampler, see
            `MomentMatching`; else it learns the teacher's answers, see `Distillation`.
        error: whose loss of these answers is taken.
        teacher_from: see `Distillation`.
    """

    denoiser: DenoiserFunction
    few_steps: bool = False
    error: Parameterisation = field(default_factory=V)
    teacher_from: float = 0.0

    def check(self, model: TrainableModel) -> None:
        """Raise `InputError` for a model that cannot learn from it.

        That is one that is told a latent of each sample, or, for few steps, one whose sampler makes other steps than
        ancestral ones.
        """
        check_latents(model.denoiser)
        if not self.few_steps:
            return
        sampler = _sampler(model)
        if sampler.solver != "ancestral" or sampler.noise_scale != 1 or sampler.steps < 2:
            raise InputError(
                f"got the sampler {sampler.settings()}, expected ancestral steps, at least 2 of them, to learn "
                'few steps for it, as in --sampler \'{"steps": 9, "solver": "ancestral"}\''
            )

    def algorithm(self, model: TrainableModel, likelihood: Likelihood) -> Algorithm:
        """How a model learns from it; raises as `check`."""
        self.check(model)
        if not self.few_steps:
            return Distillation(
                teacher=self.denoiser, likelihood=likelihood, error=self.error, teacher_from=self.teacher_from
            )
        sampler = _sampler(model)
        return MomentMatching(
            teacher=self.denoiser,
            auxiliary=copy.deepcopy(model.denoiser),
            # The last evaluation reads out, at t = 0.
            steps=sampler.steps - 1,
            exponent=sampler.exponent,
            likelihood=likelihood,
        )


def _sampler(model: TrainableModel) -> Sampler:
    return build_sampler(model.denoiser.process, model.description["sampler"])


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
    teacher: Teacher | None = None,
) -> FitResult:
    """Train `model` by the denoising loss, or by a teacher; it ends with averaged weights, as does `directory/model`.

    Args:
        model: untrained, or what training starts from.
        batches: (start, rank, world_size) -> endless clean states.
        directory: of the run.
        batch_config, optimiser, fit_config: see there.
        resume: go on from the checkpoint in `directory`.
        measure: quality of the averaged denoiser, every `fit_config.measure_every` steps.
        teacher: what the model learns from instead of the data.

    Raises:
        InputError: unusable configuration or data.
    """
    likelihood = Likelihood(batch_config.timesteps, batch_config.max_weight, batch_config.focus)
    algorithm: Algorithm = pretraining(model.denoiser.network, likelihood)
    if teacher is not None:
        algorithm = teacher.algorithm(model, likelihood)
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
