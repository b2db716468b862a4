"""The verb `benchmark` of both commands: run the methods of a configuration, add foreign samples, make the report."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.options import add_options, argument, explain, gather_repeated, option, read_options
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from common.benchmark.config import Benchmark
    from common.benchmark.domain import Domain
    from common.benchmark.methods import Step, Trial
    from common.benchmark.table import Table

logger = logging.getLogger(__name__)

CONFIG = "benchmark.yaml"
# What may differ when a benchmark is gone on with: more rows, and how they are shown. Whether a row was made in the
# same way, its commands tell.
_FREE = {"description", "targets", "methods", "seeds", "sampling_factor", "classifier", "finetune", "generate",
         "settings", "published", "shown"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(CommonOptions):
    """Options of `benchmark` in both domains."""

    action: Literal["run", "add", "report"] = argument("run a configuration, add foreign samples, or report again")
    path: str = argument("run: a benchmark's YAML file; add and report: the folder of a benchmark")
    methods: str = option("", "run: these rows only, joined by commas (default: those of the file)")
    seeds: int | None = option(None, "run: runs for each target (default: as the file)", at_least=1)
    num_samples: int | None = option(None, "run: samples of each run (default: as the file)", at_least=1)
    output_dir: str = option("", "run: folder of the benchmark (default: runs/NAME)")
    resume: bool = option(False, "run: go on, or add rows; what is done is kept")
    overwrite: bool = option(False, "run: start an existing benchmark anew; add: replace a row of that name")
    dry_run: bool = option(False, "run: only print the commands")
    allow_partial: bool = option(False, "run: exit with 0 even if rows have failed")
    workers: int = option(1, "run: rows at the same time", at_least=1)
    judge_workers: int | None = option(None, "processes of the judge (default: one a core)", at_least=1)
    name: str = option("", "add: name of the row")
    samples: str = option("", "add: file or folder of the samples")
    target: str = option("", "add: what they were made for (default: the benchmark's only target)")
    seed: int = option(0, "add: number of the run, where the row has several", at_least=0)
    data_folder: str = option("", "folder that holds the named data sets (default: as the file)")


def benchmark_verb(domain: Callable[[], Domain], verbs: Callable[[], list[Verb]], what: str) -> Verb:
    """The verb for a domain, which is only asked for when the verb runs; `verbs` are those of its command."""

    def run(options: BenchmarkOptions) -> dict[str, Any]:
        actions = {"run": run_benchmark, "add": add_samples, "report": report_again}
        return actions[options.action](options, domain(), verbs())

    return Verb("benchmark", f"race every method for {what}: run, add foreign samples, report", BenchmarkOptions, run)


def run_benchmark(options: BenchmarkOptions, domain: Domain, verbs: Sequence[Verb]) -> dict[str, Any]:
    """Run what is not done yet, judge, report."""
    from common.benchmark.config import read_benchmark
    from common.benchmark.runner import Runner
    from common.cli.run_directory import RunDirectory

    changes = {
        "methods": [word.strip() for word in options.methods.split(",") if word.strip()] or None,
        "seeds": options.seeds,
        "num_samples": options.num_samples,
        "data_folder": options.data_folder or None,
    }
    benchmark = read_benchmark(options.path, **{key: value for key, value in changes.items() if value is not None})
    folder = Path(options.output_dir or f"runs/{benchmark.name}")
    trials = planned(benchmark, domain, folder)
    completed = benchmark.completed(domain.tasks[benchmark.task].options(benchmark))

    def steps_of(trial: Trial) -> Sequence[Step]:
        return domain.methods[trial.method].recipe(domain.program, completed, trial)

    plan = {trial.name: steps_of(trial) for trial in trials}
    for steps in plan.values():
        for step in steps:
            check_command(step, verbs)
    if options.dry_run:
        return _show_plan(plan, options)
    with (
        contextlib.closing(domain.judge(benchmark, options.judge_workers)) as judge,
        RunDirectory.begin(folder, "benchmark", options) as directory,
    ):
        if options.resume:
            _check_same(directory / CONFIG, benchmark)
        _write_config(directory / CONFIG, benchmark)
        directory.write_provenance(benchmark=benchmark.name, seeds=benchmark.seeds)

        def verdict(samples: Path, trial: Trial) -> Any:
            return judge(samples, trial.target, trial.directory / domain.kept)

        records = Runner(steps_of, verdict).run(trials, options.workers)
    result = write_report(folder, benchmark, domain, options)
    failed = [record for record in records if not record.done]
    if failed and not options.allow_partial:
        raise IncompleteError(
            f"{len(records) - len(failed)} of {len(records)} runs; first failure: {failed[0].method}: "
            f"{failed[0].reason}; --resume tries those again",
            result,
        )
    return result


def planned(benchmark: Benchmark, domain: Domain, folder: Path) -> list[Trial]:
    """All runs: every method for every target and seed.

    Raises:
        InputError: an unknown task, method, target or table.
    """
    from common.benchmark.config import check_names
    from common.benchmark.methods import Trial
    from common.benchmark.published import read_published

    check_names([benchmark.task], domain.tasks, "task")
    check_names(benchmark.methods, domain.methods, "method")
    check_names(benchmark.settings, domain.methods, "settings of method")
    task = domain.tasks[benchmark.task]
    check_names(benchmark.methods, task.methods or domain.methods, "method")
    if benchmark.judges and not task.takes_judges:
        raise InputError(f"the task '{task.name}' takes no 'judges': it has its own")
    if task.needs_target is not None and task.needs_target != bool(benchmark.targets):
        wanted = "at least one of the 'targets'" if task.needs_target else "no 'targets'"
        raise InputError(f"the task '{task.name}' takes {wanted}, got {list(benchmark.targets) or 'none'}")
    for target in benchmark.targets:
        task.check_target(target)
    for name in benchmark.published:
        read_published(domain.published, name)
    trials = [
        Trial(method, target, seed, folder)
        for method in benchmark.methods
        for target in benchmark.targets or ("",)
        for seed in range(benchmark.seeds)
    ]
    if len({trial.name for trial in trials}) < len(trials):
        raise InputError(f"the targets {', '.join(benchmark.targets)} cannot be told apart in file names")
    return trials


def check_command(step: Step, verbs: Sequence[Verb]) -> None:
    """Parse a command as its verb would, so that a mistake costs seconds and not hours.

    Raises:
        InputError: no such verb, or it does not take these options.
    """
    name, words = step.words[1], list(step.words[2:])
    table = {verb.name: verb for verb in verbs}
    if name not in table:
        raise InputError(f"this version has no verb '{name}', which a method needs: {step}")
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, table[name].options)
    try:
        parsed = parser.parse_args(gather_repeated(words, table[name].options))
        read_options(parsed, table[name].options).check()
    except Exception as error:
        # jsonargparse raises errors of several kinds; all of them mean that the words are wrong.
        raise InputError(f"{explain(str(error), table[name].options)}; in: {step}") from error


def add_samples(options: BenchmarkOptions, domain: Domain, verbs: Sequence[Verb]) -> dict[str, Any]:
    """Judge samples from elsewhere, as a row of the same table."""
    import shlex

    from common.benchmark.methods import Trial
    from common.benchmark.runner import TrialRecord

    benchmark, folder = _read_folder(options)
    if not options.name or not options.samples:
        raise InputError("give --name of the row and --samples, a file or folder")
    if options.name in domain.methods:
        raise InputError(f"'{options.name}' is a method of the program; choose another --name")
    if not Path(options.samples).exists():
        raise InputError(f"{options.samples}: no such file or folder")
    target = _target_of(options, benchmark)
    trial = Trial(options.name, target, options.seed, folder)
    if TrialRecord.read(trial.directory) is not None and not options.overwrite:
        raise InputError(f"{trial.directory} is there already; --overwrite replaces it, --seed N adds another run")
    words = [domain.program, "benchmark", "add", str(folder), "--name", options.name, "--samples", options.samples]
    words += ["--target", target] * bool(options.target) + ["--seed", str(options.seed)] * bool(options.seed)
    trial.directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(domain.judge(benchmark, options.judge_workers)) as judge:
        verdict = judge(Path(options.samples), target, trial.directory / domain.kept)
    record = TrialRecord(
        options.name, target, options.seed, True, commands=(shlex.join(words),), verdict=verdict, foreign=True
    )
    record.write(trial.directory)
    return write_report(folder, benchmark, domain, options)


def report_again(options: BenchmarkOptions, domain: Domain, verbs: Sequence[Verb]) -> dict[str, Any]:
    """Make the report from what is there."""
    benchmark, folder = _read_folder(options)
    return write_report(folder, benchmark, domain, options)


def write_report(folder: Path, benchmark: Benchmark, domain: Domain, options: BenchmarkOptions) -> dict[str, Any]:
    """`report.html`, `report.md`, `report.tex` and `table.json`; and the table on stdout."""
    from common.benchmark.report import as_json, write_all
    from common.benchmark.runner import records_of
    from common.benchmark.table import make_table

    table = make_table(benchmark, domain, list(records_of(folder)))
    files = write_all(folder, table, domain)
    if not options.json:
        _print(table)
        for file in files:
            print(f"  {file}")
    return {"output_dir": str(folder), **as_json(table)}


def _print(table: Table) -> None:
    # As many columns as a terminal holds; the report has all.
    shown = table.columns[:5]
    rows = [
        (
            row.label,
            *(column.with_interval(row.metrics.get(column.name)) for column in shown),
            f"{row.evaluations_per_sample:.4g}".replace("nan", "-"),
            row.samples,
        )
        for row in table.rows
    ]  # fmt: skip
    title = f"{table.benchmark.name}: mean (95 % interval)"
    print_table(title, ("method", *(c.title for c in shown), "evaluations a sample", "n"), rows)
    for row in table.rows:
        for note in row.notes:
            print(f"{row.name}: {note}")
        for trial in row.failed:
            print(f"{row.name}: failed: {trial.reason}")


def _show_plan(plan: dict[str, Sequence[Step]], options: BenchmarkOptions) -> dict[str, Any]:
    commands = {name: [str(step) for step in steps] for name, steps in plan.items()}
    if not options.json:
        for name, steps in commands.items():
            print(f"# {name}")
            print("\n".join(steps))
    return {"commands": commands}


def _read_folder(options: BenchmarkOptions) -> tuple[Benchmark, Path]:
    """The benchmark that lies in a folder."""
    from common.benchmark.config import read_benchmark

    folder = Path(options.path)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a benchmark: it has no {CONFIG}; `benchmark run` makes one")
    benchmark = read_benchmark(folder / CONFIG)
    return dataclasses.replace(benchmark, data_folder=options.data_folder or benchmark.data_folder), folder


def _target_of(options: BenchmarkOptions, benchmark: Benchmark) -> str:
    if options.target:
        if options.target not in benchmark.targets:
            raise InputError(f"got --target '{options.target}', expected one of: {', '.join(benchmark.targets)}")
        return options.target
    if len(benchmark.targets) > 1:
        raise InputError(f"say which --target the samples were made for: {', '.join(benchmark.targets)}")
    return benchmark.targets[0] if benchmark.targets else ""


def _check_same(path: Path, benchmark: Benchmark) -> None:
    """Raise `InputError` if a benchmark lies there whose rows would not compare with these."""
    from common.benchmark.config import read_benchmark

    if not path.exists():
        return
    before = read_benchmark(path)
    for field in dataclasses.fields(benchmark):
        old, new = getattr(before, field.name), getattr(benchmark, field.name)
        if field.name not in _FREE and old != new:
            raise InputError(
                f"{path.parent} was made with {field.name} = {old}, got {new}: rows would not compare; choose another "
                "--output-dir"
            )


def _write_config(path: Path, benchmark: Benchmark) -> None:
    from common.atomic import atomic_writer

    with atomic_writer(path) as file:
        file.write(benchmark.as_yaml())
