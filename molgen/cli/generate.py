"""`molgen generate`."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.cli.app import CommonOptions, Verb
from common.cli.options import argument, option
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from common.cli.run_directory import RunDirectory
    from molgen.data.molecules import MoleculeSet
    from molgen.metrics.report import Evaluation
    from molgen.model import MoleculeModel

logger = logging.getLogger(__name__)

_SUMMARY = ("atom_stability", "molecule_stability", "validity", "validity_x_uniqueness", "novelty", "connectedness")
# Samples between two saves; part k of a run always holds the samples k * _PART ... (k + 1) * _PART - 1.
_PART = 256
# What may differ when a generation is resumed: none of it changes a sample.
_FREE_ON_RESUME = {"num_samples", "batch_size", "device", "output_dir", "workers", "posebusters", "allow_partial",
                   "pictures", "data_folder", "config", "overwrite"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(CommonOptions):
    """Options of `molgen generate`."""

    model: str = argument("name of a shipped model, a model folder, or a run directory")
    num_samples: int = option(16, "number of molecules")
    num_atoms: int | str | None = option(
        None, "atoms a molecule, hydrogens included: 14, or 10-16 (default: as the data)"
    )
    steps: int | None = option(None, "network evaluations a molecule (default: the model's recommendation)")
    solver: str | None = option(None, "ancestral, ddim, dpm2 or sde-dpm2 (default: the model's recommendation)")
    eta: float | None = option(None, "noise scale of the solver, 0 (deterministic) to 1")
    seed: int = option(0, "seed; the same seed gives the same molecules, whatever the batch size")
    batch_size: int = option(128, "molecules at a time")
    device: str = option("auto", "auto, cpu, cuda or mps")
    precision: Literal["float32", "bf16"] = option("float32", "arithmetic of the network")
    output_dir: str = option("", "run directory (default: runs/MODEL-seedSEED)")
    resume: bool = option(False, "go on with the samples of an interrupted run")
    overwrite: bool = option(False, "replace an existing run directory")
    allow_partial: bool = option(False, "exit with 0 when interrupted with fewer molecules than asked")
    posebusters: int = option(0, "at most how many samples go through PoseBusters (about a second each)")
    pictures: int = option(24, "valid molecules in the picture grid; 0 for no picture")
    workers: int | None = option(None, "processes for bonds and checks (default: one a core)")
    data_folder: str = option("data", "folder of the named data sets, for the comparison with the training data")


def run(options: GenerateOptions) -> dict[str, Any]:
    """Generate, judge, write, summarise."""
    from common.allocator import tune_allocator
    from common.cli.doctor import pick_device
    from common.cli.run_directory import RunDirectory
    from molgen.pretrained import find_model, load_pretrained
    from molgen.results import judge, write_samples, write_tables

    _check(options)
    tune_allocator()
    device = pick_device(options.device)
    model = load_pretrained(options.model, device)
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
        model=str(find_model(options.model)),
        training_data=model.description.get("data"),
    )
    started = time.monotonic()
    samples, missing = _sample(options, model, directory)
    seconds = time.monotonic() - started
    evaluation = judge(
        samples, _reference(options, model), posebusters=options.posebusters, workers=options.workers, seed=options.seed
    )
    write_samples(directory.path, samples, evaluation)
    facts = {"generation": {"seconds": round(seconds, 2), "network_evaluations": options.steps or model.sampler.steps}}
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


def _sample(options: GenerateOptions, model: MoleculeModel, directory: RunDirectory) -> tuple[MoleculeSet, int]:
    """All samples, and how many are missing because of Ctrl-C; each part is on disk as soon as it is made."""
    from molgen.data.molecules import MoleculeSet

    parts_folder = directory / "parts"
    parts_folder.mkdir(exist_ok=True)
    parts = []
    try:
        for start in range(0, options.num_samples, _PART):
            count = min(_PART, options.num_samples - start)
            path = parts_folder / f"{start // _PART:06d}.npz"
            part = MoleculeSet.load(path) if path.exists() else None
            if part is None or len(part) < count:
                part = model.sample(
                    count, num_atoms=_num_atoms(options.num_atoms), steps=options.steps, solver=options.solver,
                    eta=options.eta, seed=options.seed, start=start, batch_size=options.batch_size,
                    precision=options.precision, progress=_progress(start, options.num_samples),
                )  # fmt: skip
                part.save(path)
                # As a resumed run will read it.
                part = MoleculeSet.load(path)
            parts.append(part.select(range(count)))
    except KeyboardInterrupt:
        logger.info("interrupted; %d molecules are kept", sum(map(len, parts)))
    samples = MoleculeSet.concatenate(parts) if parts else MoleculeSet.from_molecules([])
    return samples, options.num_samples - len(samples)


def _progress(start: int, total: int) -> Any:
    began = time.monotonic()

    def report(done: int) -> None:
        rate = done / max(time.monotonic() - began, 1e-9)
        logger.info("%d/%d molecules, %.1f a second", start + done, total, rate)

    return report


def _num_atoms(text: int | str | None) -> int | tuple[int, int] | None:
    """`14` or `10-16` as the library takes it."""
    if text is None or isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if match is None:
        raise InputError(f"got --num-atoms '{text}', expected a number (14) or a range (10-16)")
    low = int(match[1])
    return (low, int(match[2])) if match[2] else low


def _check(options: GenerateOptions) -> None:
    for name in ("num_samples", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"got --{name.replace('_', '-')} {getattr(options, name)}, expected at least 1")
    if options.seed < 0:
        raise InputError(f"got --seed {options.seed}, expected a number from 0 on")
    _num_atoms(options.num_atoms)


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
