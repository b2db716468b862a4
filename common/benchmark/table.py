"""`Table`: the rows of a benchmark, from the records of its trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.benchmark.config import Benchmark
from common.benchmark.domain import Domain, Task
from common.benchmark.runner import StepRecord, TrialRecord
from common.benchmark.spending import Spending
from common.benchmark.verdict import Achieved, Column, Verdict, combine
from common.metrics import Metric

# More than this factor above the budget is said.
_OVER_BUDGET = 1.1
# The row that says what one evaluation-budget unit is.
BASE = "unconditional"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: of the method, or of foreign samples.
        description: a few words.
        kind: "base", "sampling", "conditional", "fine-tuning", "foreign" or "reference".
        metrics: name -> over all its runs.
        samples: different ones that were judged, over all runs.
        training, sampling: what a seed took: all targets, each step once.
        delivered: different samples that a seed made.
        budget: how it stands to the budget of the benchmark, in words.
        achieved: of each run.
        trials: its records, failed ones as well.
        notes: what a reader should know.
        partial: it lacks some of the targets, so that its means are not those of the other rows.
    """

    name: str
    description: str
    kind: str
    metrics: Mapping[str, Metric]
    samples: int
    training: Spending
    sampling: Spending
    delivered: float
    budget: str
    achieved: tuple[Achieved, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    notes: tuple[str, ...] = ()
    partial: bool = False

    @property
    def label(self) -> str:
        """Its name, with an asterisk where it is partial: a note says what it lacks."""
        return f"{self.name}*" if self.partial else self.name

    @property
    def failed(self) -> tuple[TrialRecord, ...]:
        """Trials without a verdict."""
        return tuple(trial for trial in self.trials if not trial.done)

    @property
    def commands(self) -> tuple[str, ...]:
        """All its commands, each once, in order."""
        return tuple(dict.fromkeys(command for trial in self.trials for command in trial.commands))

    @property
    def evaluations_per_sample(self) -> float:
        """Network evaluations of training and sampling together; NaN if unknown."""
        return self.per_sample(self.training.evaluations + self.sampling.evaluations)

    @property
    def seconds_per_sample(self) -> float:
        """Wall clock of training and sampling together, in s."""
        return self.per_sample(self.training.seconds + self.sampling.seconds)

    def per_sample(self, total: float) -> float:
        """`total` over the samples delivered; NaN where there are none."""
        return total / self.delivered if self.delivered else math.nan


@dataclass(frozen=True)
class Table:
    """All rows, and what the columns are.

    Attributes:
        benchmark: what was compared.
        task: of it.
        columns: of quality, in reading order.
        rows: reference rows, then methods in the order of the benchmark, then foreign samples.
    """

    benchmark: Benchmark
    task: Task
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = ()

    def best(self, column: Column) -> set[str]:
        """Names of the rows that are best in a column, up to the noise: those whose interval holds the best value.

        Reference rows and partial ones do not take part.
        """
        known = {
            row.name: row.metrics[column.name]
            for row in self.rows
            if row.kind != "reference"
            and not row.partial
            and column.name in row.metrics
            and math.isfinite(row.metrics[column.name].value)
        }
        if not column.better or len(known) < 2:
            return set()
        top = max(known.values(), key=lambda metric: column.better * metric.value)
        return {
            name
            for name, metric in known.items()
            if metric is top or (metric.high >= top.value if column.better > 0 else metric.low <= top.value)
        }


def make_table(benchmark: Benchmark, domain: Domain, records: Sequence[TrialRecord]) -> Table:
    """The table of all records of the benchmark's targets; of others, such as those it once had, nothing is said."""
    if benchmark.targets:
        records = [record for record in records if record.foreign or record.target in benchmark.targets]
    task = domain.tasks[benchmark.task]
    columns = tuple(task.columns(benchmark))
    by_method: dict[str, list[TrialRecord]] = {name: [] for name in benchmark.methods}
    for record in sorted(records, key=lambda record: record.foreign):
        by_method.setdefault(record.method, []).append(record)
    by_method = {name: trials for name, trials in by_method.items() if trials}
    rows = [_reference_row(name, *found) for name, found in task.references(benchmark).items()]
    base = _sampling_evaluations(by_method.get(BASE, []))
    rows += [_row(name, trials, domain, benchmark, columns, base) for name, trials in by_method.items()]
    return Table(benchmark, task, columns, tuple(rows))


def _reference_row(name: str, description: str, verdict: Verdict) -> Row:
    metrics = {metric.name: metric for metric in verdict.metrics}
    nothing = Spending.unknown()
    return Row(
        name, description, "reference", metrics, verdict.n_samples, nothing, nothing, 0, "from the data alone",
        verdict.achieved, notes=verdict.notes,
    )  # fmt: skip


def _row(
    name: str,
    trials: Sequence[TrialRecord],
    domain: Domain,
    benchmark: Benchmark,
    columns: Sequence[Column],
    base: float,
) -> Row:
    done = [trial for trial in trials if trial.done and trial.verdict is not None]
    verdicts = [trial.verdict for trial in done if trial.verdict is not None]
    groups, sets = [trial.target for trial in done], [_samples_of(trial) for trial in done]
    shares = {column.name for column in columns if column.share}
    names = dict.fromkeys(metric.name for verdict in verdicts for metric in verdict.metrics)
    metrics = {}
    for column in names:
        found = [{metric.name: metric for metric in verdict.metrics}.get(column) for verdict in verdicts]
        # What a run lacks because it had another target is combined over those that have it.
        having = [i for i, metric in enumerate(found) if metric is not None]
        metrics[column] = combine(
            [metric for metric in found if metric is not None],
            [groups[i] for i in having],
            [sets[i] for i in having],
            share=column in shares,
        )
    foreign = any(trial.foreign for trial in trials)
    lacking = [target for target in benchmark.targets if target not in groups]
    notes = list(dict.fromkeys(note for verdict in verdicts for note in verdict.notes))
    if lacking:
        notes.append(
            f"* {len(benchmark.targets) - len(lacking)} of {len(benchmark.targets)} targets: without "
            + "; ".join(lacking)
        )
    method = domain.methods.get(name)
    seeds = len({trial.seed for trial in done}) or 1
    training, sampling = (_spent(done, stage, seeds) for stage in ("training", "sampling"))
    if foreign:
        training = sampling = Spending.unknown()
    return Row(
        name=name,
        description="samples from elsewhere" if foreign else method.description if method else "",
        kind="foreign" if foreign else method.group if method else "base",
        metrics=metrics,
        samples=sum({of: verdict.n_samples for of, verdict in zip(sets, verdicts, strict=True)}.values()),
        training=training,
        sampling=sampling,
        delivered=_delivered(done) / seeds,
        budget="unknown" if foreign else _budget(_sampling_evaluations(done), base, benchmark.sampling_factor),
        achieved=tuple(one for verdict in verdicts for one in verdict.achieved),
        trials=tuple(trials),
        notes=tuple(notes),
        partial=bool(lacking),
    )


def _samples_of(trial: TrialRecord) -> str:
    """The folder of its samples, which several targets may share; its own name for samples from elsewhere."""
    return str(trial.steps[-1].output_dir) if trial.steps else f"{trial.method} {trial.target} {trial.seed}"


def _steps(trials: Iterable[TrialRecord], stage: str) -> list[StepRecord]:
    """The different steps of a stage: one that serves several targets is there once."""
    return list({step.output_dir: step for trial in trials for step in trial.steps if step.stage == stage}.values())


def _spent(trials: Sequence[TrialRecord], stage: str, seeds: int) -> Spending:
    total = sum((step.spending for step in _steps(trials, stage)), Spending())
    return total.for_each(seeds)


def _delivered(trials: Sequence[TrialRecord]) -> int:
    """Different samples."""
    return sum(
        {
            trial.steps[-1].output_dir: trial.verdict.n_samples for trial in trials if trial.steps and trial.verdict
        }.values()
    )


def _sampling_evaluations(trials: Sequence[TrialRecord]) -> float:
    """Network evaluations that sampling takes for one sample; NaN if unknown."""
    done = [trial for trial in trials if trial.done]
    delivered = _delivered(done)
    return sum(step.spending.evaluations for step in _steps(done, "sampling")) / delivered if delivered else math.nan


def _budget(evaluations: float, base: float, factor: int) -> str:
    ratio = evaluations / base if base else math.nan
    if not math.isfinite(ratio):
        return "not stated"
    if ratio > factor * _OVER_BUDGET:
        return f"over: sampling {ratio:.1f} x the base, at most {factor} x allowed"
    return f"within: sampling {ratio:.1f} x of {factor} x the base"
