"""Sample quality of a molecule model against network evaluations a sample, and against solvers.

    python benchmarks/quality.py [--model gdb7-xtb] [--evaluations 5,10,25,50,100,200,1000] [--solvers sde-dpm2]
                                 [--num-samples 200] [--seed 0]

It takes minutes: not part of `make bench`.
"""

from __future__ import annotations

import argparse
import time

from common.allocator import tune_allocator
from molgen import load_pretrained
from molgen.chemistry.perception import perceive
from molgen.metrics.stability import stability_metrics
from molgen.metrics.validity import validity_metrics

SHOWN = ("atom_stability", "molecule_stability", "validity", "validity_x_uniqueness")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="gdb7-xtb")
    parser.add_argument("--evaluations", default="5,10,25,50,100,200,1000")
    parser.add_argument("--solvers", default="sde-dpm2")
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tune_allocator()
    model = load_pretrained(options.model)
    print(f"{options.model}, {options.num_samples} samples, seed {options.seed}; in brackets the 95 % interval")
    print(f"{'solver':10s} {'evaluations':>11s} {'samples/s':>10s} " + " ".join(f"{name:>24s}" for name in SHOWN))
    for solver in options.solvers.split(","):
        for evaluations in map(int, options.evaluations.split(",")):
            began = time.perf_counter()
            samples = model.sample(options.num_samples, steps=evaluations, solver=solver, seed=options.seed)
            rate = options.num_samples / (time.perf_counter() - began)
            metrics = {m.name: m for m in (*stability_metrics(samples), *validity_metrics(perceive(samples)))}
            cells = [
                f"{100 * m.value:.1f} % ({100 * m.low:.1f} to {100 * m.high:.1f})" for m in (metrics[n] for n in SHOWN)
            ]
            print(f"{solver:10s} {evaluations:11d} {rate:10.2f} " + " ".join(f"{c:>24s}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
