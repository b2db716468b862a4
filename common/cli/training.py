"""What the verb `train` of both commands shares: its options, and a run of `pretrain` in a run directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions
from common.cli.options import default_of, option
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from common.cli.guidance import LoadModel
    from common.training.fit import FitConfig, FitResult
    from common.training.optimiser import OptimiserConfig
    from common.training.pretrain import BatchConfig, Teacher, TrainableModel

# What may differ when a training is resumed: how long, where and how closely watched, but not what is learnt.
_FREE_ON_RESUME = {"steps", "output_dir", "data_folder", "device", "devices", "checkpoint_minutes", "max_minutes",
                   "log_every", "measure_every", "measure_samples", "overwrite", "workers", "time_limit"}  # fmt: skip

# What a network may learn from: all of the training part, or one half of it.
HALVES = ("all", "a", "b")

OPTIMISER_HELP = "optimiser by name, with learning_rate, weight_decay, warmup_steps, ..."


def check_half(half: str) -> None:
    """Raise `InputError` for what is none of `HALVES`."""
    if half not in HALVES:
        raise InputError(f"got --half '{half}', expected one of {', '.join(HALVES)}")


@dataclass(frozen=True, kw_only=True)
class LongRunOptions(CommonOptions):
    """Options of every verb that trains something in a run directory."""

    data_folder: str = option("data", "folder that holds the named data sets")
    output_dir: str = option("", "run directory (default: runs/NAME)")
    name: str = option("", "name of the model (default: from what it is made of)")
    optimiser: dict = option({"name": "adamw"}, OPTIMISER_HELP)
    steps: int = option(10000, "optimiser steps of the whole run", at_least=1)
    batch_size: int = option(128, "samples a process and step", at_least=1)
    ema_decay: float = option(0.999, "memory of the weight average", at_least=0, at_most=1)
    precision: str = option("auto", "float32, bf16 (autocast), or auto: bf16 where the device has it in hardware")
    device: str = option("auto", "auto, cpu, cuda or mps")
    seed: int = option(0, "seed of initial weights, order, noise and times", at_least=0)
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints", at_least=0)
    max_minutes: float = option(0.0, "stop, resumable, after this many minutes; 0 for no limit", at_least=0)
    log_every: int = option(50, "steps between entries in the logs", at_least=1)
    measure_every: int = option(0, "steps between measurements of sample quality; 0 for none", at_least=0)
    resume: bool = option(False, "go on from the last checkpoint of the run directory")
    overwrite: bool = option(False, "replace an existing run directory")

    def optimiser_config(self) -> OptimiserConfig:
        """The optimiser that the options name; what they leave out of it is the verb's default."""
        from common.named import build
        from common.training.optimiser import OptimiserConfig

        default = default_of(type(self), "optimiser")
        same = self.optimiser.get("name", default["name"]) == default["name"]
        return build(OptimiserConfig, {**default, **self.optimiser} if same else self.optimiser, "optimiser")

    def fit_config(self, device: str) -> FitConfig:
        """What the options say of the whole run, on `device`."""
        from common.training.fit import FitConfig

        return FitConfig(
            max_steps=self.steps, precision=self.precision,
            device=device.split(":")[0], ema_decay=self.ema_decay, seed=self.seed,
            checkpoint_minutes=self.checkpoint_minutes, max_minutes=self.max_minutes,
            measure_every=self.measure_every, log_every=self.log_every,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ParallelRunOptions(LongRunOptions):
    """Options of those that several processes may share, and that are measured on a number of samples."""

    devices: int = option(1, "processes: GPUs, or CPU processes", at_least=1)
    measure_samples: int = option(256, "samples a measurement", at_least=1)

    def fit_config(self, device: str) -> FitConfig:
        """See `LongRunOptions.fit_config`."""
        return replace(super().fit_config(device), devices=self.devices)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ParallelRunOptions):
    """Options of `train` in both domains."""

    schedule: dict = option({"name": "cosine"}, "noise schedule by name, with its settings")
    sampler: dict = option({"steps": 50, "solver": "sde-dpm2"}, "recommended sampler: steps, solver, eta, exponent")
    accumulate: int = option(1, "batches per optimiser step", at_least=1)
    max_weight: float | None = option(None, "ceiling of the loss weight relative to the x0 error", above=0)
    timesteps: int | None = option(
        None, "train on the times i / timesteps (EDM: 1000) instead of all of [0, 1]", at_least=1
    )
    focus: tuple[float, float, float] | None = option(
        None, "[share, location, scale]: draw this share of the times from a logit-normal law"
    )
    init_from: str | None = option(None, "start from the weights of this model (name or folder)")
    teacher: str | None = option(None, "learn the answers of this model (name or folder) on noised data, not the data")
    weaker: str | None = option(None, "guide the teacher away from this weaker model, by autoguidance")
    autoguidance: dict = option({}, "settings of it: scale, active_from, active_to")
    teacher_from: float = option(
        0.0,
        "learn the teacher's answers at times from here to 1, noise, and below them the data",
        at_least=0,
        at_most=1,
    )
    few_steps: bool = option(False, "learn to sample as the teacher does, but in the few steps of --sampler")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        needs = {"weaker": "teacher", "autoguidance": "weaker", "few_steps": "teacher", "teacher_from": "teacher"}
        for name, needed in needs.items():
            if getattr(self, name) and not getattr(self, needed):
                raise InputError(f"got --{name.replace('_', '-')} without --{needed}")
        if self.teacher_from and self.few_steps:
            raise InputError("got --teacher-from with --few-steps, which learns steps at all times; drop one")

    def teacher_facts(self) -> dict[str, Any]:
        """What `model.json` says of the teacher; nothing without one."""
        if self.teacher is None:
            return {}
        guide = {"weaker": self.weaker, **self.autoguidance} if self.weaker else {}
        few = {"few_steps": True} if self.few_steps else {}
        late = {"teacher_from": self.teacher_from} if self.teacher_from else {}
        return {"teacher": {"model": self.teacher, **guide, **few, **late}}

    def load_teacher(self, model: TrainableModel, load: LoadModel) -> Teacher | None:
        """The teacher of a model, on the device of the run; None without one.

        Raises:
            InputError: teacher or weaker model have other states, one with latents, or unusable settings; or
                the model's sampler cannot be learnt for.
        """
        from common.algorithms.distillation import check_latents
        from common.cli.doctor import pick_device
        from common.cli.guidance import denoiser_like
        from common.guidance.autoguidance import Autoguidance
        from common.named import build
        from common.training.pretrain import Teacher

        if self.teacher is None:
            return None
        device = pick_device(self.device)
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        teacher = denoiser_like(model.description, self.teacher, load, device)
        check_latents(teacher)
        if self.weaker is not None:
            weaker = denoiser_like(model.description, self.weaker, load, device)
            teacher = build(Autoguidance, {**self.autoguidance, "weaker": weaker}, "autoguidance")(teacher)
        lesson = Teacher(teacher, self.few_steps, teacher_from=self.teacher_from)
        lesson.check(model)
        return lesson

    def batch_config(self) -> BatchConfig:
        """What the options say of one step."""
        from common.training.pretrain import BatchConfig

        return BatchConfig(self.batch_size, self.max_weight, self.timesteps, self.focus)

    def fit_config(self, device: str) -> FitConfig:
        """See `LongRunOptions.fit_config`."""
        return replace(super().fit_config(device), accumulate=self.accumulate)


@contextmanager
def open_run(options: LongRunOptions, verb: str, name: str, facts: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The run directory, made or found as `--resume` needs it, with what the run starts from written; and the device.

    Args:
        options: checked.
        verb: that trains.
        name: of the model, after which the directory is called by default.
        facts: of the data, for `run.json`.

    Raises:
        InputError: a directory that cannot be used.
    """
    import torch

    from common.cli.doctor import pick_device
    from common.cli.run_directory import RunDirectory

    device, path = pick_device(options.device), Path(options.output_dir or f"runs/{name}")
    # Lightning starts the other processes with the same command; the first one has made the folder by then.
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        yield path, device
        return
    with RunDirectory.begin(path, verb, options) as directory:
        threads = torch.get_num_threads()
        directory.record(options, _FREE_ON_RESUME, device=device, seed=options.seed, torch_threads=threads, **facts)
        yield path, device


def run_training(
    options: ParallelRunOptions,
    program: str,
    verb: str,
    name: str,
    train: Callable[[Path, FitConfig], tuple[Mapping[str, Any], FitResult]],
    facts: Mapping[str, Any],
    hint: str = "",
    use: str | None = None,
) -> dict[str, Any]:
    """Make the run directory, train, say what came of it.

    Args:
        options: checked.
        program: the command, for what is printed.
        verb: of it.
        name: of the model.
        train: (directory, config) -> what `model.json` says of the training, and its result.
        facts: of the data, for `run.json`.
        hint: what else the printed command to generate needs.
        use: that command up to the run directory, where it is not a model that generates.

    Raises:
        InputError: a run directory that cannot be used.
        IncompleteError: stopped before the last step.
    """
    with open_run(options, verb, name, facts) as (path, device):
        training, result = train(path, options.fit_config(device))
    if result.is_first_process and not options.json:
        print(f"{name}: {training['samples_seen']} samples seen in {training['steps']} steps")
        print(f"  model       {path / 'model'}")
        print(f"  generate    {use or f'{program} generate'} {path}{hint}")
    found = {"output_dir": str(path), "name": name, "training": dict(training)}
    if not result.finished:
        raise IncompleteError(f"stopped at step {result.steps} of {options.steps}; go on with --resume", found)
    return found
