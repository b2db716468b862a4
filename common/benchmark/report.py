"""The report: one HTML file that works offline, and the table in Markdown, LaTeX and JSON."""

from __future__ import annotations

import dataclasses
import html
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.atomic import atomic_writer, finite, write_json
from common.benchmark import plots
from common.benchmark.domain import Domain
from common.benchmark.methods import Trial
from common.benchmark.published import PublishedTable, read_published
from common.benchmark.spending import larger
from common.benchmark.table import Row, Table

logger = logging.getLogger(__name__)

_TEMPLATE = "report.html.j2"
_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "±": r"$\pm$"}  # fmt: skip
_COST_TITLES = (
    "evaluations, training", "evaluations a sample, sampling", "reward calls", "labels", "seconds, training",
    "seconds a sample", "CPU seconds a sample", "peak memory [MB]", "budget",
)  # fmt: skip


def write_all(folder: Path, table: Table, domain: Domain) -> list[Path]:
    """`report.html`, `report.md`, `report.tex` and `table.json` in `folder`; their paths."""
    published = [read_published(domain.published, name) for name in table.benchmark.published]
    texts = {
        "report.html": as_html(table, domain, published, _provenance(folder), folder),
        "report.md": as_markdown(table, published),
        "report.tex": as_latex(table),
    }
    for name, text in texts.items():
        with atomic_writer(folder / name) as file:
            file.write(text)
    write_json(folder / "table.json", as_json(table))
    return [folder / name for name in (*texts, "table.json")]


def as_json(table: Table) -> dict[str, Any]:
    """The table as JSON types."""
    rows = [
        {
            "name": row.name,
            "kind": row.kind,
            "description": row.description,
            "samples": row.samples,
            "metrics": [metric.as_row() for metric in row.metrics.values()],
            "training": dataclasses.asdict(row.training),
            "sampling": dataclasses.asdict(row.sampling),
            "evaluations_per_sample": row.evaluations_per_sample,
            "seconds_per_sample": row.seconds_per_sample,
            "budget": row.budget,
            "notes": list(row.notes),
            "commands": list(row.commands),
            "failures": {f"{trial.target} seed {trial.seed}": trial.reason for trial in row.failed},
        }
        for row in table.rows
    ]
    return {"name": table.benchmark.name, "task": table.task.name, "rows": rows}


def as_markdown(table: Table, published: Sequence[PublishedTable] = ()) -> str:
    """The tables, and the commands of every row, in GitHub's Markdown."""
    benchmark = table.benchmark
    lines = [f"# {benchmark.name}", "", *_paragraph(benchmark.description), table.task.description, ""]
    lines += _markdown_table(
        ["method", *(column.title for column in table.columns), "n"],
        [
            [row.label, *(c.with_interval(row.metrics.get(c.name)) for c in table.columns), str(row.samples)]
            for row in table.rows
        ],
    )
    lines += ["", "Mean over runs with its 95 % interval.", "", "## What it took", ""]
    lines += _markdown_table(["method", *_COST_TITLES], [[row.name, *cost_cells(row)] for row in table.rows])
    lines += ["", "For one seed. `-`: not stated.", "", "## Commands", ""]
    for row in table.rows:
        if row.commands:
            lines += [f"**{row.name}**: {row.description}", "", "```", *row.commands, "```", ""]
        lines += [f"{row.name}: {note}" for note in row.notes]
        lines += [f"{row.name}, {trial.target} seed {trial.seed}, failed: {trial.reason}" for trial in row.failed]
    for one in published:
        lines += [f"## {one.title} (quoted, not rerun)", "", f"{one.protocol} n: {one.n}.", ""]
        lines += _markdown_table(
            ["method", *one.columns.values(), "source"],
            [[row.method, *(row.text(key) for key in one.columns), _source(row.source, row.note)] for row in one.rows],
        )
        lines.append("")
    return "\n".join(lines)


def as_latex(table: Table) -> str:
    """The table for a paper: booktabs, the interval small beside the value, the best rows bold."""
    best = {column.name: table.best(column) for column in table.columns}
    heads = " & ".join(["method", *(_latex(column.title) for column in table.columns)])
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        heads + r" \\",
        "\\midrule",
    ]
    for row in table.rows:
        cells = [_latex(row.label)]
        for column in table.columns:
            metric = row.metrics.get(column.name)
            text = column.text(metric)
            text = f"\\textbf{{{text}}}" if row.name in best[column.name] else text
            interval = column.interval(metric)
            cells.append(text + (f" {{\\scriptsize ({interval})}}" if interval else ""))
        lines.append(" & ".join(cells) + r" \\")
    caption = f"{table.benchmark.name}: mean (95 \\% interval); bold: best up to the noise"
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {caption}", ""])


def as_html(
    table: Table, domain: Domain, published: Sequence[PublishedTable], provenance: dict[str, Any], folder: Path
) -> str:
    """The whole page; everything that it needs is in it."""
    import jinja2
    from plotly.offline import get_plotlyjs

    figures = _figures(table)
    views = _views(table, domain, folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("common.benchmark", ""), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # Where no row was steered or taught by a reward, nobody needs to be told which one.
    rewarded = any(row.training.reward_calls + row.sampling.reward_calls != 0 for row in table.rows)
    best = {column.name: table.best(column) for column in table.columns}
    return environment.get_template(_TEMPLATE).render(
        table=table,
        benchmark=table.benchmark,
        best=best,
        rewarded=rewarded,
        colours=plots.colours(table),
        cost_titles=_COST_TITLES,
        cost_cells=cost_cells,
        sections=_grouped(figures),
        view_rows=list(views),
        published=published,
        linked=_linked,
        provenance=provenance,
        what=domain.what,
        program=domain.program,
        folder=folder,
        data=_script_json({"figures": {name: figure for _, _, name, figure in figures}, "views": views}),
        plotlyjs=get_plotlyjs(),
    )


def cost_cells(row: Row) -> list[str]:
    """What a row took, in the order of the titles; "-" where that is not known."""
    memory = larger(row.training.peak_memory_mb, row.sampling.peak_memory_mb)
    trained = any(step.stage == "training" for trial in row.trials for step in trial.steps)
    numbers = (
        row.training.evaluations if trained or not row.delivered else 0.0,
        row.per_sample(row.sampling.evaluations),
        row.training.reward_calls + row.sampling.reward_calls,
        _labels(row),
        row.training.seconds,
        row.per_sample(row.sampling.seconds),
        row.per_sample(row.sampling.cpu_seconds),
        memory,
    )
    return [*("-" if number != number else _short(number) for number in numbers), row.budget]


def _labels(row: Row) -> float:
    """Labels used: those of training, where there are any; guided sampling does not state how many its reward took."""
    training, sampling = row.training.labels, row.sampling.labels
    return training if training > 0 else larger(training, sampling)


def _short(number: float) -> str:
    """`1,234,000`, `12.3`, `0.12`."""
    return f"{float(f'{number:.4g}'):,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _figures(table: Table) -> list[tuple[str, str, str, Any]]:
    """(heading, remark, name, figure) in the order of the page; one heading may have several."""
    found: list[tuple[str, str, str, Any]] = []
    pairs = dict.fromkeys((one.quantity, one.judge) for row in table.rows for one in row.achieved)
    for quantity, judge in pairs:
        figure = plots.achieved(table, quantity, judge)
        if figure is not None:
            note = f"{quantity}, judged by: {judge}. Valid samples; the dashed line is what was asked for."
            found.append(("Target and achieved", note, f"achieved-{len(found)}", figure))
    errors = [column for column in table.columns if column.better and column.name != table.task.quality]
    # Hits say it all where there are any; else the first error.
    headline = errors[:1] + [column for column in errors[1:] if column.name.startswith("mae[")][:1]
    quality = next((column for column in table.columns if column.name == table.task.quality), None)
    for up in headline:
        for across, note in (
            (quality, f"{up.title} against what must not suffer."),
            (None, f"{up.title} against compute: network evaluations of training and sampling, a sample delivered."),
        ):
            figure = plots.trade_off(table, across, up)
            if figure is not None:
                found.append(("Trade-offs", note, f"trade-off-{len(found)}", figure))
    for name, figure in plots.curves(table.rows, plots.colours(table)).items():
        found.append(("Training curves", f"{name} by step; one line for each model.", f"curve-{name}", figure))
    return found


def _grouped(figures: Sequence[tuple[str, str, str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Heading -> (remark, name) of its figures."""
    found: dict[str, list[tuple[str, str]]] = {}
    for heading, note, name, _ in figures:
        found.setdefault(heading, []).append((note, name))
    return found


def _views(table: Table, domain: Domain, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Row -> samples to turn, with the judge's values in their captions."""
    found = {}
    for row in table.rows:
        for trial in row.trials:
            kept = Trial(trial.method, trial.target, trial.seed, folder).directory / domain.kept
            if trial.done and kept.exists():
                shown = domain.views(kept, table.benchmark.shown)
                if shown:
                    found[row.name] = [{"caption": view.caption, "figure": view.figure} for view in shown]
                break
    return found


def _provenance(folder: Path) -> dict[str, Any]:
    """What `run.json` says of the machine and the versions; nothing where there is none."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _script_json(value: Any) -> Any:
    """JSON that can stand in a script element whatever texts it holds."""
    from markupsafe import Markup

    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False, default=_array)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _array(value: Any) -> Any:
    """Arrays and numbers of numpy as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a page")


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(heads), "|" + "---|" * len(heads), *map(line, rows)]


def _paragraph(text: str) -> list[str]:
    return [text.strip(), ""] if text.strip() else []


def _source(source: str, note: str) -> str:
    return source + (f" ({note})" if note else "")


def _linked(source: str) -> Any:
    """A source with its arXiv number as a link; a reader may follow it, the page itself loads nothing."""
    from markupsafe import Markup

    escaped = html.escape(source)
    return Markup(re.sub(r"arXiv (\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', escaped))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
