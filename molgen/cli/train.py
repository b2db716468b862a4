"""`molgen train`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli.app import CommonOptions, Verb
from common.cli.options import option
from common.errors import IncompleteError, InputError

logger = logging.getLogger(__name__)

# What may differ when a training is resumed: how long, where and how closely watched, but not what is learnt.
_FREE_ON_RESUME = {"steps", "output_dir", "data_folder", "device", "devices", "checkpoint_minutes", "max_minutes",
                   "log_every", "measure_every", "measure_samples", "overwrite"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainOptions(CommonOptions):
    """Options of `molgen train`."""

    data: str = option("gdb7-xtb", "data set name or molecule file")
    data_folder: str = option("data", "folder that holds the named data sets")
    max_atoms: int | None = option(None, "leave larger molecules out (number of atoms)")
    output_dir: str = option("", "run directory (default: runs/NAME)")
    name: str = option("", "name of the model (default: DATA-NETWORK)")
    network: dict = option({"name": "transformer"}, "network by name, with its hyper-parameters")
    parameterisation: dict = option({"name": "categorical_types"}, "eps, v, x0 or categorical_types, with settings")
    schedule: dict = option({"name": "cosine"}, "noise schedule by name, with its settings")
    codec: dict = option(
        {"coordinate_scale": 0.75, "type_scale": 1.0}, "coordinate_scale (1/Angstrom), type_scale, number_scale, order"
    )
    sampler: dict = option({"steps": 50, "solver": "sde-dpm2"}, "recommended sampler: steps, solver, eta, exponent")
    optimiser: dict = option(
        {"name": "adamw"}, "optimiser by name, with learning_rate, weight_decay, warmup_steps, ..."
    )
    steps: int = option(10000, "optimiser steps of the whole run")
    batch_size: int = option(128, "molecules a process and step")
    accumulate: int = option(1, "batches per optimiser step")
    max_weight: float | None = option(None, "ceiling of the loss weight relative to the x0 error")
    timesteps: int | None = option(None, "train on the times i / timesteps (EDM: 1000) instead of all of [0, 1]")
    focus: tuple[float, float, float] | None = option(
        None, "[share, location, scale]: draw this share of the times from a logit-normal law"
    )
    ema_decay: float = option(0.999, "memory of the weight average")
    precision: str = option("bf16", "float32 or bf16 (autocast)")
    device: str = option("auto", "auto, cpu, cuda or mps")
    devices: int = option(1, "processes: GPUs, or CPU processes")
    seed: int = option(0, "seed of initial weights, order, noise and times")
    init_from: str | None = option(None, "start from the weights of this model (name or folder)")
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints")
    max_minutes: float = option(0.0, "stop, resumable, after this many minutes; 0 for no limit")
    log_every: int = option(50, "steps between entries in the logs")
    measure_every: int = option(0, "steps between measurements of sample quality; 0 for none")
    measure_samples: int = option(256, "molecules a measurement")
    resume: bool = option(False, "go on from the last checkpoint of the run directory")
    overwrite: bool = option(False, "replace an existing run directory")


def run(options: TrainOptions) -> dict[str, Any]:
    """Train and write the model."""
    import torch

    from common.cli.doctor import pick_device
    from common.cli.run_directory import RunDirectory
    from common.named import build
    from common.training.fit import FitConfig
    from common.training.optimiser import OptimiserConfig
    from molgen.data.sources import load_data, split_data
    from molgen.train import BatchConfig, ModelConfig, new_model, train

    _check(options)
    network = options.network.get("name", "?")
    name = options.name or f"{Path(options.data).stem}-{network}"
    path = Path(options.output_dir or f"runs/{name}")
    # Everything that can be wrong with the request comes before the folder is made.
    optimiser = build(OptimiserConfig, options.optimiser, "optimiser")
    device = pick_device(options.device)
    report = load_data(options.data, data_folder=options.data_folder, max_atoms=options.max_atoms, seed=options.seed)
    molecules = report.molecules.select(split_data(options.data, report.molecules)["train"])
    facts = {"data": options.data, "data_hash": molecules.digest(), "task": "unconditional"}
    model = new_model(
        molecules,
        ModelConfig(options.network, options.parameterisation, options.schedule, options.codec, options.sampler),
        name=name,
        seed=options.seed,
        facts=facts,
        init_from=options.init_from,
    )
    # Lightning starts the other processes with the same command; the first one has made the folder by then.
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        directory = RunDirectory.create(path, overwrite=options.overwrite, resume=options.resume)
        if options.resume:
            directory.check_same(options, _FREE_ON_RESUME)
        directory.write_config(options)
        directory.write_provenance(
            device=device, seed=options.seed, training_data=options.data, data_hash=facts["data_hash"],
            torch_threads=torch.get_num_threads(),
        )  # fmt: skip
    result = train(
        model,
        molecules,
        path,
        batch_config=BatchConfig(options.batch_size, options.max_weight, options.timesteps, options.focus),
        optimiser=optimiser,
        fit_config=FitConfig(
            max_steps=options.steps, accumulate=options.accumulate, precision=options.precision,
            devices=options.devices, device=device.split(":")[0], ema_decay=options.ema_decay, seed=options.seed,
            checkpoint_minutes=options.checkpoint_minutes, max_minutes=options.max_minutes,
            measure_every=options.measure_every, log_every=options.log_every,
        ),
        resume=options.resume,
        measure_samples=options.measure_samples,
    )  # fmt: skip
    training = dict(model.description["training"])
    if result.is_first_process and not options.json:
        print(f"{name}: {training['samples_seen']} molecules seen in {training['steps']} steps")
        print(f"  model       {path / 'model'}")
        print(f"  generate    molgen generate {path}")
    if not result.finished:
        raise IncompleteError(f"stopped at step {result.steps} of {options.steps}; go on with --resume")
    return {"output_dir": str(path), "name": name, "training": training}


def _check(options: TrainOptions) -> None:
    for name in ("steps", "batch_size", "accumulate", "devices"):
        if getattr(options, name) < 1:
            raise InputError(f"got --{name.replace('_', '-')} {getattr(options, name)}, expected at least 1")


VERB = Verb("train", "train a model on molecules", TrainOptions, run)
