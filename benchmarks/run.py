"""Everything that `make bench` prints: matrix rate, training and sampling throughput, share of the rate, peak memory.

    python benchmarks/run.py [--models egnn,transformer] [--seconds 20]

Run it on an idle machine: two busy processes spoil the timings of the threads.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.algorithms.likelihood import Likelihood
from common.allocator import tune_allocator
from common.diffusion import SampleNoise, sample_seeds, size_mask
from common.training.optimiser import OptimiserConfig, build_optimisers
from molgen.data.batches import MoleculeBatches
from molgen.data.gdb7_xtb import load, split
from molgen.model import MoleculeModel
from molgen.train import ModelConfig

MODELS = {
    "egnn": ModelConfig(
        network={"name": "egnn", "hidden_nf": 128, "n_layers": 5},
        parameterisation={"name": "eps"},
        schedule={"name": "polynomial_2"},
        codec={"coordinate_scale": 1.0, "type_scale": 0.25, "number_scale": 0.1},
    ),
    "transformer": ModelConfig(
        network={"name": "transformer", "width": 128, "pair_width": 32, "n_layers": 6, "n_vectors": 8}
    ),
}


def rate(step: Callable[[], float], seconds: float) -> float:
    """Median work a second of `step`, which returns the work it did; after two warm-up calls."""
    for _ in range(2):
        step()
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        start = time.perf_counter()
        work = step()
        rates.append(work / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]


def matrix_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """Floating-point operations a second of a square matrix product."""
    a, b = torch.randn(2, size, size).to(dtype)

    def step() -> float:
        torch.mm(a, b)
        return 2 * size**3

    return rate(step, 1.0)


def bench_model(name: str, config: ModelConfig, batch_size: int, seconds: float, peak: dict[str, float]) -> None:
    """Print one model's rows: a training step and one network evaluation, in float32 and bf16."""
    molecules = load()
    molecules = molecules.select(split(len(molecules))[0])
    torch.manual_seed(0)
    model = MoleculeModel.create(config.describe(name, molecules))
    stream = list(islice(MoleculeBatches(molecules, model.codec, batch_size, seed=0), 8))
    generator = torch.Generator().manual_seed(0)
    algorithm = Likelihood()
    with FlopCounterMode(display=False) as counter:
        algorithm.loss(model.denoiser, stream[0], generator)[0].backward()
    training_flops = counter.get_total_flops() / batch_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        algorithm.loss(model.denoiser, stream[0], generator)
    forward_flops = counter.get_total_flops() / batch_size
    optimisers = build_optimisers(model.denoiser, OptimiserConfig())
    position = 0

    for precision, enabled in (("float32", False), ("bf16", True)):

        def training_step(enabled: bool = enabled) -> float:
            nonlocal position
            batch = stream[position % len(stream)]
            position += 1
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss, _ = algorithm.loss(model.denoiser, batch, generator)
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            return len(batch)

        sizes = torch.from_numpy(model.size_law.draw(0, 0, batch_size)).sort().values
        mask = size_mask(sizes)

        def sampling_step(enabled: bool = enabled, mask: torch.Tensor = mask) -> float:
            noise = SampleNoise(sample_seeds(0, 0, len(mask)))
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                model.sampler.sample(model.denoiser, mask, model.codec.n_channels, noise)
            return len(mask)

        trained = rate(training_step, seconds)
        sampled = rate(sampling_step, seconds)
        share = trained * training_flops / peak[precision]
        sampling_share = sampled * model.sampler.steps * forward_flops / peak[precision]
        print(
            f"{name:12s} {precision:8s} {trained:10.0f} {100 * share:8.0f} % {sampled:12.1f} {model.sampler.steps:6d} "
            f"{100 * sampling_share:8.0f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each figure")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tuned = tune_allocator()
    peak = {"float32": matrix_rate(torch.float32), "bf16": matrix_rate(torch.bfloat16)}
    print(f"threads {options.threads}, allocator {'tuned' if tuned else 'default'}, torch {torch.__version__}")
    print(f"matrix product 1024: float32 {peak['float32'] / 1e9:.0f} GFLOP/s, bf16 {peak['bf16'] / 1e9:.0f} GFLOP/s")
    print(f"\ngdb7-xtb, batch {options.batch_size}; share: of the measured matrix rate of that precision")
    print("model        precision train mol/s      share sample mol/s  steps      share")
    for name in options.models.split(","):
        bench_model(name, MODELS[name], options.batch_size, options.seconds, peak)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
