"""Where a shape model errs: the error of its clean estimate by time and class, beside that of one who knows the shape.

    python benchmarks/shape_errors.py [--models procedural] [--times 0.02,0.05,0.1,0.15,0.2,0.3,0.5] [--classes gear]
                                      [--per-class 6] [--points 512] [--stored 40000] [--seed 1]

Errors are mean squares over sigma^2, of procedural shapes of a seed that no training has used. "known" is the mean of
the stored points that may have become each noisy point (`SurfacePosterior`): what is left where all but the place on
the surface is known, so no model can be better. It takes minutes: not part of `make bench`.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from common.allocator import tune_allocator
from common.diffusion import DenoiserFunction, Process, State
from shapegen import load_pretrained
from shapegen.data.batches import ShapeBatches
from shapegen.data.procedural import procedural
from shapegen.model import one_hot
from shapegen.models.surface_posterior import SurfacePosterior

_BATCH = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="procedural", help="names or folders, all with one normalisation")
    parser.add_argument("--times", default="0.02,0.05,0.1,0.15,0.2,0.3,0.5")
    parser.add_argument("--classes", default=None, help="default: all")
    parser.add_argument("--per-class", type=int, default=6)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--stored", type=int, default=40_000, help="points that the surface is known by")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tune_allocator()
    models = {name: load_pretrained(name) for name in options.models.split(",")}
    first = next(iter(models.values()))
    if any((m.codec, m.denoiser.process) != (first.codec, first.denoiser.process) for m in models.values()):
        raise SystemExit("the models have other states than the first of them: compare them one by one")
    classes = options.classes.split(",") if options.classes else None
    shapes = procedural(
        options.per_class, seed=options.seed, points=options.stored, classes=classes, normals=False, labels=False
    )
    index = np.array([first.class_names.index(shapes.class_names[c]) for c in shapes.class_index])
    condition = {"row": np.arange(len(shapes)), "context": one_hot(index, len(first.class_names)).numpy()}
    batches = ShapeBatches(
        shapes, first.codec, len(shapes), options.points, seed=options.seed, condition=condition, surface=True
    )
    batch = next(iter(batches))
    order = shapes.class_index[batch.condition["row"].numpy()]
    answers: dict[str, DenoiserFunction] = {name: model.denoiser for name, model in models.items()}
    answers["known"] = SurfacePosterior(first.denoiser.process)
    print(f"{len(shapes)} shapes of {options.points} points, seed {options.seed}: error of x_0 / sigma^2")
    print(f"{'time':>6s} {'class':10s} " + " ".join(f"{name[-20:]:>20s}" for name in answers))
    for time in map(float, options.times.split(",")):
        errors = {name: errors_at(time, answer, batch, first.denoiser.process) for name, answer in answers.items()}
        rows = {"all": np.ones(len(order), bool)} | {n: order == c for c, n in enumerate(shapes.class_names)}
        for row, where in rows.items():
            cells = " ".join(f"{error[where].mean():20.3f}" for error in errors.values())
            print(f"{time:6g} {row:10s} {cells}", flush=True)


@torch.no_grad()
def errors_at(time: float, answer: DenoiserFunction, batch: State, process: Process) -> np.ndarray:
    """(B,) mean squared error of a clean estimate over sigma^2, with the same noise for every answer."""
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for part in torch.arange(len(batch)).split(_BATCH):
        clean, t = batch.index(part), torch.full((len(part),), time)
        noisy = clean.replace(x=process.corrupt(clean.x, clean.mask, t, noise[part]))
        sigma = process.schedule.alpha_sigma(t)[1]
        errors.append((answer(noisy, t) - clean.x).square().mean(dim=(1, 2)) / sigma**2)
    return torch.cat(errors).numpy()


if __name__ == "__main__":
    main()
