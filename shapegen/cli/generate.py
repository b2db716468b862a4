"""`shapegen generate`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.cli.app import Verb
from common.cli.generation import (
    Asked,
    GenerationOptions,
    Made,
    check_complete,
    check_inputs,
    generation_facts,
    guided,
    open_generation,
    read_targets,
    sample_in_parts,
)
from common.cli.guidance import classifier_weight, weaker_denoiser
from common.cli.options import option
from common.errors import InputError

if TYPE_CHECKING:
    from common.cli.run_directory import RunDirectory
    from common.guidance import GuidedSampler
    from shapegen.data.shapes import ShapeSet
    from shapegen.model import ShapeModel

logger = logging.getLogger(__name__)

# Samples between two saves.
_PART = 64


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """Options of `shapegen generate`."""

    points: int = option(2048, "points a shape; any number, also beyond that of training", at_least=1)
    target: list[str] = option(
        [],
        "what shapes are asked for, may be repeated: class=NAME, or height_m=0.2 for a model with that control input",
    )
    batch_size: int = option(32, "samples at a time")
    pictures: int = option(40, "shapes in the contact sheet; 0 for no picture", at_least=0)


def run(options: GenerateOptions) -> dict[str, Any]:
    """Generate, write, summarise."""
    from common.allocator import tune_allocator
    from common.cli.doctor import pick_device
    from shapegen.data.shapes import ShapeSet
    from shapegen.models import NETWORKS
    from shapegen.pretrained import STORE, load_pretrained
    from shapegen.results import draw_samples, write_samples
    from shapegen.rewards.reward import ShapeReward

    tune_allocator()
    device = pick_device(options.device)
    model = load_pretrained(options.model, device)
    class_name, asked = wanted(options, model)
    check_inputs(model.controls, asked.inputs)
    sampler = options.adjusted(model.sampler)
    rewarded = asked.rewards and any(method.needs_reward for method in options.guidance_methods())
    reward = ShapeReward(model.codec, asked.rewards, workers=options.workers) if rewarded else None
    log_weight = classifier_weight(options, model, NETWORKS, asked.values)
    weaker = weaker_denoiser(options, model, load_pretrained)
    with open_generation(options, model, model.denoiser, STORE.find(options.model)) as directory:
        with guided(options, sampler, model.denoiser, reward, log_weight, weaker) as guide:
            made = _sample(options, model, class_name, asked.inputs, guide, directory)
        shapes = ShapeSet.concatenate(made.parts)
        # A run that was longer before keeps its parts; this one shows what it was asked for.
        shapes = shapes.select(range(min(len(shapes), options.num_samples)))
        facts = generation_facts(options, sampler, guide, made, len(shapes))
        write_samples(directory.path, shapes, device)
        write_json(directory / "metrics.json", facts)
        if options.pictures > 0:
            draw_samples(directory / "samples.png", shapes, options.pictures)
    if not options.json:
        _summarise(directory, shapes, facts["generation"]["seconds"])
    result = {"output_dir": str(directory.path), **facts}
    check_complete(options, result, "shapes")
    return result


def wanted(options: GenerateOptions, model: ShapeModel) -> tuple[str | None, Asked]:
    """The class (None where none was asked for), and what else `--target` asks for.

    Raises:
        InputError: the model has no such class or control, and nothing guides it there.
    """
    from common.rewards.quantity import Quantity
    from shapegen.rewards.table import find_scorer

    names = model.class_names
    label = Quantity(name="class", description="kind of shape", categories=names)

    def find(name: str, argument: str | None) -> Quantity:
        if name != "class":
            return find_scorer(name, argument)
        if not names:
            raise InputError("got --target class=..., but this model has no classes")
        return label

    asked = read_targets(options, [*(["class"] if names else []), *(one.name for one in model.controls)], find)
    index = asked.inputs.pop("class", None)
    return None if index is None else names[int(index)], asked


def _sample(
    options: GenerateOptions,
    model: ShapeModel,
    class_name: str | None,
    targets: dict[str, float],
    guide: GuidedSampler | None,
    directory: RunDirectory,
) -> Made[ShapeSet]:
    """The samples, or those that were made before Ctrl-C."""
    from shapegen.data.shapes import ShapeSet

    def make(start: int, count: int, progress: Callable[[int], None]) -> ShapeSet:
        return model.sample(
            count, points=options.points, class_name=class_name, targets=targets, strength=options.strength,
            sampler=guide or options.adjusted(model.sampler), seed=options.seed, start=start,
            batch_size=max(1, options.batch_size // (guide.particles if guide is not None else 1)),
            precision=options.precision, progress=progress,
        )  # fmt: skip

    return sample_in_parts(
        directory / "parts", options.num_samples, _PART,
        # Unchecked: what is not finite is a failed sample, and no reason to stop.
        make=make, save=lambda part, path: part.save(path), load=lambda path: ShapeSet.load(path, memory_map=True),
        guide=guide,
    )  # fmt: skip


def _summarise(directory: RunDirectory, shapes: ShapeSet, seconds: float) -> None:
    print(f"{len(shapes)} shapes of {shapes.num_points} points in {seconds:.1f} s")
    counts = ", ".join(f"{count} {name}" for name, count in shapes.class_counts.items() if count)
    print(f"  {counts}")
    for file in ("samples", "samples.npz", "samples.csv", "samples.png"):
        if (directory / file).exists():
            print(f"  {directory / file}")


VERB = Verb("generate", "generate shapes", GenerateOptions, run)
