"""What happens beside the training steps: averaging, checkpoints, progress, measurements."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from common.errors import IncompleteError, InputError
from common.training.module import DiffusionTraining
from common.training.watch import Watch

logger = logging.getLogger(__name__)


class WarmedEMA(WeightAveraging):
    """Exponential moving average whose memory grows with the run until it reaches `decay`.

    A constant decay would keep the initial weights in the average of a short run.
    """

    def __init__(self, decay: float) -> None:
        @torch.no_grad()
        def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
            steps = float(count)
            keep = min(decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(averaged, current, 1 - keep)  # type: ignore[attr-defined]

        super().__init__(multi_avg_fn=average, use_buffers=False)

    @property
    def denoiser(self) -> torch.nn.Module:
        """The averaged denoiser of a running fit."""
        if self._average_model is None:
            raise RuntimeError("the average exists while a fit runs")
        return _training(self._average_model.module).denoiser


class CheckpointKeeper(Callback):
    """Saves `last.ckpt` every few minutes, on Ctrl-C or SIGTERM, and at the end; then stops the run cleanly.

    It saves between optimiser steps, before averaged weights replace the running ones, so the file resumes exactly.

    Args:
        directory: of the checkpoint.
        every_s: seconds between saves.
        max_s: stop, resumable, after this many seconds; None for no limit.

    Attributes:
        interrupted: a signal or the time limit ended the fit before its last step.
    """

    def __init__(self, directory: Path, every_s: float, max_s: float | None = None) -> None:
        self.path = directory / "last.ckpt"
        self.every_s = every_s
        self.max_s = max_s
        self.interrupted = False
        self._signalled = False
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes the signals over from Lightning, whose SIGTERM handler waits for other processes from within a step."""
        module = _training(pl_module)
        if module.steps > module.max_steps:
            raise InputError(
                f"the training stands at step {module.steps}, got {module.max_steps} steps; expected at least as many"
            )
        if module.steps == module.max_steps:
            # Resumed at its end: there is nothing to do, and Lightning would take another step first.
            trainer.should_stop = True
        self._started = self._saved = time.monotonic()
        self._seconds_before = module.seconds
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is time, all processes together."""
        module = _training(pl_module)
        now = time.monotonic()
        module.seconds = self._seconds_before + now - self._started
        out_of_time = self.max_s is not None and now - self._started >= self.max_s
        stop, due = self._signalled or out_of_time, now - self._saved >= self.every_s
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        between_steps = module.between_steps
        done = module.steps >= module.max_steps
        # Measurements come first, and may have ended the run.
        done = done or trainer.should_stop
        if between_steps and (stop or due or done):
            self._refuse_broken(module)
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        if between_steps and (stop or done):
            self.interrupted = stop and not done
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._give_back()

    def _refuse_broken(self, module: DiffusionTraining) -> None:
        """Raise `IncompleteError` where weights are no longer numbers: a checkpoint of them would be worth nothing."""
        weights = [p.detach() for p in module.parameters() if p.requires_grad]
        if weights and not torch.stack([torch.isfinite(weight).all() for weight in weights]).all():
            kept = f"{self.path} is of before; --resume goes on from there" if self.path.exists() else "nothing is kept"
            raise IncompleteError(
                f"the weights are no longer finite at step {module.steps}; expected a smaller --optimiser "
                f"learning_rate ({kept})"
            )

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True
        logger.info("%s: saving after this step (again to give up at once)", signal.Signals(number).name)


class ProgressLines(Callback):
    """A plain line every few seconds: step, loss, throughput, time left."""

    def __init__(self, every_s: float = 15.0) -> None:
        self.every_s = every_s

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock."""
        module = _training(pl_module)
        self._mark = (time.monotonic(), module.steps, module.samples_seen)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints when due, on the first process."""
        module = _training(pl_module)
        then, steps, samples = self._mark
        now = time.monotonic()
        done = module.steps >= module.max_steps and module.steps > steps
        if not trainer.is_global_zero or (now - then < self.every_s and not done):
            return
        rate = (module.steps - steps) / (now - then)
        left_s = (module.max_steps - module.steps) / rate if rate > 0 else float("inf")
        parts = "  ".join(
            f"{name.removeprefix('train/')} {float(value):.4g}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("train/") and "samples" not in name and "factor" not in name
        )
        logger.info(
            "step %d/%d  %s  %.3g samples/s  %s left",
            module.steps, module.max_steps, parts, (module.samples_seen - samples) / (now - then), _duration(left_s),
        )  # fmt: skip
        self._mark = (now, module.steps, module.samples_seen)


# Averaged denoiser -> name -> value; `NAME_error` is the standard error of NAME.
Measure = Callable[[Any], Mapping[str, float]]


class Measurements(Callback):
    """Every few steps, measures the averaged denoiser and logs what comes back under `sample/`.

    Args:
        measure: runs on the first process.
        every_steps: steps between measurements; also before the first one, if there is a watch.
        ema: where the averaged weights are.
        watch: warns when the reward is gained at the cost of something else.
        stop_early: end the run when the watch has warned twice in a row, with the weights of the last good measurement.

    Attributes:
        stopped_early: that has happened.
        best: the weights of the last good measurement, on the CPU.
        best_step: after how many steps they were measured.
    """

    def __init__(
        self,
        measure: Measure,
        every_steps: int,
        ema: WarmedEMA,
        watch: Watch | None = None,
        stop_early: bool = False,
    ) -> None:
        self.measure = measure
        self.every_steps = every_steps
        self.ema = ema
        self.watch = watch
        self.stop_early = stop_early
        self.stopped_early = False
        self.best: dict[str, Tensor] | None = None
        self.best_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measures what training starts from, against which the watch compares."""
        module = _training(pl_module)
        if self.watch is not None and module.steps == 0 and trainer.is_global_zero:
            self._measure(trainer, module, module.denoiser)
        if self.stopped_early:
            # Resumed at its end, see `CheckpointKeeper`.
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures when due."""
        module = _training(pl_module)
        if not module.between_steps or module.steps % self.every_steps:
            return
        warned = trainer.is_global_zero and self._measure(trainer, module, self.ema.denoiser)
        if self.stop_early and trainer.strategy.reduce_boolean_decision(warned, all=False):
            self.stopped_early = True
            trainer.should_stop = True
            logger.warning(
                "step %d: stopped early, after %d warnings in a row; the weights of step %d are kept",
                module.steps, self.watch.patience if self.watch else 0, self.best_step,
            )  # fmt: skip

    def _measure(self, trainer: lightning.Trainer, module: DiffusionTraining, denoiser: torch.nn.Module) -> bool:
        """Measure, log, warn; whether the watch has had enough."""
        denoiser.eval()
        found = {name: float(value) for name, value in self.measure(denoiser).items()}
        values = {f"sample/{name}": value for name, value in found.items()}
        values["sample/seconds"] = module.seconds
        values["sample/samples_seen"] = float(module.samples_seen)
        for run_logger in trainer.loggers:
            run_logger.log_metrics(values, step=module.steps)
        shown = {name: value for name, value in found.items() if not name.endswith("_error")}
        logger.info("step %d  %s", module.steps, "  ".join(f"{k} {v:.4g}" for k, v in shown.items()))
        if self.watch is None:
            return False
        warnings = self.watch.look(found)
        for line in warnings:
            logger.warning("step %d: %s", module.steps, line)
        if not warnings and self.stop_early:
            self.best = {name: value.detach().cpu().clone() for name, value in denoiser.state_dict().items()}
            self.best_step = module.steps
        return self.watch.alarmed

    def state_dict(self) -> dict[str, Any]:
        """What the watch compares with goes into the checkpoint, and the weights that it last found good."""
        if self.watch is None:
            return {}
        ended = {"stopped_early": self.stopped_early, "best_step": self.best_step}
        return {"watch": self.watch.state(), "best": self.best, **ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        if self.watch is not None and "watch" in state_dict:
            self.watch.restore(state_dict["watch"])
            self.best, self.best_step = state_dict.get("best"), state_dict.get("best_step", 0)
            self.stopped_early = state_dict.get("stopped_early", False)


def _training(module: torch.nn.Module) -> DiffusionTraining:
    if not isinstance(module, DiffusionTraining):
        raise TypeError(f"got {type(module).__name__}, expected DiffusionTraining")
    return module


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:d}:{minutes:02d}:{seconds:02d}"
