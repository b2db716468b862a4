"""Benchmarks of molecules: the judge, EDM's six-property protocol, and what a user meets."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contracts.chemistry_cases import QM9, TWO_WATERS, molecule_set

from common.atomic import write_json
from common.benchmark.aims import distance, error_columns, errors
from common.benchmark.config import Benchmark, read_benchmark
from common.benchmark.methods import METHODS, Trial
from common.benchmark.published import read_published
from common.cli.benchmark import check_command, planned
from common.errors import InputError
from common.rewards import Condition, Maximise, Quantity, Range, Target
from common.rewards.scoring import ScoreTable
from molgen.benchmark import edm_properties
from molgen.benchmark.edm_properties import LawFinding, LawJudge
from molgen.benchmark.judge import VALID, MoleculeJudge, check_target
from molgen.benchmark.tasks import DOMAIN, PUBLISHED, views
from molgen.cli import main, verbs
from molgen.cli.generate import GenerateOptions
from molgen.data.files import read_molecules
from molgen.data.gdb7_xtb import load
from molgen.data.molecules import MoleculeSet
from molgen.data.qm9 import NUM_MOLECULES
from molgen.data.sdf import write_sdf
from molgen.results import read_samples
from molgen.rewards.table import find_scorer
from molgen.target_law import TargetLaw, part_law

STEERED = "guidance" in GenerateOptions.__dataclass_fields__
CONFIGS = Path(__file__).parents[2] / "configs" / "benchmarks"


# The judge


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Six molecules of the embedded set, whose gaps are known, and one that is two molecules."""
    folder = tmp_path_factory.mktemp("judge")
    molecules = load().select(range(6))
    gap = float(molecules.properties["gap_ev"][0])
    samples = MoleculeSet.concatenate([molecules, molecule_set(TWO_WATERS)])
    samples.save(folder / "samples.npz")
    judge = MoleculeJudge(Benchmark("b", "m", targets=(f"gap={gap:.3f}±0.05",), methods=()), workers=1)
    verdict = judge(folder, f"gap={gap:.3f}±0.05", folder / "judged.npz")
    yield verdict, molecules.properties["gap_ev"], folder
    judge.close()


def test_the_judge_is_the_oracle_of_the_labels_and_failures_count(judged):
    verdict, gaps, _ = judged
    (achieved,) = verdict.achieved
    assert achieved.values[:6] == pytest.approx(gaps, abs=5e-3)
    assert achieved.valid == (True,) * 6 + (False,)
    found = {metric.name: metric for metric in verdict.metrics}
    hits = int((np.abs(gaps - gaps[0]) <= 0.05).sum())
    assert found["hit_rate"].value == pytest.approx(hits / 7)
    assert found["hit_rate"].n == found["validity"].n == verdict.n_samples == 7
    assert found["distinct_hit_rate"].value == pytest.approx(hits / 7)
    # xTB computes two molecules as well as one, so the mean has it; the median takes it for infinitely far.
    assert found["mae[gap_ev]"].n == 7
    errors = np.sort([*np.abs(gaps - gaps[0]), np.inf])
    assert found["median_error[gap_ev]"].value == pytest.approx(errors[3], abs=5e-3)
    assert found["atoms"].n == 7
    assert sum(verdict.failures.values()) == 1


def test_what_was_judged_is_kept_and_can_be_seen(judged):
    _, gaps, folder = judged
    kept = MoleculeSet.load(folder / "judged.npz")
    assert kept.properties[VALID].tolist() == [1.0] * 6 + [0.0]
    shown = views(folder / "judged.npz", 2)
    assert len(shown) == 2
    assert shown[0].caption.endswith(f"gap_ev {gaps[0]:.4g}")
    assert {trace["type"] for trace in shown[0].figure["data"]} >= {"mesh3d"}


def test_records_that_cannot_be_read_are_failures(tmp_path):
    write_sdf(tmp_path / "a.sdf", load().select(range(2)))
    with open(tmp_path / "a.sdf", "a") as file:
        file.write("broken\n\n\n  x\nM  END\n$$$$\n")
    (tmp_path / "notes.md").write_text("not a molecule")
    report = read_samples(tmp_path, workers=1)
    assert (len(report.molecules), len(report.skipped)) == (2, 1)
    judge = MoleculeJudge(Benchmark("b", "m", task="unconditional"), workers=1)
    verdict = judge(tmp_path, "", tmp_path / "judged.npz")
    judge.close()
    found = {metric.name: metric for metric in verdict.metrics}
    assert verdict.n_samples == 3
    assert found["validity"].value == pytest.approx(2 / 3)
    assert verdict.notes == ("1 records could not be read and count as failures",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no samples"):
        read_samples(tmp_path / "empty")


def test_how_far_off_a_value_is():
    values = np.array([1.0, 3.0, 6.0, np.nan])
    assert distance(Target(4.0), values)[:3].tolist() == [3.0, 1.0, 2.0]
    assert distance(Range(2.0, 4.0), values)[:3].tolist() == [1.0, 0.0, 2.0]
    assert distance(Range(None, 4.0), values)[:3].tolist() == [0.0, 0.0, 2.0]
    assert np.isnan(distance(Target(4.0), values)[3])
    assert distance(Maximise(), values)[:3].tolist() == [0.0, 0.0, 0.0]


def test_ratios_are_counted_where_a_share_was_asked_for():
    values = np.array([0.5, 1.0, 2.0, 0.0, -1.0, np.nan])
    valid = np.ones(6, bool)
    for goal, expected in (
        (Target(1.0, 0.1, True), 2 * math.log(2) / 3),
        (Range(None, 1.0, 0.1, True), math.log(2) / 3),
    ):
        condition = Condition("x", Quantity(name="x"), goal)
        found = {metric.name: metric for metric in errors(condition, "x", values, valid)}
        assert found["log_error[x]"].value == pytest.approx(expected)
        assert found["log_error[x]"].n == 3
        assert [column.name for column in error_columns(condition)] == list(found)
    plain = Condition("x", Quantity(name="x"), Target(1.0, 0.1))
    assert [metric.name for metric in errors(plain, "x", values, valid)] == ["mae[x]", "median_error[x]"]


@pytest.mark.parametrize("target", ["maximise qed", "gap", "require valid, maximise gap"])
def test_a_target_is_something_to_hit(target):
    with pytest.raises(InputError, match="expected values or ranges"):
        check_target(target)


# EDM's six properties


def single_atoms(count: int) -> MoleculeSet:
    return MoleculeSet(np.ones(count, np.uint8), np.zeros((count, 3), np.float32), np.arange(count + 1))


def test_the_split_is_edms_on_all_of_qm9_and_another_on_its_test_part():
    whole = edm_properties.property_split("qm9", single_atoms(NUM_MOLECULES))
    assert (len(whole.judge), len(whole.generator), len(whole.val), len(whole.test)) == (50_000, 50_000, 17_748, 13_083)
    assert whole.note == ""
    part = edm_properties.property_split("qm9-test", single_atoms(13_083))
    assert (len(part.judge), len(part.generator), len(part.val), len(part.test)) == (5_000, 5_000, 1_500, 1_583)
    assert "QM9's test part: not comparable" in part.note
    for split, total in ((whole, NUM_MOLECULES), (part, 13_083)):
        everything = np.concatenate([split.judge, split.generator, split.val, split.test])
        assert np.array_equal(np.sort(everything), np.arange(total))
    other = edm_properties.property_split("gdb7-xtb", load())
    assert "data gdb7-xtb, 12714 molecules: not comparable" in other.note


def test_targets_follow_the_law_of_the_data():
    rng = np.random.default_rng(0)
    sizes = rng.choice([3, 5, 8], 20_000, p=[0.1, 0.3, 0.6])
    values = sizes + rng.gamma(2.0, 1.0, len(sizes))
    law = TargetLaw.of(sizes, values)
    asked_sizes, asked = law.draw(1, 0, 20_000)
    for size in (3, 5, 8):
        theirs, ours = values[sizes == size], asked[asked_sizes == size]
        assert len(ours) / 20_000 == pytest.approx(len(theirs) / 20_000, abs=0.015)
        assert theirs.min() <= ours.min()
        assert ours.max() <= theirs.max() + 1e-6
        quantiles = [0.1, 0.5, 0.9]
        assert np.quantile(ours, quantiles) == pytest.approx(np.quantile(theirs, quantiles), abs=0.15)
    # One molecule of a size is a law of one value, and a size that was never seen has the law of the nearest.
    alone = TargetLaw.of(np.array([4, 9, 9]), np.array([2.5, 7.0, 8.0]))
    assert alone.values_at(np.array([4, 0, 5]), seed=0) == pytest.approx([2.5] * 3)
    # No value lies in the empty bins between two that are apart.
    apart = alone.values_at(np.full(200, 9), seed=0)
    assert set(np.round(apart, 2)) == {7.0, 8.0}
    with pytest.raises(InputError, match="got 1 missing of 2 values"):
        TargetLaw.of(np.array([4, 4]), np.array([2.5, math.nan]))


def test_what_a_sample_is_asked_for_depends_on_seed_and_index_alone():
    molecules = load()
    law = TargetLaw.of_molecules(molecules, "gap_ev")
    sizes, values = law.draw(3, 0, 40)
    for start, count in ((0, 7), (7, 33), (39, 1)):
        again = law.draw(3, start, count)
        assert np.array_equal(again[0], sizes[start : start + count])
        assert np.array_equal(again[1], values[start : start + count])
    assert not np.array_equal(law.draw(4, 0, 40)[1], values)
    with pytest.raises(InputError, match="no values of 'cv_cal_mol_k' to draw from; columns: "):
        TargetLaw.of_molecules(molecules, "cv_cal_mol_k")


def test_one_law_stands_among_other_targets():
    assert part_law(["gap = law", "substructure([N,O])"]) == ("gap", ["substructure([N,O])"])
    assert part_law(["alpha=70,gap=law"]) == ("gap", ["alpha=70"])
    assert part_law(["lawful=4"]) == (None, ["lawful=4"])
    with pytest.raises(InputError, match="got gap=law, alpha=law: one law at a time"):
        part_law(["gap=law", "alpha=law"])


# A benchmark with xTB in the place of the predictor that has learnt from D_a.
LAW = Benchmark(
    "b", "gdb7-xtb", task="edm-properties", targets=("gap=law",), methods=("conditional",), data="gdb7-xtb",
    judges={"gap": "gap"}, second_judges={"gap": "predicted_gap"},
)  # fmt: skip


def law_finding(asked: list[float] | None, measured: list[float]) -> LawFinding:
    """The verdict on four molecules that the judge takes for `measured`, and the second judge for 0 eV."""
    samples = load().select(range(4))
    properties = {} if asked is None else {"asked_gap_ev": np.array(asked)}
    judge = LawJudge(LAW, {"gap_ev": find_scorer("predicted_gap")})

    def score(scorers):
        values = {scorers[0].name: np.array(measured), scorers[1].name: np.zeros(4)}
        return ScoreTable(values, {scorers[0].name: ["" if np.isfinite(v) else "no SCF" for v in measured]})

    return judge("gap=law", replace(samples, properties=properties), score)


def test_the_error_is_over_all_samples_in_the_published_unit():
    found = law_finding([4.0, 5.0, 6.0, 7.0], [4.1, 5.0, 6.0, 6.7])
    error, second = found.metrics
    assert (error.name, second.name) == ("mae[gap]", "mae[gap, second judge]")
    assert (error.value, error.n, second.value) == (pytest.approx(100), 4, pytest.approx(5500))
    assert found.failures == {}
    assert [note for note in found.notes if "not comparable" not in note] == []
    assert found.values["asked_gap_ev"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert found.values["gap_ev"].tolist() == [4.1, 5.0, 6.0, 6.7]


def test_a_sample_that_the_judge_cannot_score_makes_no_error_smaller():
    found = law_finding([4.0, 5.0, 6.0, math.nan], [4.1, math.nan, 6.3, 7.0])
    assert (found.metrics[0].value, found.metrics[0].n) == (pytest.approx((100 + 300 + 300 + 300) / 4), 4)
    assert found.notes[-1] == (
        "2 of 4 samples have no value of gap and count with the largest error of the others, 300 meV"
    )
    assert found.failures == {"gap_ev: no SCF": 1}
    assert math.isnan(law_finding([4.0] * 4, [math.nan] * 4).metrics[0].value)


def test_samples_that_were_asked_for_nothing_are_held_against_the_law():
    found, again = law_finding(None, [6.0] * 4), law_finding(None, [6.0] * 4)
    asked = found.values["asked_gap_ev"]
    assert np.array_equal(asked, again.values["asked_gap_ev"])
    assert found.metrics[0].value == pytest.approx(1000 * np.abs(asked - 6).mean())
    assert "asked for nothing" in found.notes[-1]
    samples = replace(load().select(range(4)), properties={"asked_mu_d": np.zeros(4)})
    with pytest.raises(InputError, match="the column asked_mu_d, expected asked_gap_ev"):
        LawJudge(LAW, {})("gap=law", samples, lambda scorers: ScoreTable({}, {}))


def test_a_judge_has_learnt_from_its_own_half(tmp_path):
    for judges, message in (
        ({}, "gap has no judge; give judges: {gap: predicted_gap"),
        ({"gap": "predicted_gap"}, "has learnt from half all of gdb7-xtb, expected half a of gdb7-xtb"),
        ({"gap": "mu"}, "got 'mu' as the judge of gap"),
        ({"gap_ev": "gap"}, "got judge of 'gap_ev'"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            MoleculeJudge(replace(LAW, judges=judges), workers=1)
    description = {"domain": "molgen-predictor", "name": "p", "format": 1, "data": "gdb7-xtb", "classes": []}
    output = {"name": "gap_ev", "unit": "eV", "centre": 0.0, "scale": 1.0, "low": 0.0, "high": 9.0}
    for half, message in (("b", "has learnt from half b of gdb7-xtb, expected half a"), ("a", "")):
        write_json(tmp_path / "model.json", {**description, "half": half, "outputs": [output]})
        benchmark = replace(LAW, judges={"gap": f"predicted_gap({tmp_path})"})
        if message:
            with pytest.raises(InputError, match=message):
                MoleculeJudge(benchmark, workers=1)
        else:
            MoleculeJudge(benchmark, workers=1).close()


def test_rows_of_generators_learn_from_their_own_half(tmp_path):
    benchmark = LAW.completed(DOMAIN.tasks[LAW.task].options(LAW))
    (trial,) = planned(replace(LAW, data_folder="d"), DOMAIN, tmp_path)
    train, sample = METHODS["conditional"].recipe("molgen", benchmark, trial)
    assert "--control gap --seed 0 --data gdb7-xtb --half b" in str(train)
    assert "--target gap=law --data-folder data" in str(sample)
    assert "--half a" in str(METHODS["ctrl"].recipe("molgen", replace(benchmark, finetune={"half": "a"}), trial)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("gap=4",)}, "expected NAME=law with one of alpha, gap"),
        ({"targets": ("qed=law",)}, "got property 'qed'"),
        ({"methods": ("rgdm",)}, "got method 'rgdm'"),
        ({"task": "property", "targets": ("gap=4",)}, "the task 'property' takes no 'judges'"),
    ],
)
def test_a_wrong_benchmark_of_the_protocol_is_refused_before_it_runs(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        planned(replace(LAW, **change), DOMAIN, tmp_path)


def test_the_rows_without_a_generator_by_hand():
    sizes, values = np.array([2, 2, 3, 3]), np.array([1.0, 3.0, 10.0, 20.0])
    errors = edm_properties.atom_count_errors(sizes, values, np.array([2, 3, 9]), np.array([2.0, 16.0, 6.5]))
    # Medians 2 and 15; a size that was never seen gets the median of all, 6.5.
    assert errors.tolist() == [0.0, 1.0, 0.0]
    shuffled = edm_properties.shuffled_errors(values, seed=0)
    assert sorted(shuffled) != [0.0] * 4


@pytest.mark.skipif(not QM9.exists(), reason="needs the molecules of QM9's test part")
def test_the_bounds_are_those_that_were_published():
    """U-bound of arXiv 2203.17003, table 3, within 3 %: other molecules of the same law, and
    one permutation, whose own spread is 1 %."""
    molecules = read_molecules(QM9).molecules
    parts = edm_properties.property_split("qm9-test", molecules)
    published = {"alpha": 9.01, "gap": 1470, "homo": 645, "lumo": 1457, "mu": 1.616}
    found = {m.name: m for m in edm_properties.bound(molecules, parts, "shuffled").metrics}
    for name, value in published.items():
        assert found[f"mae[{name}]"].value == pytest.approx(value, rel=0.03)
    informed = {m.name: m for m in edm_properties.bound(molecules, parts, "size").metrics}
    assert informed["mae[alpha]"].value == pytest.approx(3.86, rel=0.02)
    assert all(informed[name].value < found[name].value for name in found)


# What a user meets


@pytest.mark.skipif(not STEERED, reason="generate has no guidance yet")
@pytest.mark.parametrize("name", ["gdb7-quick", "gdb7-full", "gdb7-labels", "gdb7-properties", "qm9-properties"])
def test_configurations_that_ship_are_sound(name):
    benchmark = read_benchmark(CONFIGS / f"{name}.yaml")
    completed = benchmark.completed(DOMAIN.tasks[benchmark.task].options(benchmark))
    for trial in planned(benchmark, DOMAIN, Path("runs/x")):
        for step in METHODS[trial.method].recipe("molgen", completed, trial):
            check_command(step, verbs())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_command_that_the_verbs_take(name, tmp_path):
    benchmark = Benchmark("b", "gdb7-xtb", targets=("gap=4.5±0.2",), methods=(name,))
    for step in METHODS[name].recipe("molgen", benchmark, Trial(name, "gap=4.5±0.2", 0, tmp_path)):
        if "--guidance" in step.words and not STEERED:
            pytest.skip("generate has no guidance yet")
        check_command(step, verbs())


@pytest.mark.parametrize("name", sorted(path.stem for path in PUBLISHED.glob("*.yaml")))
def test_published_numbers_have_sources(name):
    table = read_published(PUBLISHED, name)
    assert table.protocol
    assert table.n
    for row in table.rows:
        assert re.search(r"arXiv \d{4}\.\d{5}", row.source)


def test_a_wrong_target_is_one_line(tmp_path, capsys):
    (tmp_path / "b.yaml").write_text("model: gdb7-xtb\ntargets: [gapp=4]\nmethods: [unconditional]\n")
    assert main(["benchmark", "run", str(tmp_path / "b.yaml")]) == 2
    assert "unknown reward 'gapp' (did you mean 'gap'?)" in capsys.readouterr().err
    (tmp_path / "b.yaml").write_text("model: gdb7-xtb\ntargets: [gap=4]\nsecond_judges: {gap: gup}\n")
    assert main(["benchmark", "run", str(tmp_path / "b.yaml"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "unknown reward 'gup'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_benchmark_from_end_to_end(tmp_path, capsys):
    (tmp_path / "b.yaml").write_text(
        "model: gdb7-xtb\ntargets: [gap=4.5±0.5]\nmethods: [unconditional]\nnum_samples: 12\n"
        "generate: {steps: 6, pictures: 0, device: cpu}\npublished: [qm9-conditional]\n"
    )
    output = tmp_path / "out"
    arguments = ["benchmark", "run", str(tmp_path / "b.yaml"), "--output-dir", str(output), "--json"]
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["samples"] == 12
    assert row["evaluations_per_sample"] == 6
    samples = output / "shared" / "unconditional-seed0" / "samples"
    # The samples again, as anybody else's: the same numbers.
    added = ["benchmark", "add", str(output), "--name", "again", "--samples", str(samples), "--json"]
    assert main(added) == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert first["metrics"] == second["metrics"]
