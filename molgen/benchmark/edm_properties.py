"""EDM's six-property protocol (Hoogeboom et al., arXiv 2203.17003, section 5.2 and appendix E).

The training part is cut in two: a judge learns the property on D_a, the generator its control on D_b alone. What to ask
for is drawn as D_b is (`molgen.target_law`). The error is the mean |c - judge(sample)| over all samples.

Three rows need no generator. Upper bound: the data's own values against the same values shuffled. Number of atoms: the
best guess that knows the size alone. Lower bound: the judge's own error on D_b.

On 13,083 molecules (the literature's test part, where the whole of QM9 is not at hand) the split is 10,000 / 1,500 /
1,583, and results do not compare with published ones; nor do those on any other data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from common.benchmark.config import Benchmark, check_names
from common.benchmark.verdict import Column, Verdict, mean
from common.errors import InputError
from common.metrics import Metric
from common.predictors import read_predictor
from common.rewards import PREDICTED
from common.rewards.scoring import ScoreTable
from molgen.data.molecules import MoleculeSet
from molgen.data.qm9 import NUM_MOLECULES, NUM_TEST
from molgen.data.sources import load_data, split_data
from molgen.predictors import DEFAULT, PREDICTORS
from molgen.rewards.reward import read_conditions
from molgen.rewards.scoring import MoleculeScorer
from molgen.rewards.table import Place, Scorer
from molgen.target_law import ASKED, TargetLaw, law_name

TASK = "edm-properties"
# Column of the data, unit of the published tables, and the factor between them.
SIX_PROPERTIES: Mapping[str, tuple[str, str, float]] = {
    "alpha": ("alpha_bohr3", "Bohr^3", 1.0),
    "gap": ("gap_ev", "meV", 1000.0),
    "homo": ("homo_ev", "meV", 1000.0),
    "lumo": ("lumo_ev", "meV", 1000.0),
    "mu": ("mu_d", "D", 1.0),
    "cv": ("cv_cal_mol_k", "cal/mol/K", 1.0),
}
# Methods that take a value for each sample, or none.
METHODS = ("unconditional", "conditional", "cfg", "ctrl")
NOT_COMPARABLE = "split of the 13,083 molecules of QM9's test part: not comparable with published numbers"
SECOND = ", second judge"


@dataclass(frozen=True)
class PropertySplit:
    """The parts of the protocol.

    Attributes:
        judge: D_a, indices.
        generator: D_b, indices.
        val, test: indices.
        note: what a reader should know; "" for the published split.
    """

    judge: np.ndarray
    generator: np.ndarray
    val: np.ndarray
    test: np.ndarray
    note: str = ""


def property_split(data: str, molecules: MoleculeSet) -> PropertySplit:
    """The split of a data set, as `train-predictor` and `finetune --half` cut it; the published one for QM9."""
    a, b = (split_data(data, molecules, half=half) for half in ("a", "b"))
    note = f"data {data}, {len(molecules)} molecules: not comparable with published numbers"
    if data == "qm9" and len(molecules) == NUM_MOLECULES:
        note = ""
    elif data == "qm9-test" and len(molecules) == NUM_TEST:
        note = NOT_COMPARABLE
    return PropertySplit(a["train"], b["train"], a["val"], a["test"], note)


# What a benchmark of the protocol asks


def check_target(target: str) -> None:
    """Raise `InputError` for what is not `NAME=law` of one of the six properties."""
    name = law_name(target)
    if name is None:
        raise InputError(f"got the target '{target}', expected NAME=law with one of {', '.join(SIX_PROPERTIES)}")
    check_names([name], SIX_PROPERTIES, "property")


def names_of(benchmark: Benchmark) -> tuple[str, ...]:
    """The properties that a benchmark asks for; all six where it names none."""
    asked = [name for name in map(law_name, benchmark.targets) if name]
    return tuple(asked or SIX_PROPERTIES)


def options_of(benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    """Verb -> what the protocol sets: generators learn from D_b."""
    place = {"data_folder": benchmark.data_folder}
    return {"finetune": {"data": _data_of(benchmark), "half": "b", **place}, "generate": place}


def columns(benchmark: Benchmark) -> list[Column]:
    """One column for each property, in the units of the published tables."""
    found = []
    for name in names_of(benchmark):
        unit = SIX_PROPERTIES[name][1]
        found.append(Column(f"mae[{name}]", f"{name} [{unit}]", -1))
        if name in benchmark.second_judges:
            found.append(Column(f"mae[{name}{SECOND}]", f"{name} [{unit}]{SECOND}", -1))
    return found


def _data_of(benchmark: Benchmark) -> str:
    return benchmark.data or "qm9"


# Who judges


def judges_of(benchmark: Benchmark) -> dict[str, Scorer]:
    """Property -> its judge.

    Raises:
        InputError: a judge that is unknown, of another property, missing, or a predictor that has not learnt from D_a.
    """
    check_names(benchmark.judges, SIX_PROPERTIES, "judge of")
    found = {name: _judge(name, text, _data_of(benchmark)) for name, text in benchmark.judges.items()}
    missing = [name for name in names_of(benchmark) if name not in found] if benchmark.targets else []
    if missing:
        raise InputError(
            f"{missing[0]} has no judge; give judges: {{{missing[0]}: predicted_{missing[0]}(FOLDER)}}, a predictor of "
            f"molgen train-predictor --data {_data_of(benchmark)} --half a"
        )
    return found


def _judge(name: str, text: str, data: str) -> Scorer:
    scorer = read_conditions(text)[0].quantity
    if not isinstance(scorer, Scorer) or scorer.key.removeprefix(PREDICTED) != SIX_PROPERTIES[name][0]:
        raise InputError(f"got '{text}' as the judge of {name}, expected such as predicted_{name}(FOLDER)")
    if scorer.place is Place.STATE:
        _, description = read_predictor(PREDICTORS.find(scorer.argument or DEFAULT), "molgen")
        seen = f"half {description.get('half')} of {description.get('data')}"
        if seen != f"half a of {data}":
            raise InputError(
                f"the judge '{text}' has learnt from {seen}, expected half a of {data}: "
                f"molgen train-predictor --data {data} --half a"
            )
    return scorer


@dataclass(frozen=True)
class LawFinding:
    """What `LawJudge` says of one run.

    Attributes:
        metrics: the mean absolute errors.
        values: column -> (M,) asked for and measured.
        failures: reason -> number of samples.
        notes: what a reader should know.
    """

    metrics: list[Metric]
    values: dict[str, np.ndarray]
    failures: dict[str, int]
    notes: list[str]


class LawJudge:
    """Errors of samples that were asked for values of the law.

    Samples that were asked for nothing are held against values drawn for their own sizes: the row of a generator that
    ignores the target.

    Args:
        benchmark: with judges.
        second: column -> another opinion.

    Raises:
        InputError: see `judges_of`.
    """

    def __init__(self, benchmark: Benchmark, second: Mapping[str, Scorer]) -> None:
        self._benchmark, self._second = benchmark, second
        self._judges = judges_of(benchmark)

    @cached_property
    def _data(self) -> tuple[MoleculeSet, PropertySplit]:
        data = _data_of(self._benchmark)
        molecules = load_data(data, data_folder=self._benchmark.data_folder).molecules
        return molecules, property_split(data, molecules)

    def __call__(self, target: str, molecules: MoleculeSet, score: Callable[[list[Scorer]], ScoreTable]) -> LawFinding:
        """The error of M samples.

        Args:
            target: `gap=law`.
            molecules: the samples, with a property `asked_gap_ev`, NaN for a record that could not be read; or without.
            score: scorers -> raw scores of the samples.

        Raises:
            InputError: the samples were asked for another property.
        """
        name = law_name(target) or ""
        column = SIX_PROPERTIES[name][0]
        judge, second = self._judges[name], self._second.get(column)
        asked, notes = self._asked(column, molecules)
        table = score([judge, *([second] if second else [])])
        measured = table.values[judge.name]
        metric, said = law_error(name, asked, measured, judge.description)
        metrics, notes = [metric], [*notes, *said]
        if second:
            metrics.append(law_error(f"{name}{SECOND}", asked, table.values[second.name], second.description)[0])
        return LawFinding(metrics, {ASKED + column: asked, column: measured}, table.failures, notes)

    def _asked(self, column: str, molecules: MoleculeSet) -> tuple[np.ndarray, list[str]]:
        """(M,) what each sample was asked for, and notes."""
        all_molecules, parts = self._data
        notes = [parts.note] if parts.note else []
        if ASKED + column in molecules.properties:
            return molecules.properties[ASKED + column], notes
        others = [other for other in molecules.properties if other.startswith(ASKED)]
        if others:
            raise InputError(f"the samples have the column {others[0]}, expected {ASKED}{column}")
        law = TargetLaw.of_molecules(all_molecules.select(parts.generator), column)
        # The digest differs between runs, so that their errors are independent.
        asked = law.values_at(molecules.num_atoms, int(molecules.digest(), 16))
        return asked, [*notes, f"asked for nothing: held against values of {column} drawn for each sample's own size"]


def law_error(name: str, asked: np.ndarray, measured: np.ndarray, judge: str) -> tuple[Metric, list[str]]:
    """`mae[NAME]`: the mean |asked - measured| over all M samples in the unit of the published tables, and notes.

    A sample without a value counts with the largest error of the others, so that it cannot make the mean smaller; where
    none has a value the error is undefined.

    Args:
        name: a key of `SIX_PROPERTIES`, with `SECOND` for the second judge.
        asked: (M,) in the column's unit.
        measured: (M,) NaN where there is no value.
        judge: who measured.
    """
    _, unit, factor = SIX_PROPERTIES[name.removesuffix(SECOND)]
    errors = factor * np.abs(asked - measured)
    failed = ~np.isfinite(errors)
    rule = f"mean absolute error in {unit} over all samples; {judge}"
    if not failed.any():
        return mean(f"mae[{name}]", errors, rule), []
    note = f"{failed.sum()} of {len(errors)} samples have no value of {name}"
    if failed.all():
        return mean(f"mae[{name}]", errors, rule), [note]
    worst = errors[~failed].max()
    note += f" and count with the largest error of the others, {worst:.4g} {unit}"
    return mean(f"mae[{name}]", np.where(failed, worst, errors), f"{rule}; {note}"), [note]


# The rows that need no generator


def shuffled_errors(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """(M,) |value - another molecule's value|: what a generator that ignores the target gets."""
    return np.abs(values - np.random.default_rng(seed).permutation(values))


def atom_count_errors(
    known_sizes: np.ndarray, known_values: np.ndarray, sizes: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """(M,) errors of the best guess that knows the number of atoms alone: the median at that size among the known.

    Published rows train a network on the size instead, whose optimum this is; a size never seen gets the median of all.
    """
    medians = {int(size): float(np.median(known_values[known_sizes == size])) for size in np.unique(known_sizes)}
    guess = np.array([medians.get(int(size), float(np.median(known_values))) for size in sizes])
    return np.abs(values - guess)


def references(benchmark: Benchmark) -> dict[str, tuple[str, Verdict]]:
    """The rows that need no generator, on D_b; the lower bound where there are judges."""
    data = _data_of(benchmark)
    molecules = load_data(data, data_folder=benchmark.data_folder).molecules
    parts, names = property_split(data, molecules), names_of(benchmark)
    rows = {
        "U-bound": ("values of D_b against the same values shuffled", bound(molecules, parts, "shuffled", names)),
        "number of atoms": ("median of D_a at each size, on D_b", bound(molecules, parts, "size", names)),
    }
    judges = judges_of(benchmark)
    if judges:
        rows["L-bound"] = ("the judge's own error on D_b", lower_bound(molecules, parts, judges))
    return rows


def bound(
    molecules: MoleculeSet, parts: PropertySplit, kind: str, names: Sequence[str] = tuple(SIX_PROPERTIES)
) -> Verdict:
    """The verdict of the row `shuffled` (upper bound) or `size` (number of atoms).

    Raises:
        InputError: the data lack a property.
    """
    metrics = []
    for name in names:
        _, unit, factor = SIX_PROPERTIES[name]
        values, sizes = _values(molecules, name), molecules.num_atoms
        if kind == "shuffled":
            errors = shuffled_errors(values[parts.generator])
        else:
            errors = atom_count_errors(
                sizes[parts.judge], values[parts.judge], sizes[parts.generator], values[parts.generator]
            )
        rule = f"mean absolute error in {unit} over D_b, {kind}"
        metrics.append(mean(f"mae[{name}]", factor * errors, rule))
    return Verdict(len(parts.generator), tuple(metrics), notes=(parts.note,) if parts.note else ())


def lower_bound(molecules: MoleculeSet, parts: PropertySplit, judges: Mapping[str, Scorer]) -> Verdict:
    """The verdict of the row of the judges themselves."""
    held_out = molecules.select(parts.generator)
    notes = [parts.note] if parts.note else []
    metrics = []
    with contextlib.closing(MoleculeScorer(list(judges.values()))) as scorer:
        table = scorer.score(held_out)
    for name, judge in judges.items():
        metric, said = law_error(name, _values(held_out, name), table.values[judge.name], judge.description)
        metrics.append(metric)
        notes += said
    return Verdict(len(held_out), tuple(metrics), notes=tuple(notes))


def _values(molecules: MoleculeSet, name: str) -> np.ndarray:
    column = SIX_PROPERTIES[name][0]
    if column not in molecules.properties:
        raise InputError(f"the data lack '{column}', which the six-property protocol needs")
    return molecules.properties[column]
