"""`molgen evaluate`: judge any molecules, generated here or elsewhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.generation import kept_facts
from common.cli.options import argument, option
from common.errors import InputError

if TYPE_CHECKING:
    from molgen.data.molecules import MoleculeSet
    from molgen.metrics.report import Evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommonOptions):
    """Options of `molgen evaluate`."""

    samples: str = argument("molecule file (SDF, XYZ, npz, ...) or a run directory")
    reference: str = option("", "data set name or file to compare with (default: the training data of the run's model)")
    data_folder: str = option("data", "folder that holds the named data sets")
    posebusters: int = option(0, "at most how many samples go through PoseBusters (about a second each)", at_least=0)
    output_dir: str = option("", "also write metrics.json and samples.csv there (a run directory is updated in place)")
    workers: int | None = option(None, "processes (default: one a core)", at_least=1)
    seed: int = option(0, "seed of the bootstrap intervals", at_least=0)


def run(options: EvaluateOptions) -> dict[str, Any]:
    """Judge and print."""
    from molgen.data.files import ReadReport, read_molecules
    from molgen.data.molecules import MoleculeSet
    from molgen.results import RAW_SAMPLES, judge, write_tables

    path = Path(options.samples)
    is_run = path.is_dir()
    if is_run and not (path / RAW_SAMPLES).exists():
        raise InputError(f"{path} holds no samples; expected a run of `molgen generate`, or a molecule file")
    # A run's own samples are judged whole: what the reader would refuse counts as a failure there.
    report = (
        ReadReport(MoleculeSet.load(path / RAW_SAMPLES)) if is_run else read_molecules(path, workers=options.workers)
    )
    evaluation = judge(
        report.molecules,
        _reference(options, path if is_run else None),
        posebusters=options.posebusters,
        workers=options.workers,
        seed=options.seed,
    )
    output_dir = Path(options.output_dir) if options.output_dir else path if is_run else None
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        facts = {"skipped": len(report.skipped), **kept_facts(output_dir)}
        # What a run's own samples were asked for; which record of a file another one was.
        columns = report.molecules.properties if is_run else {"record": report.indices}
        write_tables(output_dir, evaluation, facts, columns)
    result = {**evaluation.as_json(), "skipped": len(report.skipped)}
    if not options.json:
        print_evaluation(evaluation)
        if report.skipped:
            print(f"{len(report.skipped)} records could not be read and are not in these numbers (see above)")
    return result


def print_evaluation(evaluation: Evaluation) -> None:
    """The metrics as a table on stdout."""
    rows = [(m.name, f"{m.value:.4g}", f"{m.low:.4g} ... {m.high:.4g}", m.n, m.rule) for m in evaluation.metrics]
    print_table("metrics", ("metric", "value", "95 % interval", "n", "rule"), rows)
    for name, why in evaluation.omitted.items():
        print(f"{name}: not measured: {why}")
    if evaluation.reasons:
        print("without valid bonds: " + ", ".join(f"{count} {reason}" for reason, count in evaluation.reasons.items()))


def _reference(options: EvaluateOptions, run: Path | None) -> MoleculeSet | None:
    from molgen.results import training_data

    name = options.reference
    if not name and run is not None:
        from common.cli.run_directory import RunDirectory

        name = RunDirectory(run).read_json("run.json").get("training_data") or ""
        if not name:
            return None
    return training_data(name, options.data_folder) if name else None


VERB = Verb("evaluate", "judge molecules from a file or a run", EvaluateOptions, run)
