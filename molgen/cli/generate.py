"""`molgen generate`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.generation import (
    FREE_ON_RESUME,
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
    from common.rewards.quantity import Quantity
    from molgen.data.molecules import MoleculeSet
    from molgen.metrics.report import Evaluation
    from molgen.model import MoleculeModel
    from molgen.rewards.reward import MoleculeReward
    from molgen.target_law import TargetLaw

logger = logging.getLogger(__name__)

_SUMMARY = ("atom_stability", "molecule_stability", "validity", "validity_x_uniqueness", "novelty", "connectedness")
# Samples between two saves.
_PART = 256
_FREE_ON_RESUME = FREE_ON_RESUME | {"posebusters", "data_folder"}


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions):
    """Options of `molgen generate`."""

    target: list[str] = option(
        [],
        "what samples are asked for, may be repeated: gap=4.5 for a model with that control input; gap=law for a size "
        "and a value of each sample as in the data that the input was learnt from; or any reward with --guidance",
    )
    num_atoms: int | str | None = option(
        None, "atoms a molecule, hydrogens included: 14, or 10-16 (default: as the data)"
    )
    posebusters: int = option(0, "at most how many samples go through PoseBusters (about a second each)", at_least=0)
    pictures: int = option(24, "valid molecules in the picture grid; 0 for no picture", at_least=0)
    data_folder: str = option("data", "folder of the named data sets: for --target NAME=law, and for the comparison "
                                      "with the training data")  # fmt: skip


def run(options: GenerateOptions) -> dict[str, Any]:
    """Generate, judge, write, summarise."""
    from common.allocator import tune_allocator
    from common.cli.doctor import pick_device
    from molgen.data.molecules import MoleculeSet
    from molgen.models import NETWORKS
    from molgen.pretrained import STORE, load_pretrained
    from molgen.target_law import part_law

    _num_atoms(options.num_atoms)
    tune_allocator()
    device = pick_device(options.device)
    model = load_pretrained(options.model, device)
    by_law, others = part_law(options.target)
    asked = Asked({}, [])
    if others or by_law is None:
        asked = read_targets(
            replace(options, target=others), [control.name for control in model.controls], _finder(model)
        )  # fmt: skip
    law = None if by_law is None else _law(options, model, by_law, asked)
    check_inputs(model.controls, asked.inputs)
    sampler = options.adjusted(model.sampler)
    reward = _reward(options, asked, model)
    log_weight = classifier_weight(options, model, NETWORKS, asked.values)
    weaker = weaker_denoiser(options, model, load_pretrained)
    with open_generation(options, model, model.denoiser, STORE.find(options.model), _FREE_ON_RESUME) as directory:
        with guided(options, sampler, model.denoiser, reward, log_weight, weaker) as guide:
            made = _sample(options, model, asked.inputs, law, guide, directory)
        samples = MoleculeSet.concatenate(made.parts)
        # A run that was longer before keeps its parts; this one shows what it was asked for.
        samples = samples.select(range(min(len(samples), options.num_samples)))
        facts = generation_facts(options, sampler, guide, made, len(samples))
        result = _deliver(options, directory, samples, _reference(options, model), facts)
    check_complete(options, result, "molecules")
    return result


def _deliver(
    options: GenerateOptions,
    directory: RunDirectory,
    samples: MoleculeSet,
    reference: MoleculeSet | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Judge the samples, write and print; what `--json` prints."""
    from molgen.results import judge, write_samples, write_tables

    evaluation = judge(
        samples, reference, posebusters=options.posebusters, workers=options.workers, seed=options.seed
    )  # fmt: skip
    write_samples(directory.path, samples, evaluation)
    write_tables(directory.path, evaluation, facts, samples.properties)
    if options.pictures > 0:
        _draw(directory.path / "samples.png", evaluation, options.pictures)
    if not options.json:
        _summarise(directory, evaluation, facts["generation"]["seconds"])
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
    law: tuple[str, TargetLaw] | None,
    guide: GuidedSampler | None,
    directory: RunDirectory,
) -> Made[MoleculeSet]:
    """The samples, with the values that a law asked them for; those that were made before Ctrl-C."""
    from molgen.data.molecules import MoleculeSet
    from molgen.target_law import ASKED

    def make(start: int, count: int, progress: Callable[[int], None]) -> MoleculeSet:
        num_atoms, drawn = _num_atoms(options.num_atoms), {}
        if law is not None:
            num_atoms, values = law[1].draw(options.seed, start, count)
            drawn = {law[0]: values}
        samples = model.sample(
            count, num_atoms=num_atoms, targets={**targets, **drawn}, strength=options.strength,
            sampler=guide or options.adjusted(model.sampler), seed=options.seed, start=start,
            batch_size=max(1, options.batch_size // (guide.particles if guide is not None else 1)),
            precision=options.precision, progress=progress,
        )  # fmt: skip
        return replace(samples, properties={ASKED + column: values for column, values in drawn.items()})

    return sample_in_parts(
        directory / "parts", options.num_samples, _PART,
        make=make, save=lambda part, path: part.save(path), load=MoleculeSet.load, guide=guide,
    )  # fmt: skip


def _finder(model: MoleculeModel) -> Callable[[str, str | None], Quantity]:
    """How a quantity is found by name: a scorer, or a control input that data alone know, such as `cv`."""
    from common.rewards.quantity import Quantity
    from molgen.data.properties import COLUMNS
    from molgen.rewards.table import REWARDS, find_scorer

    inputs = {control.name: control for control in model.controls if control.name not in REWARDS}

    def find(name: str, argument: str | None) -> Quantity:
        control = inputs.get(COLUMNS.get(name.lower(), name))
        if control is None or argument is not None:
            return find_scorer(name, argument)
        return Quantity(name=control.name, tolerance=control.std)

    return find


def _law(options: GenerateOptions, model: MoleculeModel, name: str, asked: Asked) -> tuple[str, TargetLaw]:
    """The control input that `NAME=law` speaks of, and its law in the data that it was learnt from.

    Raises:
        InputError: no such input, sizes or values that are asked for in another way as well, or no such data.
    """
    from molgen.results import training_data
    from molgen.rewards.table import find_column
    from molgen.target_law import TargetLaw

    text, column, known = f"--target {name}=law", find_column(name), [control.name for control in model.controls]
    if column not in known:
        own = f"its control inputs are {', '.join(known)}" if known else "it has no control inputs"
        raise InputError(f"got {text}, but {own}; finetune --control {name} adds one")
    if column in asked.inputs:
        raise InputError(f"got {text} and {column}={asked.inputs[column]:g}: one quantity, two aims; drop one")
    if options.num_atoms is not None:
        raise InputError(f"got --num-atoms and {text}, which draws the number of atoms with the value; drop one")
    for method in options.guidance_methods():
        if method.needs_reward or method.name == "classifier":
            raise InputError(f"got {text} with --guidance {method.name}, which follows one aim of all samples; use cfg")
    finetuning = model.description.get("finetuning", {})
    data, half = finetuning.get("data") or model.description.get("data"), finetuning.get("half", "all")
    if not data:
        raise InputError(f"got {text}, but the model does not say what data its input was learnt from")
    try:
        molecules = training_data(data, options.data_folder, half=half)
    except (InputError, FileNotFoundError) as error:
        raise InputError(f"{text} draws from the data '{data}' (--data-folder says where they are): {error}") from error
    law = TargetLaw.of_molecules(molecules, column)
    largest = max(model.size_law.sizes)
    if law.sizes.max() > largest:
        raise InputError(
            f"{text} draws from molecules of up to {law.sizes.max()} atoms in {data}, but the model was never shown "
            f"more than {largest}"
        )
    logger.info("sizes and %s as in %d molecules of %s, half %s", column, int(law.counts.sum()), data, half)
    return column, law


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
