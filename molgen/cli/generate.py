"""`molgen generate`."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.generation import (
    FREE_ON_RESUME,
    Asked,
    GenerationOptions,
    generation_facts,
    guided,
    read_targets,
    sample_in_parts,
)
from common.cli.guidance import classifier_weight
from common.cli.options import option
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from common.cli.run_directory import RunDirectory
    from common.guidance import GuidedSampler
    from molgen.data.molecules import MoleculeSet
    from molgen.metrics.report import Evaluation
    from molgen.model import MoleculeModel
    from molgen.rewards.reward import MoleculeReward

logger = logging.getLogger(__name__)

_SUMMARY = ("atom_stability", "molecule_stability", "validity", "validity_x_uniqueness", "novelty", "connectedness")
# Samples between two saves.
_PART = 256
_FREE_ON_RESUME = FREE_ON_RESUME | {"posebusters", "data_folder"}


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """Options of `molgen generate`."""

    num_atoms: int | str | None = option(
        None, "atoms a molecule, hydrogens included: 14, or 10-16 (default: as the data)"
    )
    posebusters: int = option(0, "at most how many samples go through PoseBusters (about a second each)")
    pictures: int = option(24, "valid molecules in the picture grid; 0 for no picture")
    data_folder: str = option("data", "folder of the named data sets, for the comparison with the training data")


def run(options: GenerateOptions) -> dict[str, Any]:
    """Generate, judge, write, summarise."""
    from common.allocator import tune_allocator
    from common.cli.doctor import pick_device
    from common.cli.run_directory import RunDirectory
    from molgen.predictors import NOISY_NETWORKS
    from molgen.pretrained import STORE, load_pretrained
    from molgen.results import judge, write_samples, write_tables
    from molgen.rewards.table import find_scorer

    options.check()
    _num_atoms(options.num_atoms)
    tune_allocator()
    device = pick_device(options.device)
    model = load_pretrained(options.model, device)
    asked = read_targets(options, [control.name for control in model.controls], find_scorer)
    sampler = model.sampler.adjusted(options.steps, options.solver, options.eta)
    reward = _reward(options, asked, model)
    log_weight = classifier_weight(options, model, NOISY_NETWORKS, asked.values)
    name = str(model.description.get("name", Path(options.model).name))
    directory = RunDirectory.create(
        options.output_dir or f"runs/{name}-seed{options.seed}", overwrite=options.overwrite, resume=options.resume
    )
    if options.resume:
        directory.check_same(options, _FREE_ON_RESUME)
    directory.write_config(options)
    directory.write_provenance(
        device=device,
        seed=options.seed,
        model=str(STORE.find(options.model)),
        training_data=model.description.get("data"),
    )
    started = time.monotonic()
    with guided(options, sampler, model.denoiser, reward, log_weight) as guide:
        samples, missing = _sample(options, model, asked.inputs, guide, directory)
    seconds = time.monotonic() - started
    evaluation = judge(
        samples, _reference(options, model), posebusters=options.posebusters, workers=options.workers, seed=options.seed
    )
    write_samples(directory.path, samples, evaluation)
    facts = generation_facts(options, sampler, guide, len(samples), seconds)
    write_tables(directory.path, evaluation, facts)
    if options.pictures > 0:
        _draw(directory.path / "samples.png", evaluation, options.pictures)
    if not options.json:
        _summarise(directory, evaluation, seconds)
    if missing and not options.allow_partial:
        raise IncompleteError(
            f"{len(samples)} of {options.num_samples} molecules; the rest: the same command with --resume"
        )
    return {"output_dir": str(directory.path), **evaluation.as_json(), **facts}


def _reward(options: GenerateOptions, asked: Asked, model: MoleculeModel) -> MoleculeReward | None:
    """What guidance follows; methods that follow a gradient get the predictor of a quantity that has none itself."""
    from molgen.rewards.reward import MoleculeReward, differentiable_texts

    if not asked.rewards or not any(method.needs_reward for method in options.guidance_methods()):
        return None
    texts = asked.rewards
    if any(method.needs_gradient for method in options.guidance_methods()):
        texts = differentiable_texts(texts)
    return MoleculeReward(model.codec, texts, workers=options.workers)


def _sample(
    options: GenerateOptions,
    model: MoleculeModel,
    targets: dict[str, float],
    guide: GuidedSampler | None,
    directory: RunDirectory,
) -> tuple[MoleculeSet, int]:
    """All samples, and how many are missing because of Ctrl-C."""
    from molgen.data.molecules import MoleculeSet

    def make(start: int, count: int, progress: Callable[[int], None]) -> MoleculeSet:
        return model.sample(
            count, num_atoms=_num_atoms(options.num_atoms), targets=targets, strength=options.strength,
            steps=options.steps, solver=options.solver, eta=options.eta, sampler=guide, seed=options.seed, start=start,
            batch_size=max(1, options.batch_size // (guide.particles if guide is not None else 1)),
            precision=options.precision, progress=progress,
        )  # fmt: skip

    parts = sample_in_parts(
        directory / "parts", options.num_samples, _PART,
        make=make, save=lambda part, path: part.save(path), load=MoleculeSet.load,
    )  # fmt: skip
    samples = MoleculeSet.concatenate(parts) if parts else MoleculeSet.from_molecules([])
    # A run that was longer before keeps its parts; this one shows what it was asked for.
    samples = samples.select(range(min(len(samples), options.num_samples)))
    return samples, options.num_samples - len(samples)


def _num_atoms(text: int | str | None) -> int | tuple[int, int] | None:
    """`14` or `10-16` as the library takes it."""
    if text is None or isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if match is None:
        raise InputError(f"got --num-atoms '{text}', expected a number (14) or a range (10-16)")
    low = int(match[1])
    return (low, int(match[2])) if match[2] else low


def _reference(options: GenerateOptions, model: MoleculeModel) -> MoleculeSet | None:
    from molgen.results import training_data

    name = model.description.get("data")
    if not name:
        return None
    try:
        return training_data(name, options.data_folder)
    except (InputError, FileNotFoundError) as error:
        logger.warning("no comparison with the training data: %s", error)
        return None


def _draw(path: Path, evaluation: Evaluation, count: int) -> None:
    from molgen.chemistry.drawing import draw_grid

    shown = [found for found in evaluation.perceived if found.valid][:count]
    if not shown:
        logger.warning("no picture: no sample is valid")
        return
    draw_grid([found.mol for found in shown], [found.smiles or "" for found in shown], path)


def _summarise(directory: RunDirectory, evaluation: Evaluation, seconds: float) -> None:
    count = len(evaluation.rows)
    print(f"{count} molecules in {seconds:.1f} s")
    for metric in evaluation.metrics:
        if metric.name in _SUMMARY and metric.n > 0:
            interval = f"95 %: {100 * metric.low:.1f} to {100 * metric.high:.1f}"
            print(f"  {metric.name:<24}{100 * metric.value:5.1f} %   ({interval})")
    for file in ("samples.sdf", "samples.csv", "metrics.json", "samples.png"):
        if (directory / file).exists():
            print(f"  {directory / file}")


VERB = Verb("generate", "generate molecules", GenerateOptions, run)
