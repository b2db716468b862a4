"""`train_predictor`: a predictor of properties and classes from labelled states, in a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.algorithms.algorithm import FromData
from common.algorithms.experience import Experience
from common.diffusion import State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.predictors import ModelPredictor
from common.predictors.evaluation import Labels, calibrate, quality, validation_errors
from common.predictors.predictor import standardised
from common.training.fit import FitConfig, FitResult, fit
from common.training.module import BatchSource
from common.training.optimiser import OptimiserConfig

# Conditions of a training state: standardised properties (B, P), NaN where missing, and the index of the class (B,).
VALUES, CLASS_INDEX = "values", "class_index"


@dataclass(frozen=True)
class Supervised(FromData):
    """Learning from labels as an `Algorithm` whose experience is the data set: Gaussian likelihood of the properties,
    cross-entropy of the class, for states with a little noise on them.

    The likelihood of each property is weighted by its variance to the power beta (beta-NLL, arXiv 2203.09168, eq. 8),
    which keeps the samples that look hard from being given up. Noise makes the predictor hold for states that are
    almost clean, as a generator's estimates are: each sample gets its own strength, from none to all.

    Attributes:
        noise: standard deviation of the strongest noise on each of the D channels, in units of the state.
        beta: 0 is the plain likelihood, 1 weights errors as least squares does.
    """

    noise: tuple[float, ...]
    beta: float = 0.5

    def collect(
        self, policy: Any, reference: Any, reward: Any, batch: State, noise: NoiseSource, generator: torch.Generator
    ) -> Experience:
        """See `Algorithm`: the labelled batch, with noise."""
        strength = torch.rand(len(batch), 1, 1, generator=generator)
        drawn = strength * torch.randn(batch.x.shape, generator=generator) * torch.tensor(self.noise)
        x = batch.x + drawn.to(batch.x) * batch.mask[..., None]
        steps = torch.empty(len(batch), 0, dtype=torch.long, device=batch.x.device)
        return Experience(x[:, None], steps, batch.mask, batch.condition)

    def loss(self, policy: Any, reference: Any, experience: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`; `policy` is a network of a `ModelPredictor`."""
        state = experience.state(-1)
        values, logits = policy(state.x, state.mask)
        parts = {}
        if values.shape[1]:
            parts["likelihood"] = self._likelihood(values.float(), state.condition[VALUES])
        if logits.shape[1]:
            parts["cross_entropy"] = F.cross_entropy(logits.float(), state.condition[CLASS_INDEX])
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}

    def _likelihood(self, values: Tensor, wanted: Tensor) -> Tensor:
        mean, std = standardised(values)
        known = torch.isfinite(wanted)
        # A blank stands in for what is missing, so that no NaN enters the gradient.
        error = torch.where(known, wanted.to(mean.dtype), mean.detach()) - mean
        each = 0.5 * (error / std).square() + std.log()
        each = std.detach() ** (2 * self.beta) * each * known
        return each.sum() / known.sum().clamp(min=1)


@dataclass(frozen=True)
class LabelledParts:
    """The validation and the test part of labelled data, and the training part's labels.

    Attributes:
        validation, test: make the states of a part, in the order of the labels.
        labels: part (`train`, `val`, `test`) -> labels.
    """

    validation: Callable[[], Iterable[State]]
    test: Callable[[], Iterable[State]]
    labels: Mapping[str, Labels]


def train_predictor(
    predictor: ModelPredictor,
    batches: BatchSource,
    parts: LabelledParts,
    directory: Path,
    *,
    algorithm: Supervised,
    optimiser: OptimiserConfig,
    fit_config: FitConfig,
    resume: bool = False,
) -> tuple[ModelPredictor, FitResult]:
    """Train, calibrate on the validation part, measure on the test part, and write `directory/model`.

    A run that was stopped early is calibrated and measured as well.

    Args:
        predictor: untrained; its network is trained in place.
        batches: (start, rank, world_size) -> endless clean states with the conditions `VALUES` and `CLASS_INDEX`.
        parts: held-out data.
        directory: of the run.
        algorithm, optimiser, fit_config: see there.
        resume: go on from the checkpoint in `directory`.

    Raises:
        InputError: unusable configuration or data.
    """
    if fit_config.devices != 1:
        raise InputError(f"got {fit_config.devices} processes, expected 1: predictors are small")

    def measure(network: Any) -> Mapping[str, float]:
        watched = ModelPredictor(network, predictor.outputs, predictor.classes, translate=predictor.translate)
        return validation_errors(watched, parts.validation(), parts.labels["val"])

    result = fit(
        predictor.network, algorithm, optimiser, batches, fit_config, directory, resume=resume, measure=measure
    )
    network = result.denoiser.requires_grad_(False)
    predictor.network = network
    predictor = calibrate(predictor, parts.validation(), parts.labels["val"])
    predictor.description = {
        **predictor.description,
        "training": {
            **result.facts(),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
        "quality": quality(predictor, parts.test(), parts.labels["test"], parts.labels["train"]),
    }
    predictor.save(directory / "model")
    return predictor, result
