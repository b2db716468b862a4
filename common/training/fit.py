"""`fit`: one training run in a run directory, on one device or several processes, resumable."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from common.algorithms.algorithm import Algorithm
from common.algorithms.experience import Cost
from common.allocator import tune_allocator
from common.errors import InputError
from common.precision import PRECISIONS, pick_precision
from common.training.callbacks import CheckpointKeeper, Measure, Measurements, ProgressLines, WarmedEMA
from common.training.module import BatchSource, DiffusionTraining, Guide, Pieces
from common.training.optimiser import OptimiserConfig
from common.training.watch import Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitConfig:
    """How a run is carried out.

    Attributes:
        max_steps: optimiser steps of the whole run.
        accumulate: batches per optimiser step.
        precision: `float32`, `bf16` (autocast; weights stay float32), or `auto`: bf16 where it is native.
        devices: processes, one a GPU, or this many on the CPU.
        device: `auto`, `cpu`, `cuda` or `mps`.
        ema_decay: memory of the weight average, reached after about ten times 1 / (1 - decay) steps.
        seed: of noise and times.
        checkpoint_minutes: between checkpoints.
        max_minutes: stop after that time, resumable; 0 for no limit.
        measure_every: optimiser steps between measurements; 0 for none.
        log_every: optimiser steps between log entries.
    """

    max_steps: int
    accumulate: int = 1
    precision: str = "auto"
    devices: int = 1
    device: str = "auto"
    ema_decay: float = 0.999
    seed: int = 0
    checkpoint_minutes: float = 5.0
    max_minutes: float = 0.0
    measure_every: int = 0
    log_every: int = 50


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves: the averaged denoiser, and how far it came.

    Attributes:
        denoiser: with averaged weights.
        steps: optimiser steps taken.
        samples_seen: clean states seen.
        seconds: spent in training, over all resumptions.
        finished: whether the run reached its last step, or was stopped early by its watch.
        is_first_process: whether this process should write results.
        cost: reward calls and network evaluations of collecting experience.
        stopped_early: see `Measurements`; then the weights are those of its last good measurement.
    """

    denoiser: nn.Module
    steps: int
    samples_seen: int
    seconds: float
    finished: bool
    is_first_process: bool
    cost: Cost
    stopped_early: bool = False

    def facts(self) -> dict[str, Any]:
        """How far it came, as `model.json` says it under `training`; seconds of wall time."""
        return {
            "steps": self.steps,
            "samples_seen": self.samples_seen,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
        }


def fit(
    denoiser: nn.Module,
    algorithm: Algorithm,
    optimiser: OptimiserConfig,
    batches: BatchSource,
    config: FitConfig,
    directory: Path,
    *,
    resume: bool = False,
    measure: Measure | None = None,
    guide: Guide | None = None,
    pieces: Pieces = Pieces(),  # noqa: B008 (frozen)
    watch: Watch | None = None,
    stop_early: bool = False,
) -> FitResult:
    """Train; logs go to `directory/logs`, the resumable state to `directory/checkpoints/last.ckpt`.

    Args:
        denoiser: what is trained.
        algorithm: how.
        optimiser: see there.
        batches: (start, rank, world_size) -> endless batches.
        config: see there.
        directory: of the run.
        resume: go on from the checkpoint, if the run came as far as one.
        measure: averaged denoiser -> name -> value, every `config.measure_every` steps.
        guide: reference and reward of a fine-tuning run.
        pieces: how an experience is gone through.
        watch, stop_early: see `Measurements`.

    Raises:
        InputError: unusable options.
    """
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    precision = pick_precision(config.precision, device)
    tune_allocator()
    module = DiffusionTraining(
        denoiser, algorithm, optimiser, batches,
        max_steps=config.max_steps, accumulate=config.accumulate, seed=config.seed, guide=guide, pieces=pieces,
    )  # fmt: skip
    ema = WarmedEMA(config.ema_decay)
    keeper = CheckpointKeeper(
        directory / "checkpoints",
        every_s=60 * config.checkpoint_minutes,
        max_s=60 * config.max_minutes if config.max_minutes > 0 else None,
    )
    if resume and not keeper.path.exists():
        logger.info("no checkpoint yet: starting at the beginning")
        resume = False
    if resume:
        _check_readable(keeper.path)
    on_terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [ema, RichProgressBar() if on_terminal else ProgressLines(), keeper]
    measurements = None
    if measure is not None and config.measure_every > 0:
        measurements = Measurements(measure, config.measure_every, ema, watch, stop_early)
        callbacks.insert(1, measurements)
    _quiet_lightning()
    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(config.device, config.device),
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        max_epochs=1,
        logger=[
            # A resumed run writes a table of its own: logs/csv/version_0, version_1, ...
            CSVLogger(directory / "logs", name="csv", flush_logs_every_n_steps=config.log_every),
            TensorBoardLogger(directory / "logs", name="tensorboard", version=""),
        ],
        log_every_n_steps=config.log_every,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=on_terminal,
        default_root_dir=directory,
    )
    try:
        trainer.fit(module, ckpt_path=keeper.path if resume else None, weights_only=True)
    except SystemExit as error:
        # How Lightning ends when it is interrupted outside of a step, which is not for it to decide.
        raise KeyboardInterrupt from error
    stopped_early = False
    if measurements is not None and measurements.stopped_early:
        stopped_early = True
        module.denoiser.load_state_dict(measurements.best or {}, strict=measurements.best is not None)
    return FitResult(
        denoiser=module.denoiser.eval(),
        steps=module.steps,
        samples_seen=module.samples_seen,
        seconds=module.seconds,
        finished=stopped_early or module.steps >= module.max_steps,
        is_first_process=trainer.is_global_zero,
        cost=module.cost,
        stopped_early=stopped_early,
    )


def learnable_count(module: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _check_readable(checkpoint: Path) -> None:
    """Raise `InputError` for a file that a full disk or a lost machine has left in pieces."""
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{checkpoint} is damaged and cannot be resumed from ({type(error).__name__}); put a copy back, or begin "
            "anew with --overwrite"
        ) from error


def _quiet_lightning() -> None:
    """Silences remarks that are no news to the user of this program."""
    for pattern in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",  # The batches are a function of the step.
        ".*You called `self.log.*batch_size.*",
        ".*Trying to infer the `batch_size`.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*module.s. in eval mode at the start of training.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
