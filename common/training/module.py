"""`DiffusionTraining`: the one Lightning module. What is trained, on what and how, are its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning
import numpy as np
import torch

from common.algorithms.likelihood import Likelihood
from common.diffusion import Denoiser, State
from common.training.optimiser import OptimiserConfig, build_optimisers

# (first step, rank, world size) -> endless batches of clean states.
BatchSource = Callable[[int, int, int], Iterable[State]]


class DiffusionTraining(lightning.LightningModule):
    """Trains a denoiser with an algorithm.

    Batch k and every random number of it are functions of (seed, k, rank), so that a resumed run continues bit for
    bit.

    Args:
        denoiser: the model.
        algorithm: batch -> loss.
        optimiser: see `OptimiserConfig`.
        batches: where the clean states come from.
        max_steps: optimiser steps of the whole run; the learning-rate schedule is laid over them.
        accumulate: batches per optimiser step.
        seed: of the noise and the times.

    Attributes:
        steps: optimiser steps taken.
        samples_seen: clean states seen, by all processes together.
        seconds: time spent in training steps, over all resumptions.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        algorithm: Likelihood,
        optimiser: OptimiserConfig,
        batches: BatchSource,
        *,
        max_steps: int,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.algorithm = algorithm
        self.optimiser = optimiser
        self.batches = batches
        self.max_steps = max_steps
        self.accumulate = accumulate
        self.seed = seed
        # Muon and AdamW step together, which Lightning leaves to the module.
        self.automatic_optimization = False
        self.steps = 0
        self.samples_seen = 0
        self.seconds = 0.0
        self._micro_steps = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """See `OptimiserConfig`."""
        return build_optimisers(self.denoiser, self.optimiser)

    def train_dataloader(self) -> Iterable[State]:
        """Batches from where the run stands: Lightning asks after it has restored a checkpoint."""
        return self.batches(self.steps * self.accumulate, self.trainer.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(self, batch: State, device: torch.device, dataloader_idx: int) -> State:
        """States know how to move."""
        return batch.to(device)

    def training_step(self, batch: State, batch_idx: int) -> None:
        """One forward and backward pass; the optimisers step every `accumulate` batches."""
        entropy = np.random.SeedSequence([self.seed, self._batch_number, self.trainer.global_rank])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        loss, parts = self.algorithm.loss(self.denoiser, batch, generator)
        # Lightning runs this method under autocast, where a backward pass would put products in bf16 that the forward
        # pass kept in float32 on purpose; gradients then explode.
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss / self.accumulate)
        self.samples_seen += len(batch) * self.trainer.world_size
        self._micro_steps += 1
        self.log_dict({"train/loss": loss.detach(), **{f"train/{name}": value for name, value in parts.items()}})
        if self._micro_steps == self.accumulate:
            self._update()

    def on_fit_start(self) -> None:
        """A checkpoint falls between optimiser steps, so gradients never need to be saved."""
        self._micro_steps = 0

    @property
    def between_steps(self) -> bool:
        """Whether the last batch ended an optimiser step."""
        return self._micro_steps == 0

    @property
    def _batch_number(self) -> int:
        return self.steps * self.accumulate + self._micro_steps

    def _update(self) -> None:
        factor = self.optimiser.factor(self.steps, self.max_steps)
        if self.optimiser.gradient_clip > 0:
            norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.optimiser.gradient_clip)
            self.log("train/gradient_norm", norm)
        optimisers = self.optimizers()
        for optimiser in optimisers if isinstance(optimisers, list) else [optimisers]:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("full_lr", group["lr"]) * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        self._micro_steps = 0
        self.log_dict({"train/samples_seen": float(self.samples_seen), "train/learning_rate_factor": factor})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counts go with the weights."""
        checkpoint["progress"] = {"steps": self.steps, "samples_seen": self.samples_seen, "seconds": self.seconds}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        for name, value in checkpoint["progress"].items():
            setattr(self, name, value)
