"""Molecules a second of `molgen.models.egnn` against the plain formulation, forward and training.

    python benchmarks/bench_egnn.py                         # batch 64, hidden 256, 9 layers, sizes as in QM9
    python benchmarks/bench_egnn.py --sizes molecules.npz   # the `num_atoms` of a file

The two are timed in turns and compared pair by pair, so that other work on the machine hits both alike. A training
step is forward, mean squared error, backward and an AdamW step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from egnn_reference import ReferenceEGNN

from common.allocator import tune_allocator
from common.precision import native_bf16
from molgen.models.egnn import EGNN

N_FEATURES = 6


def sizes_like_qm9(n: int, generator: np.random.Generator) -> np.ndarray:
    """Atom counts with QM9's mean 18.0 and standard deviation 3.0, at most 29."""
    return np.clip(np.rint(generator.normal(18.0, 3.0, n)), 5, 29).astype(int)


def make_batch(sizes: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (B, N, 3 + N_FEATURES), t (B,), mask (B, N): noise of the given sizes, padded to the largest."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(int(sizes.max())) < torch.as_tensor(sizes)[:, None]
    x = torch.randn(*mask.shape, 3 + N_FEATURES, generator=generator) * mask[..., None]
    return x, torch.rand(len(sizes), generator=generator), mask


def forward(network: torch.nn.Module, batch: tuple, autocast: bool) -> Callable[[], None]:
    """One evaluation without gradients."""

    def step() -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
            network(*batch)

    return step


def training(network: torch.nn.Module, batch: tuple, autocast: bool) -> Callable[[], None]:
    """One optimiser step."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
            output = network(*batch)
        (output - batch[0]).square().mean().backward()
        optimiser.step()

    return step


def compare(steps: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each step, measured in turns after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            start = clock()
            step()
            seconds[name].append(clock() - start)
    return seconds


def print_table(title: str, seconds: dict[str, list[float]], batch_size: int) -> None:
    """One row a variant; the gain is the median over the rounds of reference time / own time."""
    base = next(iter(seconds.values()))
    print(f"\n{title}\n{'variant':34s} {'mol/s best':>10s} {'mol/s median':>12s} {'gain':>6s} {'best/best':>9s}")
    for name, own in seconds.items():
        gain = statistics.median(b / o for b, o in zip(base, own, strict=True))
        rates = batch_size / min(own), batch_size / statistics.median(own)
        print(f"{name:34s} {rates[0]:10.1f} {rates[1]:12.1f} {gain:6.2f} {min(base) / min(own):9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hidden-nf", type=int, default=256)
    parser.add_argument("--n-layers", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", type=Path, help="npz file with an array `num_atoms`")
    parser.add_argument("--default-allocator", action="store_true", help="leave glibc's malloc as it is")
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="one thread, timed by its CPU seconds: for a busy machine"
    )
    options = parser.parse_args()
    threads = 1 if options.cpu_seconds else options.threads
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    torch.set_num_threads(threads)
    tuned = False if options.default_allocator else tune_allocator()

    generator = np.random.default_rng(0)
    if options.sizes:
        with np.load(options.sizes, allow_pickle=False) as file:
            sizes = generator.choice(file["num_atoms"].astype(int), options.batch_size, replace=False)
    else:
        sizes = sizes_like_qm9(options.batch_size, generator)
    batch = make_batch(sizes, seed=0)
    print(
        f"batch {len(sizes)}, atoms {sizes.mean():.1f} (largest {sizes.max()}), hidden {options.hidden_nf}, "
        f"layers {options.n_layers}, threads {threads}, allocator {'tuned' if tuned else 'default'}"
    )
    arguments = {"n_features": N_FEATURES, "hidden_nf": options.hidden_nf, "n_layers": options.n_layers}
    if not native_bf16("cpu"):
        print("bfloat16 rows left out: this processor has no bf16 arithmetic, and emulates it some twenty times slower")
    for title, make in (("forward", forward), ("training step", training)):
        torch.manual_seed(0)
        steps = {
            "reference float32": make(ReferenceEGNN(**arguments), batch, False),
            "egnn float32": make(EGNN(**arguments), batch, False),
        }
        if native_bf16("cpu"):
            steps["egnn bfloat16 products"] = make(EGNN(**arguments), batch, True)
        print_table(title, compare(steps, options.repeats, clock), len(sizes))


if __name__ == "__main__":
    main()
