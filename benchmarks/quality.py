"""Sample quality of a molecule model against network evaluations a sample, and against solvers.

    python benchmarks/quality.py [--model gdb7-xtb] [--evaluations 5,10,25,50,100,200,1000] [--solvers sde-dpm2]
                                 [--exponents 1] [--num-samples 200] [--seed 0]

It takes minutes: not part of `make bench`.
"""

from __future__ import annotations

import argparse
import itertools
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
    parser.add_argument("--exponents", default="1", help="above 1: more of the steps near the data")
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tune_allocator()
    model = load_pretrained(options.model)
    print(f"{options.model}, {options.num_samples} samples, seed {options.seed}; in brackets the 95 % interval")
    heads = f"{'solver':10s} {'exponent':>8s} {'evaluations':>11s} {'samples/s':>10s} "
    print(heads + " ".join(f"{name:>24s}" for name in SHOWN))
    solvers, exponents = options.solvers.split(","), map(float, options.exponents.split(","))
    evaluations = map(int, options.evaluations.split(","))
    for solver, exponent, steps in itertools.product(solvers, exponents, evaluations):
        began = time.perf_counter()
        samples = model.sample(options.num_samples, steps=steps, solver=solver, exponent=exponent, seed=options.seed)
        rate = options.num_samples / (time.perf_counter() - began)
        metrics = {m.name: m for m in (*stability_metrics(samples), *validity_metrics(perceive(samples)))}
        cells = [
            f"{100 * m.value:.1f} % ({100 * m.low:.1f} to {100 * m.high:.1f})" for m in (metrics[n] for n in SHOWN)
        ]
        row = f"{solver:10s} {exponent:8g} {steps:11d} {rate:10.2f} "
        print(row + " ".join(f"{c:>24s}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
