"""Rows of runs, intervals that know both kinds of noise, costs counted once, and pages that hold any text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from contracts.benchmark_world import COLUMNS, benchmark, domain, judge_numbers, record

from common.benchmark.methods import Trial
from common.benchmark.published import read_published
from common.benchmark.report import as_latex, as_markdown, cost_cells, write_all
from common.benchmark.runner import TrialRecord, records_of
from common.benchmark.spending import Spending, stated
from common.benchmark.table import make_table
from common.benchmark.verdict import Column, Verdict, combine, mean, median_with_failures
from common.errors import InputError
from common.metrics import Metric, proportion

PUBLISHED = {
    "title": "Numbers", "protocol": "By hand.", "n": "10", "columns": {"x": "x [m]"},
    "rows": [{"method": "them", "source": "arXiv 2203.17003", "values": {"x": 1.5}}],
}  # fmt: skip


def folder_with(tmp_path: Path, table: dict | None = None) -> Path:
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(table or PUBLISHED))
    return tmp_path


# Numbers


def test_a_median_counts_failures_as_infinitely_far():
    values = np.array([1.0, 2.0, 3.0, np.nan, np.nan])
    assert median_with_failures("m", values, "").value == 3.0
    lost = median_with_failures("m", np.array([1.0, np.nan, np.nan]), "")
    assert math.isnan(lost.value)
    assert lost.n == 3
    assert median_with_failures("m", np.empty(0), "").n == 0


def test_the_medians_interval_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        draw = rng.exponential(size=60)
        found = median_with_failures("m", draw, "")
        hits += found.low <= math.log(2) <= found.high
    assert 0.93 <= hits / 400 <= 0.99


def test_runs_of_one_law_give_the_pooled_mean_and_a_narrower_interval():
    runs = [proportion("p", hits, 100, "r") for hits in (48, 50, 52)]
    one = combine(runs, ["a"] * 3, share=True)
    assert one.value == pytest.approx(0.5)
    assert one.n == 300
    assert runs[1].low < one.low < one.value < one.high < runs[1].high


def test_runs_that_differ_widen_the_interval_and_targets_that_differ_do_not():
    apart = [proportion("p", hits, 1000, "r") for hits in (100, 900, 120, 880)]
    same_target = combine(apart, ["a", "a", "a", "a"])
    by_target = combine(apart, ["a", "b", "a", "b"])
    assert same_target.value == by_target.value
    assert same_target.high - same_target.low > 5 * (by_target.high - by_target.low)


def test_the_combined_interval_covers_when_runs_differ():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        truths = rng.normal(0.0, 0.5, 6)
        runs = [mean("m", rng.normal(truth, 1.0, 50), "") for truth in truths]
        found = combine(runs, ["a"] * 6)
        hits += found.low <= 0 <= found.high
    # Without the spread between runs it would be about 0.4.
    assert hits / 400 > 0.86


def test_one_set_of_samples_judged_for_several_targets_counts_once():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        seeds = [proportion("p", int((rng.random(96) < 0.8).sum()), 96, "r") for _ in range(2)]
        # Three targets, the same samples for each.
        found = combine([m for m in seeds for _ in "abc"], list("abc") * 2, ["one"] * 3 + ["two"] * 3, share=True)
        covered += found.low <= 0.8 <= found.high
        assert found.n == 192
    # As if they were six sets of samples it would be about 0.75.
    assert 0.92 <= covered / 400 <= 0.98


def test_a_run_without_a_value_makes_the_row_undefined():
    whole = combine([Metric.undefined("m", 3, "r"), mean("m", np.arange(5.0), "r")], ["a", "a"])
    assert math.isnan(whole.value)
    assert whole.n == 8


def test_best_of_n_stands_in_the_table_as_theory_says(tmp_path):
    """x ~ N(0, 1), the best of n by the reward x: its mean is the n-th order statistic's, and more n gives more."""
    rng = np.random.default_rng(2)
    grid = np.linspace(-8, 8, 20001)
    step = grid[1] - grid[0]
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    below = np.cumsum(density) * step
    records = []
    for name, n in (("unconditional", 1), ("shifted", 4)):
        for seed in range(3):
            samples = rng.normal(size=(2000, n)).max(axis=1)
            records.append(record(name, "x=1.5", seed, samples, ("sampling", f"{name}{seed}", 10.0 * n * 2000)))
    table = make_table(benchmark(seeds=3), domain(tmp_path), records)
    for row, n in zip(table.rows, (1, 4), strict=True):
        theory = float((grid * n * below ** (n - 1) * density).sum() * step)
        found = row.metrics["size"]
        assert found.low <= theory <= found.high
        assert found.high - found.low < 0.2
        assert row.evaluations_per_sample == pytest.approx(10 * n)
    assert table.rows[1].budget == "within: sampling 4.0 x of 4 x the base"


# Tables


def test_a_shared_step_counts_once_and_each_seed_alike(tmp_path):
    values = np.zeros(8)
    records = [
        record("shifted", target, seed, values, ("training", f"model{seed}", 1000.0),
               ("sampling", f"{target}{seed}", 80.0))
        for target in ("x=1", "x=2")
        for seed in (0, 1)
    ]  # fmt: skip
    one = benchmark(methods=("shifted",), targets=("x=1", "x=2"))
    (row,) = make_table(one, domain(tmp_path), records).rows
    assert row.training.evaluations == 1000.0
    assert row.training.seconds == 10.0
    assert row.sampling.evaluations == 160.0
    assert row.samples == 32
    assert row.evaluations_per_sample == pytest.approx((1000 + 160) / 16)


def test_what_takes_more_than_the_budget_is_said(tmp_path):
    records = [
        record("unconditional", "x=1.5", 0, np.zeros(10), ("sampling", "a", 100.0)),
        record("shifted", "x=1.5", 0, np.zeros(10), ("sampling", "b", 900.0)),
    ]
    table = make_table(benchmark(), domain(tmp_path), records)
    assert table.rows[0].budget.startswith("within: sampling 1.0 x")
    assert table.rows[1].budget == "over: sampling 9.0 x the base, at most 4 x allowed"
    # Without the base nobody can tell.
    alone = make_table(benchmark(methods=("shifted",)), domain(tmp_path), records[1:])
    assert alone.rows[0].budget == "not stated"


def test_the_best_are_those_that_cannot_be_told_from_the_best(tmp_path):
    rng = np.random.default_rng(0)
    laws = {"unconditional": 5.0, "shifted": 1.5}
    records = [record(name, "x=1.5", 0, rng.normal(centre, 0.1, 50)) for name, centre in laws.items()]
    table = make_table(benchmark(), domain(tmp_path), records)
    assert table.best(COLUMNS[0]) == {"shifted"}
    assert table.best(COLUMNS[1]) == {"shifted"}
    assert table.best(COLUMNS[2]) == set()
    twins = [record(name, "x=1.5", 0, rng.normal(1.5, 0.1, 50)) for name in laws]
    assert make_table(benchmark(), domain(tmp_path), twins).best(COLUMNS[1]) == set(laws)


def test_failed_and_foreign_runs_have_their_place(tmp_path):
    good = record("unconditional", "x=1.5", 0, np.zeros(4))
    failed = TrialRecord("shifted", "x=1.5", 0, False, "it broke")
    foreign = TrialRecord("theirs", "x=1.5", 0, True, verdict=judge_numbers(np.zeros(3), "x=1.5"), foreign=True)
    table = make_table(benchmark(), domain(tmp_path), [foreign, failed, good])
    assert [row.name for row in table.rows] == ["unconditional", "shifted", "theirs"]
    assert [trial.reason for trial in table.rows[1].failed] == ["it broke"]
    assert table.rows[1].metrics == {}
    assert table.rows[2].kind == "foreign"
    assert math.isnan(table.rows[2].training.seconds)


def test_a_row_without_one_of_the_targets_says_so_and_is_not_compared(tmp_path):
    one = replace(benchmark(), targets=("x=1.5", "x=3"))
    records = [
        record("unconditional", "x=1.5", 0, np.full(50, 1.5)), record("unconditional", "x=3", 0, np.full(50, 9.0)),
        record("shifted", "x=1.5", 0, np.full(50, 1.5)), TrialRecord("shifted", "x=3", 0, False, "it broke"),
        # Of a target that the benchmark had before.
        record("unconditional", "x=7", 0, np.full(50, 99.0)),
    ]  # fmt: skip
    table = make_table(one, domain(tmp_path), records)
    whole, partial = table.rows
    assert (whole.label, partial.label) == ("unconditional", "shifted*")
    assert partial.notes[-1] == "* 1 of 2 targets: without x=3"
    assert len(whole.trials) == 2
    assert "shifted" not in table.best(COLUMNS[0]) | table.best(COLUMNS[1])
    assert "shifted*" in as_latex(table)


def test_labels_of_guided_sampling_are_those_of_what_was_trained_for_it_or_unknown(tmp_path):
    (row,) = make_table(benchmark(), domain(tmp_path), [record("unconditional", "x=1.5", 0, np.zeros(4))]).rows
    unknown = Spending.unknown()
    cells = [
        cost_cells(replace(row, training=replace(row.training, labels=labels), sampling=unknown))[3]
        for labels in (0.0, 100.0, math.nan)
    ]
    assert cells == ["-", "100", "-"]


def test_a_verdict_survives_its_file_nan_and_all(tmp_path):
    verdict = judge_numbers(np.array([1.0, np.nan]), "x=1")
    TrialRecord("a", "x=1", 0, True, verdict=verdict).write(tmp_path / "trials" / "a")
    (read,) = records_of(tmp_path)
    assert read.verdict is not None
    assert read.verdict.as_json()["metrics"] == verdict.as_json()["metrics"]
    assert math.isnan(read.verdict.achieved[0].values[1])


def test_what_a_run_took_is_read_from_what_it_left(tmp_path):
    assert all(math.isnan(value) for value in stated(tmp_path).values())
    plain = {"n_samples": 8, "generation": {"network_evaluations": 50}}
    (tmp_path / "metrics.json").write_text(json.dumps(plain))
    assert stated(tmp_path) == {"evaluations": 400.0, "reward_calls": 0.0, "labels": 0.0}
    # Steered sampling states what a sample took; what it learnt from is not known.
    steered = {"network_evaluations": 200, "reward_calls": 4, "guidance": ["smc particles=4"]}
    (tmp_path / "metrics.json").write_text(json.dumps({**plain, "generation": steered}))
    found = stated(tmp_path)
    assert (found["evaluations"], found["reward_calls"]) == (1600.0, 32.0)
    assert math.isnan(found["labels"])
    (tmp_path / "metrics.json").write_text(json.dumps({**plain, "generation": {**steered, "labels": 0}}))
    assert stated(tmp_path)["labels"] == 0
    (tmp_path / "metrics.json").write_text(json.dumps({**plain, "cost": {"evaluations": 7, "labels": 9}}))
    assert stated(tmp_path) == {"evaluations": 7.0, "reward_calls": 0.0, "labels": 9.0}
    (tmp_path / "model").mkdir()
    (tmp_path / "metrics.json").unlink()
    training = {"samples_seen": 5, "network_evaluations": 300, "reward_calls": 10}
    (tmp_path / "model" / "model.json").write_text(json.dumps({"training": training}))
    found = stated(tmp_path)
    assert (found["evaluations"], found["reward_calls"]) == (300.0, 10.0)
    assert math.isnan(found["labels"])


def test_spendings_add_up_where_they_do():
    both = Spending(1, 1, 500, 10, 2, 100) + Spending(2, 1, 300, 5, 0, 100)
    assert both == Spending(3, 2, 500, 15, 2, 100)
    assert both.for_each(2) == Spending(1.5, 1, 500, 7.5, 1, 100)
    assert math.isnan((both + Spending.unknown()).peak_memory_mb)


# Published numbers and pages


def test_published_numbers_need_a_source_and_a_column(tmp_path):
    table = read_published(folder_with(tmp_path), "theirs")
    assert table.rows[0].text("x") == "1.5"
    with pytest.raises(InputError, match="did you mean 'theirs'"):
        read_published(tmp_path, "their")
    row = PUBLISHED["rows"][0]
    for rows, complaint in (
        ([{**row, "source": ""}], "'them' has no source"),
        ([{**row, "values": {"y": 1}}], "which is no column"),
        ([{"method": "them"}], "a row"),
    ):
        with pytest.raises(InputError, match=complaint):
            read_published(folder_with(tmp_path, {**PUBLISHED, "rows": rows}), "theirs")


@pytest.fixture
def report(tmp_path) -> Path:
    """A folder with a report of hostile names."""
    rng = np.random.default_rng(0)
    hostile = "</script><script>alert(1)</script>"
    records = [
        record("unconditional", "x=1.5", 0, rng.normal(size=9), ("sampling", "a", 90.0)),
        record("shifted", "x=1.5", 0, rng.normal(1, 1, 9), ("training", str(tmp_path / "m"), 5.0),
               ("sampling", "b", 90.0)),
        TrialRecord("shifted", "x=1.5", 1, False, hostile, (f"stub {hostile}",)),
        TrialRecord(hostile, "x=1.5", 0, True, verdict=judge_numbers(np.ones(3), "x=1.5"), foreign=True),
    ]  # fmt: skip
    logs = tmp_path / "m" / "logs" / "csv" / "version_0"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("step,train/loss,sample/reward\n0,1.0,\n10,0.5,-2\n20,,-1\n")
    one = benchmark(published=("theirs",), description=hostile)
    brought = domain(folder_with(tmp_path))
    for found in records[:2]:
        directory = Trial(found.method, found.target, found.seed, tmp_path).directory
        directory.mkdir(parents=True)
        (directory / "kept.json").write_text("[1.0, 2.0]")
    write_all(tmp_path, make_table(one, brought, records), brought)
    return tmp_path


def page_without_library(folder: Path) -> str:
    """The page without plotly's own code."""
    scripts = re.split(r"(<script[^>]*>.*?</script>)", (folder / "report.html").read_text(), flags=re.DOTALL)
    return "".join(part for part in scripts if len(part) < 1_000_000)


def test_the_page_is_whole_and_loads_nothing(report):
    page = page_without_library(report)
    assert (report / "report.html").stat().st_size > 4_000_000
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//(?!arxiv\.org/abs/)""", page)
    assert "@import" not in page
    assert "url(" not in page
    for heading in ("Table", "What it took", "Target and achieved", "Trade-offs", "Training curves", "Samples",
                    "Published numbers"):  # fmt: skip
        assert f">{heading}</h2>" in page
    assert "quoted, not rerun" in page
    assert "stub sampling a" in page


def test_no_name_becomes_code_in_the_page(report):
    page = page_without_library(report)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    (blob,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    data = json.loads(blob)
    assert data["views"]["shifted"][0]["caption"] == "x = 1.0 </script><b>"
    curve = data["figures"]["curve-reward"]["data"][0]
    assert (curve["x"], curve["y"]) == ([10, 20], [-2, -1])


def test_markdown_and_latex_hold_every_row(report):
    text = (report / "report.md").read_text()
    assert text.count("| unconditional |") == 2
    assert "```\nstub sampling a\n```" in text
    assert "failed: </script>" in text
    tex = (report / "report.tex").read_text()
    assert r"\begin{tabular}{lrrr}" in tex
    assert r"hits [\%]" in tex
    assert r"\textless{}/script\textgreater{}" in tex
    assert tex.count(r" \\") == 4
    assert json.loads((report / "table.json").read_text())["rows"][1]["failures"]


def test_numbers_are_shown_as_their_column_says():
    share = Column("p", "p [%]", 1, True)
    metric = proportion("p", 43, 100, "r")
    assert share.with_interval(metric) == "43.0 (33.7 to 52.8)"
    assert share.with_interval(None) == "-"
    assert Column("m", "m").interval(Metric("m", 1.0, 0.5, math.nan, 3, "r")) == "0.5 or more"
    table = make_table(benchmark(), domain(Path()), [record("shifted", "x=1.5", 0, np.ones(4))])
    assert "| shifted | 0.0 (0.0 to 49.0) | 0.5 (0.5 to 0.5) |" in as_markdown(table)
    assert "\\scriptsize (0.5 to 0.5)" in as_latex(table)


def test_reference_rows_stand_first_and_are_never_best(tmp_path):
    from dataclasses import replace

    brought = domain(tmp_path)
    ideal = Verdict(5, (proportion("hit_rate", 5, 5, "r"),))
    task = replace(brought.tasks["property"], references=lambda one: {"ideal": ("a perfect row", ideal)})
    brought = replace(brought, tasks={"property": task})
    records = [record(name, "x=1.5", 0, np.linspace(1, 2, 9)) for name in ("unconditional", "shifted")]
    table = make_table(benchmark(), brought, records)
    assert [row.kind for row in table.rows] == ["reference", "base", "sampling"]
    assert table.best(COLUMNS[0]) == {"unconditional", "shifted"}
