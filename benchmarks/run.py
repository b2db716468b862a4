"""Everything that `make bench` prints: matrix rate, training and sampling throughput, share of the rate, peak memory.

    python benchmarks/run.py [--models egnn,transformer,set_transformer,pointwise] [--points 512,2048] [--seconds 15]
                             [--cpu-seconds] [--profile]

The floor for shapes is `pointwise`, the network of arXiv 2103.01458 at its T = 100. Run it on an idle machine: two busy
processes spoil the timings of the threads.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.algorithms.latent_pretraining import pretraining
from common.algorithms.likelihood import Likelihood
from common.allocator import tune_allocator
from common.diffusion import Denoiser, SampleNoise, Sampler, State, sample_seeds, size_mask
from common.diffusion.control import ControlledDenoiser
from common.precision import autocast, native_bf16
from common.training.optimiser import OptimiserConfig, build_optimisers
from molgen.data import gdb7_xtb
from molgen.data.batches import MoleculeBatches
from molgen.model import MoleculeModel
from molgen.train import ModelConfig as MoleculeConfig
from shapegen.data.batches import ShapeBatches
from shapegen.data.procedural import procedural
from shapegen.model import ShapeModel, one_hot
from shapegen.train import ModelConfig as ShapeConfig

MOLECULE_MODELS = {
    "egnn": MoleculeConfig(
        network={"name": "egnn", "hidden_nf": 128, "n_layers": 5},
        parameterisation={"name": "eps"},
        schedule={"name": "polynomial_2"},
        codec={"coordinate_scale": 1.0, "type_scale": 0.25, "number_scale": 0.1},
    ),
    "transformer": MoleculeConfig(
        network={"name": "transformer", "width": 128, "pair_width": 32, "n_layers": 6, "n_vectors": 8}
    ),
}
SHAPE_MODELS = {
    "set_transformer": ShapeConfig(
        network={"name": "set_transformer", "point_width": 96, "n_blocks": 3, "n_thinking": 2}
    ),
    "pointwise": ShapeConfig(
        network={"name": "pointwise"},
        parameterisation={"name": "eps"},
        schedule={"name": "linear_beta", "timesteps": 100},
        sampler={"steps": 100, "solver": "ancestral"},
    ),
}
CPU = torch.device("cpu")
# Different batches that training steps take in turns.
BATCHES = 4
# What the operators of a training step do; an operator belongs to the first kind that has its name.
KINDS = {
    "matrix products": r"mm|bmm|addmm|baddbmm|mv|addmv|dot|mkldnn_\w+|linear|einsum",
    "attention, softmax": r"_scaled_dot_product\w*|_?softmax\w*|_softmax_backward_data|_flash_attention\w*",
    "activations, normalisation": r"(silu|relu|gelu|sigmoid|tanh|exp|log1p|native_layer_norm)(_backward)?",
    "copies, casts, new memory": r"copy_|_?to_copy|to|clone|contiguous|cat|fill_|zero_|(empty|new|zeros|ones)\w*",
    "gathers, scatters": r"index\w*|gather|scatter\w*|embedding\w*|masked_\w+|where",
    "element-wise, sums": r"(add|sub|mul|div|neg|rsqrt|lerp|addcmul|addcdiv)_?|pow|square|sqrt|clamp\w*|sum|mean|all",
}


@dataclass(frozen=True)
class Subject:
    """A model under test, untrained: speed does not ask for weights.

    Attributes:
        name: of its rows.
        denoiser: the model.
        sampler: how it is sampled.
        batches: clean states, taken in turns.
        asked: what is sampled: mask and condition; of x, only the channels count.
    """

    name: str
    denoiser: Denoiser | ControlledDenoiser
    sampler: Sampler
    batches: Sequence[State]
    asked: State


def molecule_subject(name: str, batch_size: int) -> Subject:
    """A network on the embedded molecules."""
    molecules = gdb7_xtb.load()
    molecules = molecules.select(gdb7_xtb.split(len(molecules))[0])
    model = MoleculeModel.create(MOLECULE_MODELS[name].describe(name, molecules))
    batches = list(islice(MoleculeBatches(molecules, model.codec, batch_size, seed=0), BATCHES))
    mask = size_mask(torch.from_numpy(model.size_law.draw(0, 0, batch_size)).sort().values)
    asked = State(torch.zeros(*mask.shape, model.codec.n_channels), mask)
    return Subject(name, model.denoiser, model.sampler, batches, asked)


def shape_subject(name: str, points: int, batch_size: int) -> Subject:
    """A network on procedural shapes of `points` points, told their class."""
    shapes = procedural(4, points=points, normals=False)
    model = ShapeModel.create(SHAPE_MODELS[name].describe(name, shapes))
    labels = {"context": one_hot(shapes.class_index, len(model.class_law)).numpy()}
    batches = ShapeBatches(shapes, model.codec, batch_size, points, seed=0, condition=labels)
    mask = torch.ones(batch_size, points, dtype=torch.bool)
    condition = model.condition(shapes.class_index.repeat(batch_size)[:batch_size])
    asked = State(torch.zeros(batch_size, points, model.codec.n_channels), mask, condition)
    return Subject(f"{name} {points}", model.denoiser, model.sampler, list(islice(batches, BATCHES)), asked)


def rate(step: Callable[[], float], seconds: float, clock: Callable[[], float]) -> float:
    """Median work a second of `step`, which returns the work it did; after two warm-up calls."""
    for _ in range(2):
        step()
    rates, end = [], clock() + seconds
    while clock() < end or len(rates) < 3:
        start = clock()
        work = step()
        rates.append(work / (clock() - start))
    return sorted(rates)[len(rates) // 2]


def matrix_rate(dtype: torch.dtype, clock: Callable[[], float], size: int = 1024) -> float:
    """Floating-point operations a second of a square matrix product."""
    a, b = torch.randn(2, size, size).to(dtype)

    def step() -> float:
        torch.mm(a, b)
        return 2 * size**3

    return rate(step, 1.0, clock)


def profile(step: Callable[[], float], steps: int = 8) -> dict[str, float]:
    """Share of the time of `step` that each of `KINDS` takes, largest first."""
    for _ in range(3):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        for _ in range(steps):
            step()
    found = dict.fromkeys([*KINDS, "Python, autograd, the rest"], 0.0)
    for event in record.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in KINDS.items() if re.fullmatch(names, name)), "Python, autograd, the rest")
        found[kind] += event.self_cpu_time_total
    total = sum(found.values())
    return {kind: spent / total for kind, spent in sorted(found.items(), key=lambda one: -one[1])}


def bench(
    subject: Subject, seconds: float, peak: Mapping[str, float], clock: Callable[[], float], profiled: bool = False
) -> None:
    """Print a row for each precision of `peak`: training steps, and whole samples; with the profile of steps, if so."""
    denoiser, sampler, asked = subject.denoiser, subject.sampler, subject.asked
    algorithm = pretraining(denoiser.network, Likelihood())
    generator = torch.Generator().manual_seed(0)

    def loss(batch: State) -> Tensor:
        experience = algorithm.collect(denoiser, denoiser, None, batch, SampleNoise([]), generator)
        return algorithm.loss(denoiser, denoiser, experience)[0]

    with FlopCounterMode(display=False) as counter:
        loss(subject.batches[0]).backward()
    training_flops = counter.get_total_flops() / len(subject.batches[0])
    with FlopCounterMode(display=False) as counter:
        denoiser(asked, torch.full((len(asked),), 0.5))
    sampling_flops = sampler.steps * counter.get_total_flops() / len(asked)
    optimisers = build_optimisers(denoiser, OptimiserConfig())
    turns = cycle(subject.batches)

    for precision in peak:

        def training_step(precision: str = precision) -> float:
            batch = next(turns)
            with autocast(CPU, precision):
                value = loss(batch)
            value.backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            return len(batch)

        def sampling_step(precision: str = precision) -> float:
            noise = SampleNoise(sample_seeds(0, 0, len(asked)))
            with autocast(CPU, precision):
                sampler.sample(denoiser, asked.mask, asked.x.shape[-1], noise, asked.condition)
            return len(asked)

        trained, sampled = (rate(step, seconds, clock) for step in (training_step, sampling_step))
        shares = [100 * trained * training_flops / peak[precision], 100 * sampled * sampling_flops / peak[precision]]
        print(
            f"{subject.name:21s} {precision:9s} {trained:9.1f} {shares[0]:7.0f} % "
            f"{sampled:10.2f} {sampler.steps:6d} {shares[1]:7.0f} %",
            flush=True,
        )
        if profiled:
            for kind, share in profile(training_step).items():
                print(f"    {100 * share:5.1f} % of a training step  {kind}", flush=True)


def print_head(title: str, unit: str) -> None:
    """Title and columns of a table."""
    print(f"\n{title}; share: of the measured matrix rate of that precision")
    columns = f"{'model':21s} {'precision':9s} {'train ' + unit:>9s} {'share':>9s} {'sample':>10s} {'steps':>6s}"
    print(f"{columns} {'share':>9s}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join([*MOLECULE_MODELS, *SHAPE_MODELS]))
    parser.add_argument("--batch-size", type=int, default=128, help="molecules")
    parser.add_argument("--shape-batch-size", type=int, default=8, help="shapes")
    parser.add_argument("--points", default="512,2048", help="points of a shape")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each figure")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="one thread, timed by its CPU seconds: for a busy machine"
    )
    parser.add_argument("--profile", action="store_true", help="say what training steps spend their time on")
    options = parser.parse_args()
    wanted = options.models.split(",")
    unknown = [name for name in wanted if name not in MOLECULE_MODELS and name not in SHAPE_MODELS]
    if unknown:
        parser.error(f"got model '{unknown[0]}', expected one of {', '.join([*MOLECULE_MODELS, *SHAPE_MODELS])}")
    threads = 1 if options.cpu_seconds else options.threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tuned = tune_allocator()
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    peak = {"float32": matrix_rate(torch.float32, clock)}
    if native_bf16(CPU):
        peak["bf16"] = matrix_rate(torch.bfloat16, clock)
    print(f"threads {threads}, allocator {'tuned' if tuned else 'default'}, torch {torch.__version__}")
    print("matrix product 1024: " + ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peak.items()))
    if "bf16" not in peak:
        print("bf16 rows left out: this processor has no bf16 arithmetic, and emulates it some twenty times slower")

    settings = (options.seconds, peak, clock, options.profile)
    molecules = [name for name in wanted if name in MOLECULE_MODELS]
    if molecules:
        print_head(f"gdb7-xtb, batch {options.batch_size}", "mol/s")
    for name in molecules:
        bench(molecule_subject(name, options.batch_size), *settings)
    shapes = [name for name in wanted if name in SHAPE_MODELS]
    if shapes:
        print_head(f"procedural shapes by their points, batch {options.shape_batch_size}", "1/s")
    for points in options.points.split(",") if shapes else []:
        for name in shapes:
            bench(shape_subject(name, int(points), options.shape_batch_size), *settings)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
