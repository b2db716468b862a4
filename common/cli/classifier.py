"""What the verb `train-classifier` of both commands shares: a predictor of noisy states for `--guidance classifier`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.cli.options import argument, option
from common.cli.training import OPTIMISER_HELP, ParallelRunOptions, run_training
from common.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from common.training.fit import FitConfig, FitResult
    from common.training.task import Task


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(ParallelRunOptions):
    """Options of `train-classifier` in both domains."""

    base: str = argument("whose noisy samples it shall understand: a shipped model, a model folder, or a run directory")
    property: str = option("", "what it predicts, such as gap: a column of the data")
    data: str | None = option(None, "labelled data set (default: that of the base)")
    labels: int = option(0, "labelled samples to learn from; 0 for all of the training part", at_least=0)
    optimiser: dict = option(
        # Slower than from nothing: what the generator knows is not to be forgotten.
        {"name": "muon", "learning_rate": 1e-3, "muon_learning_rate": 5e-3, "warmup_steps": 50, "decay_fraction": 0.6},
        OPTIMISER_HELP,
    )
    steps: int = option(1000, "optimiser steps of the whole run")
    batch_size: int = option(64, "samples a process and step")
    ema_decay: float = option(0.98, "memory of the weight average")
    measure_every: int = option(250, "steps between measurements on held-out samples; 0 for none")
    measure_samples: int = option(512, "held-out samples a measurement")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        if not self.property:
            raise InputError("nothing to predict; give --property, such as --property gap")


class LabelledTask(Protocol):
    """A domain's `Task`, with what the options need beside it."""

    @property
    def task(self) -> Any:
        """See `common.training.task.Task`."""
        ...

    def outcomes(self, name: str) -> tuple[str, Tensor]:
        """The column of that name and its values that may be learnt from; an `InputError` if the data have none."""
        ...


def run_classifier_training(
    options: ClassifierOptions,
    program: str,
    domain: LabelledTask,
    device: str,
) -> dict[str, Any]:
    """Train, measure and write the predictor.

    Args:
        options: checked.
        program: the command, for what is printed.
        domain: the domain's side.
        device: of the run.
    """
    import torch

    from common.diffusion.control import Control
    from common.diffusion.model_file import weights_digest
    from common.guidance.noisy_predictor import begin_noisy_predictor
    from common.training.classifier import train_classifier

    task: Task = domain.task
    base = task.model
    origin = {"base": options.base, "base_hash": weights_digest(base.denoiser)}
    column, outcomes = domain.outcomes(options.property)
    control = Control.of_values(column, outcomes)
    name = options.name or f"{base.description['name']}-classifier-{control.name}"
    torch.manual_seed(options.seed)
    held_out = next(iter(task.data(options.measure_samples, 0, [control.name], "val")(0, 0, 1)))
    predictor, description = begin_noisy_predictor(
        base.description, base.denoiser, control, float(held_out.sizes.double().mean())
    )
    predictor.freeze_unused(held_out.x.shape[-1])
    description = {
        **description,
        "name": name,
        "base": options.base,
        "data": options.data or base.description.get("data"),
    }

    def train_in(directory: Path, config: FitConfig) -> tuple[Mapping[str, Any], FitResult]:
        found, result = train_classifier(
            predictor, base.denoiser.process,
            task.data(options.batch_size, options.seed, [control.name]),
            held_out, directory,
            description=description, labels=len(outcomes), optimiser=options.optimiser_config(),
            fit_config=config, resume=options.resume,
        )  # fmt: skip
        if result.is_first_process and not options.json:
            gains = ", ".join(f"{key[6:]}: {gain:.2f}" for key, gain in found["quality"].items())
            print(f"{name}: nats about held-out {control.name} at time {gains}")
        return found["training"], result

    use = f"{program} generate {options.base} --target {control.name}=... --guidance classifier --classifier"
    return run_training(options, program, "train-classifier", name, train_in, origin, use=use)
