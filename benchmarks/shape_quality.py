"""Quality of shape models against network evaluations and shapes a second, on procedural shapes held out.

    python benchmarks/shape_quality.py procedural:5,8,15,30 runs/pointwise:100 [--per-class 16] [--points 512]
                                       [--seed 0]

MODEL:EVALUATIONS,... asks for rows of a model. As many samples of each class as held-out shapes; 1-NNA, COV and MMD by
Chamfer distance with 95 % intervals, and in the first row the training shapes in the samples' place. The reference that
others have to beat is the pointwise network of arXiv 2103.01458 (`configs/shapegen/pointwise.yaml`) at its 100
evaluations: what counts is the rate of a model where its 1-NNA is as good. It takes minutes: not part of `make bench`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from common.allocator import tune_allocator
from shapegen import load_pretrained
from shapegen.data.procedural import procedural
from shapegen.metrics.generation import matrix_metrics
from shapegen.metrics.torch_distances import chamfer_matrix
from shapegen.model import ShapeModel

SHOWN = ("1nna_cd_percent", "cov_cd_percent", "mmd_cd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL:EVALUATIONS")
    parser.add_argument("--per-class", type=int, default=16)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0, help="of the samples; held-out shapes have seed 1")
    options = parser.parse_args()
    asked = [text.rpartition(":") for text in options.models]
    if not all(name and all(word.isdigit() for word in steps.split(",")) for name, _, steps in asked):
        raise SystemExit(f"got {' '.join(options.models)}, expected such as procedural:10,30")
    tune_allocator()
    held = _clouds(1, options.per_class, options.points)
    within = chamfer_matrix(held, None, "cpu")
    print(f"{len(held)} held-out shapes of {options.points} points, seed {options.seed}; in brackets the 95 % interval")
    print(f"{'model':24s} {'evaluations':>11s} {'shapes/s':>9s} " + " ".join(f"{name:>28s}" for name in SHOWN))
    _row("training shapes", "", "", _clouds(0, options.per_class, options.points), held, within)
    for name, _, evaluations in asked:
        model = load_pretrained(name)
        for steps in map(int, evaluations.split(",")):
            began = time.perf_counter()
            samples = _samples(model, steps, options.per_class, options.points, options.seed)
            rate = len(samples) / (time.perf_counter() - began)
            _row(name[-24:], str(steps), f"{rate:.2f}", samples, held, within)


def _clouds(seed: int, per_class: int, points: int) -> np.ndarray:
    """(M, P, 3) procedural shapes, class by class."""
    return procedural(per_class, seed=seed, points=points, normals=False, labels=False).points


def _samples(model: ShapeModel, steps: int, per_class: int, points: int, seed: int) -> np.ndarray:
    """(M, P, 3) samples, class by class."""
    drawn = [
        model.sample(per_class, points=points, class_name=name, steps=steps, seed=seed, start=place * per_class).points
        for place, name in enumerate(model.class_names)
    ]
    return np.concatenate(drawn)


def _row(name: str, steps: str, rate: str, samples: np.ndarray, held: np.ndarray, within: np.ndarray) -> None:
    between, own = chamfer_matrix(samples, held, "cpu"), chamfer_matrix(samples, None, "cpu")
    metrics = {metric.name: metric for metric in matrix_metrics("cd", own, between, within, "")}
    cells = (f"{m.value:.3g} ({m.low:.3g} to {m.high:.3g})" for m in (metrics[shown] for shown in SHOWN))
    print(f"{name:24s} {steps:>11s} {rate:>9s} " + " ".join(f"{cell:>28s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
