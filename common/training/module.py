"""`DiffusionTraining`: the one Lightning module. What is trained, on what and how, are its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from common.algorithms.algorithm import Algorithm, Policy
from common.algorithms.experience import Cost, Experience
from common.diffusion import DenoiserFunction, State
from common.diffusion.noise import SampleNoise, sample_seeds
from common.errors import IncompleteError
from common.rewards.reward import Explained
from common.training.optimiser import OptimiserConfig, build_optimisers

# (first step, rank, world size) -> endless batches of states: clean ones, or what to generate.
BatchSource = Callable[[int, int, int], Iterable[State]]

# Batches in a row without any sample that could be scored, and updates in a row without a gradient, that end a run.
_PATIENCE = 5
_SKIPPED = 50


@dataclass(frozen=True)
class Guide:
    """What steers a fine-tuning run, beside its algorithm.

    Attributes:
        reference: the frozen denoiser; a module is moved and saved with the rest.
        reward: of clean states.
    """

    reference: DenoiserFunction
    reward: Explained

    def __deepcopy__(self, memo: dict[int, Any]) -> Guide:
        """Itself: a copy of the module, as weight averaging makes one, scores nothing of its own."""
        return self


@dataclass(frozen=True)
class Pieces:
    """How an experience is gone through.

    Attributes:
        minibatch: rows an update; 0 for all at once.
        chunk: rows of one forward and backward pass, which bounds the memory; 0 for all of an update. It changes
            nothing but rounding.
    """

    minibatch: int = 0
    chunk: int = 0


class DiffusionTraining(lightning.LightningModule):
    """Trains a denoiser with an algorithm.

    Batch k and every random number of it are functions of (seed, k, rank), so that a resumed run continues bit for
    bit. An algorithm that collects experience makes several updates from one batch; then a step is a batch.

    Args:
        denoiser: the policy.
        algorithm: batch -> experience -> loss.
        optimiser: see `OptimiserConfig`.
        batches: where the states come from.
        max_steps: steps of the whole run; the learning-rate schedule is laid over them.
        accumulate: batches per step.
        seed: of the noise and the times.
        guide: reference and reward; None for pre-training, which asks neither.
        pieces: see there.

    Attributes:
        steps: steps taken.
        samples_seen: states seen, by all processes together.
        cost: reward calls and network evaluations of collecting, by all processes together.
        skipped: updates left out because their gradient was not finite.
        seconds: time spent in training steps, over all resumptions.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        algorithm: Algorithm,
        optimiser: OptimiserConfig,
        batches: BatchSource,
        *,
        max_steps: int,
        accumulate: int = 1,
        seed: int = 0,
        guide: Guide | None = None,
        pieces: Pieces = Pieces(),
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.algorithm = algorithm
        self.companions = nn.ModuleList(algorithm.trained)
        self.optimiser = optimiser
        self.batches = batches
        self.max_steps = max_steps
        self.accumulate = accumulate
        self.seed = seed
        self.guide = guide
        self.pieces = pieces
        # Registered, so that it moves to the device with the policy.
        self.reference = guide.reference if guide is not None and isinstance(guide.reference, nn.Module) else None
        # Muon and AdamW step together, which Lightning leaves to the module.
        self.automatic_optimization = False
        self.steps = 0
        self.samples_seen = 0
        self.cost = Cost()
        self.skipped = 0
        self.seconds = 0.0
        self._micro_steps = 0
        self._unscored = self._unusable = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """See `OptimiserConfig`."""
        optimisers = build_optimisers(self.denoiser, self.optimiser)
        if len(self.companions):
            optimisers += build_optimisers(self.companions, self.optimiser.for_companions())
        return optimisers

    def train_dataloader(self) -> Iterable[State]:
        """Batches from where the run stands: Lightning asks after it has restored a checkpoint."""
        return self.batches(self.steps * self.accumulate, self.trainer.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(self, batch: State, device: torch.device, dataloader_idx: int) -> State:
        """States know how to move."""
        return batch.to(device)

    def training_step(self, batch: State, batch_idx: int) -> None:
        """Collect, then one or several updates; or, of several batches a step, one part of an update."""
        entropy = np.random.SeedSequence([self.seed, self._batch_number, self.trainer.global_rank])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        experience = self._collect(batch, generator)
        self.samples_seen += len(batch) * self.trainer.world_size
        self._micro_steps += 1
        if self.accumulate > 1:
            self._backward(experience, 1 / self.accumulate)
            if self._micro_steps == self.accumulate:
                self._update()
        else:
            for part in self._minibatches(experience, generator):
                # Processes make as many updates, whoever's rows are all out of reach.
                if len(part) or self.trainer.world_size > 1:
                    self._backward(part, 1.0)
                    self._update()
        if self._micro_steps == self.accumulate:
            self._end_step()

    def _collect(self, batch: State, generator: torch.Generator) -> Experience:
        if self.guide is None:
            nobody: Any = None
            return self.algorithm.collect(self._policy, self._policy, nobody, batch, _no_noise, generator)
        number = self._batch_number * self.trainer.world_size + self.trainer.global_rank
        noise = SampleNoise(sample_seeds(self.seed, number * len(batch), len(batch)))
        self.denoiser.eval()
        with torch.no_grad():
            experience = self.algorithm.collect(
                self._policy, self.guide.reference, self.guide.reward, batch, noise, generator
            )
        self.denoiser.train()
        world = self.trainer.world_size
        self.cost += Cost(experience.cost.reward_calls * world, experience.cost.evaluations * world)
        self._log({**experience.metrics, "reward_calls": float(self.cost.reward_calls)})
        self._unscored = self._unscored + 1 if self._all_say(experience.metrics.get("valid", 1) == 0) else 0
        if self._unscored == _PATIENCE:
            raise IncompleteError(
                f"stopped at step {self.steps}: nothing could be scored in {_PATIENCE} batches, so there is nothing to "
                f"learn from ({self.guide.reward.why()})"
            )
        return experience

    def _all_say(self, answer: Any) -> bool:
        """Whether all processes say so, which have to stop together."""
        if self.trainer.world_size == 1:
            return bool(answer)
        return self.trainer.strategy.reduce_boolean_decision(bool(answer), all=True)

    @property
    def _policy(self) -> Policy:
        return self.denoiser  # type: ignore[return-value]

    def _minibatches(self, experience: Experience, generator: torch.Generator) -> Iterator[Experience]:
        # Counted before rows are left out, so that all processes make as many updates.
        together = self._together(experience)
        size = _multiple(self.pieces.minibatch, together) or len(experience)
        count = -(-len(experience) // size)
        experience = self._in_reach(experience)
        for _ in range(self.algorithm.epochs):
            if count == 1:
                yield experience
            else:
                yield from experience.minibatches(count, generator, together)

    def _in_reach(self, experience: Experience) -> Experience:
        """Without the rows at times at which the policy is the base, whatever its weights."""
        active_from = getattr(self.denoiser, "active_from", 0.0)
        if not active_from or self.algorithm.sampler is None or experience.length > 1:
            return experience
        if experience.length == 1:
            # In the precision in which the policy compares, so that both agree on a time that is just `active_from`.
            t = self.algorithm.sampler.times().to(experience.path)[experience.steps[:, 0]]
        else:
            t = experience.extra["t"]
        return experience.index(t >= active_from)

    def _together(self, experience: Experience) -> int:
        return self.algorithm.rows_together or len(experience)

    def _backward(self, part: Experience, share: float) -> None:
        size = _multiple(self.pieces.chunk, self._together(part)) or len(part)
        reference = self._policy if self.guide is None else self.guide.reference
        sums: dict[str, Tensor] = {}
        if not len(part):
            self.manual_backward(self._nothing_to_learn())
            return
        firsts = range(0, len(part), size)
        for first in firsts:
            piece = part if size >= len(part) else part.index(slice(first, first + size))
            fraction = len(piece) / len(part)
            # Of several backward passes, processes exchange gradients in the last.
            last = first == firsts[-1]
            with nullcontext() if last else self._unsynchronised():
                loss, parts = self.algorithm.loss(self._policy, reference, piece)
                if not loss.requires_grad:
                    # Rows that ask for nothing are answered by the frozen base.
                    loss = loss + self._nothing_to_learn()
                # Lightning runs this method under autocast, where a backward pass would put products in bf16 that the
                # forward pass kept in float32 on purpose; gradients then explode.
                with torch.autocast(self.device.type, enabled=False):
                    self.manual_backward(loss * (share * fraction))
            for name, value in {"loss": loss.detach(), **parts}.items():
                sums[name] = sums.get(name, 0.0) + fraction * value
        self._log(sums)

    def _nothing_to_learn(self) -> Tensor:
        """A zero with a graph: other processes wait for this one's gradients, whatever they are."""
        trained = [p for p in (*self.denoiser.parameters(), *self.companions.parameters()) if p.requires_grad]
        return torch.stack([0.0 * p.sum() for p in trained]).sum()

    def _unsynchronised(self) -> Any:
        wrapped = self.trainer.strategy.model
        return wrapped.no_sync() if hasattr(wrapped, "no_sync") else nullcontext()  # type: ignore[union-attr]

    def _log(self, values: dict[str, Any]) -> None:
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def on_fit_start(self) -> None:
        """A checkpoint falls between steps, so gradients never need to be saved."""
        self._micro_steps = 0

    @property
    def between_steps(self) -> bool:
        """Whether the last batch ended a step."""
        return self._micro_steps == 0

    @property
    def _batch_number(self) -> int:
        return self.steps * self.accumulate + self._micro_steps

    def _update(self) -> None:
        factor = self.optimiser.factor(self.steps, self.max_steps)
        parameters = [p for p in (*self.denoiser.parameters(), *self.companions.parameters()) if p.grad is not None]
        limit = self.optimiser.gradient_clip if self.optimiser.gradient_clip > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        self.log("train/gradient_norm", norm)
        optimisers = self.optimizers()
        # Pre-training does not wait for the device to know: its weights are looked at where they are saved.
        usable = self.guide is None or bool(torch.isfinite(norm))
        self.skipped += not usable
        self._unusable = 0 if usable else self._unusable + 1
        if self._unusable == _SKIPPED:
            raise IncompleteError(
                f"stopped at step {self.steps}: the gradients of {_SKIPPED} updates in a row were not finite; expected "
                "a smaller --optimiser learning_rate, or rewards without such extremes"
            )
        for optimiser in optimisers if isinstance(optimisers, list) else [optimisers]:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("full_lr", group["lr"]) * factor
            if usable:
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def _end_step(self) -> None:
        factor = self.optimiser.factor(self.steps, self.max_steps)
        self.steps += 1
        self._micro_steps = 0
        self.log_dict({"train/samples_seen": float(self.samples_seen), "train/learning_rate_factor": factor})
        if self.skipped:
            self.log("train/skipped", float(self.skipped))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counts go with the weights."""
        checkpoint["progress"] = {
            "steps": self.steps,
            "samples_seen": self.samples_seen,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "reward_calls": self.cost.reward_calls,
            "evaluations": self.cost.evaluations,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        progress = dict(checkpoint["progress"])
        self.cost = Cost(progress.pop("reward_calls", 0), progress.pop("evaluations", 0))
        for name, value in progress.items():
            setattr(self, name, value)


def _multiple(size: int, together: int) -> int:
    """`size` rounded up to a multiple of `together`; 0 stays 0."""
    return -(-size // together) * together


def _no_noise(mask: Tensor, n_channels: int) -> Tensor:
    raise RuntimeError("pre-training draws its noise itself")
