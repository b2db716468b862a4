"""`train_classifier`: a predictor of a generator's noisy states, for classifier guidance, in a run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.algorithms.noisy_prediction import NoisyPrediction
from common.diffusion import Process, State
from common.diffusion.control import Control, Predicted
from common.diffusion.model_file import save_model
from common.diffusion.noise import SampleNoise, sample_seeds
from common.guidance.noisy_predictor import CLEAN_TIME, LookingAtClean, NoisyPredictor
from common.predictors import softmax_temperature, std_scale
from common.training.fit import FitConfig, FitResult, fit
from common.training.module import BatchSource
from common.training.optimiser import OptimiserConfig

# Times at which a classifier is measured.
TIMES = (CLEAN_TIME, 0.1, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class HeldOutNats:
    """What a predictor knows of held-out samples: mean log p(y | x_t) above that of a Gaussian with their mean and std,
    or of their shares of classes.

    Attributes:
        process: noises the samples.
        held_out: B labelled clean states (B, N, D); their condition holds y (B,).
        times: in (0, 1), at which.
    """

    process: Process
    held_out: State
    times: Sequence[float] = TIMES

    @torch.no_grad()
    def __call__(self, predictor: Any) -> dict[str, float]:
        """`nats_t0.3`, ...: gain in nats a sample at each time; 0 is to know nothing."""
        state = self.held_out.to(next(predictor.parameters()).device)
        control = predictor.control
        y = state.condition[control.name]
        known: Predicted = (y.mean().expand_as(y), y.std().expand_as(y)) if not control.classes else _shares(y, control)
        nothing = control.log_prob(state, known).mean()
        noise = SampleNoise(sample_seeds(0, 0, len(state)))(state.mask, state.x.shape[-1])
        found = {}
        for t in self.times:
            at = torch.full((len(state),), t, device=state.x.device)
            noisy = state.replace(x=self.process.corrupt(state.x, state.mask, at, noise))
            gain = control.log_prob(noisy, predictor(noisy, at)).mean() - nothing
            found[f"nats_t{t:g}"] = float(gain) if math.isfinite(gain) else math.nan
        return found


def _shares(y: torch.Tensor, control: Control) -> torch.Tensor:
    """(B, C) logits of the classes' shares among y (B,)."""
    return (y.bincount(minlength=control.classes) / len(y)).log().expand(len(y), -1)


@torch.no_grad()
def clean_scale(predictor: NoisyPredictor, held_out: State) -> float:
    """Calibration on clean states: the factor of the std, or the temperature of the logits, see `Control.log_prob`."""
    state = held_out.to(next(predictor.parameters()).device)
    predicted, wanted = LookingAtClean(predictor)(state), state.condition[predictor.control.name]
    if isinstance(predicted, torch.Tensor):
        return softmax_temperature(predicted, wanted)
    return std_scale(*predicted, wanted)


def train_classifier(
    predictor: NoisyPredictor,
    process: Process,
    batches: BatchSource,
    held_out: State,
    directory: Path,
    *,
    description: Mapping[str, Any],
    labels: int,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
) -> tuple[dict[str, Any], FitResult]:
    """Train, measure on held-out samples, and write `directory/model`; what `model.json` says, and the result.

    Args:
        predictor: untrained.
        process: of the generator.
        batches: clean states whose condition holds y.
        held_out: of the same kind.
        directory: of the run.
        description: from `noisy_description`, with what else shall be said.
        labels: how many samples are learnt from.
        optimiser, fit_config, resume: see `fit`.
    """
    measure = HeldOutNats(process, held_out)
    result = fit(
        predictor, NoisyPrediction(predictor.control, process), optimiser, batches, fit_config, directory,
        resume=resume, measure=measure,
    )  # fmt: skip
    trained: Any = result.denoiser
    description = {
        **description,
        "training": {**result.facts(), "labels": labels},
        "quality": measure(trained.eval()),
        "clean_scale": clean_scale(trained, held_out),
    }
    if result.is_first_process:
        save_model(directory / "model", trained.state_dict(), description)
    return description, result
