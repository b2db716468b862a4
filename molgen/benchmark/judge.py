"""`MoleculeJudge`: validity, stability and properties of samples, by rules and by GFN2-xTB; never by a reward model.

All samples count. A sample that is broken, that could not be read or that xTB cannot compute hits no target and stays
in every denominator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common.benchmark.aims import achieved, errors, hits
from common.benchmark.config import Benchmark
from common.benchmark.verdict import Achieved, Verdict, mean
from common.errors import InputError
from common.metrics import Metric, proportion
from common.rewards import Condition, Range, Target
from molgen.benchmark.edm_properties import TASK, LawJudge
from molgen.chemistry.perception import Perceived
from molgen.data.molecules import MoleculeSet
from molgen.metrics.reference import Reference
from molgen.metrics.report import evaluate
from molgen.results import read_samples, training_data
from molgen.rewards.reward import read_conditions, scorers_of
from molgen.rewards.scoring import MoleculeScorer, ScoreTable
from molgen.rewards.table import Scorer, find_column

# Of all metrics of `molgen evaluate`, those that tell methods apart.
KEPT_METRICS = (
    "validity", "validity_x_uniqueness", "molecule_stability", "atom_stability", "novelty", "connectedness",
    "edm_validity", "edm_validity_x_uniqueness", "atom_count_tv", "atom_type_tv", "bond_length_w1_angstrom",
    "bond_angle_w1_degree",
)  # fmt: skip
# Column of a kept set: 1 where the judge found a sample valid.
VALID = "valid"
HIT_RULE = "valid (RDKit-perceived bonds) and within the tolerance of every target; over all samples"


class MoleculeJudge:
    """See `common.benchmark.domain.Judge`.

    Args:
        benchmark: names the reference data and second judges.
        workers: processes at most; None for one a core.

    Raises:
        InputError: a judge or second judge that is unknown, or a task that needs judges and has none.
    """

    def __init__(self, benchmark: Benchmark, workers: int | None = None) -> None:
        self._benchmark, self._workers = benchmark, workers
        self._second = {find_column(quantity): _scorer(text) for quantity, text in benchmark.second_judges.items()}
        self._law = LawJudge(benchmark, self._second) if benchmark.task == TASK else None
        self._scorers: dict[tuple[str, ...], MoleculeScorer] = {}

    def close(self) -> None:
        """End the workers."""
        for scorer in self._scorers.values():
            scorer.close()
        self._scorers = {}

    @cached_property
    def _reference(self) -> Reference | None:
        if not self._benchmark.data:
            return None
        molecules = training_data(self._benchmark.data, self._benchmark.data_folder)
        return Reference.from_molecules(molecules, workers=self._workers)

    def __call__(self, samples: Path, target: str, keep: Path) -> Verdict:
        """See `common.benchmark.domain.Judge`."""
        report = read_samples(samples, self._workers)
        # A record that cannot be read is a failed sample: an empty molecule stands in for it.
        unread = [(np.empty(0, np.uint8), np.empty((0, 3), np.float32))] * len(report.skipped)
        molecules = MoleculeSet.concatenate([report.molecules, MoleculeSet.from_molecules(unread)])
        evaluation = evaluate(molecules, self._reference, workers=self._workers)
        metrics = [metric for name in KEPT_METRICS for metric in evaluation.metrics if metric.name == name]
        sizes = mean("atoms", molecules.num_atoms, "mean number of atoms, hydrogens included, of all samples")
        failures = {f"bonds: {reason}": count for reason, count in evaluation.reasons.items()}
        aims: list[Achieved] = []
        notes = [f"{len(unread)} records could not be read and count as failures"] if unread else []
        measured = {VALID: np.array([float(one.valid) for one in evaluation.perceived])}
        if target and self._law is not None:
            law = self._law(target, molecules, lambda scorers: self._score(scorers, molecules, evaluation.perceived))
            metrics, failures = [*law.metrics, *metrics], {**failures, **law.failures}
            measured, notes = {**measured, **law.values}, [*notes, *law.notes]
        elif target:
            found, aims, failed = self._aims(target, molecules, evaluation.perceived)
            metrics, failures = [*found, *metrics], {**failures, **failed}
        measured |= {one.quantity: np.array(one.values) for one in reversed(aims)}
        replace(molecules, properties=measured).save(keep)
        return Verdict(len(molecules), (*metrics, sizes), tuple(aims), failures, tuple(notes))

    def _aims(
        self, target: str, molecules: MoleculeSet, perceived: tuple[Perceived, ...]
    ) -> tuple[list[Metric], list[Achieved], Mapping[str, int]]:
        """How well the samples meet what was asked for."""
        conditions = check_target(target)
        judges = scorers_of(conditions)
        judges += [second for name, second in self._second.items() if any(name == j.name for j in judges)]
        table = self._score(judges, molecules, perceived)
        valid = np.array([one.valid for one in perceived], bool)
        hit, metrics, aims = valid.copy(), [], []
        for condition in conditions:
            scorer = condition.quantity
            values = table.values[scorer.name]
            hit &= hits(condition, values)
            second = self._second.get(scorer.name)
            metrics += errors(condition, scorer.name, values, valid)
            aims.append(achieved(condition, values, valid, scorer.description))
            if second is not None:
                values = table.values[second.name]
                metrics += errors(condition, f"{scorer.name}, second judge", values, valid)
                aims.append(achieved(condition, values, valid, f"{second.name}: {second.description}"))
        texts = {one.flat_smiles for one, is_hit in zip(perceived, hit, strict=True) if is_hit}
        n = len(molecules)
        rates = [
            proportion("hit_rate", int(hit.sum()), n, HIT_RULE),
            proportion("distinct_hit_rate", len(texts), n, f"distinct molecules among the hits; {HIT_RULE}"),
        ]
        return [*rates, *metrics], aims, table.failures

    def _score(self, scorers: list[Scorer], molecules: MoleculeSet, perceived: tuple[Perceived, ...]) -> ScoreTable:
        key = tuple(scorer.name for scorer in scorers)
        if key not in self._scorers:
            self._scorers[key] = MoleculeScorer(scorers, self._workers)
        return self._scorers[key].score(molecules, perceived)


def check_target(target: str) -> tuple[Condition, ...]:
    """The conditions of a target.

    Raises:
        InputError: it cannot be read, or asks for something that one cannot hit or miss.
    """
    conditions = read_conditions(target)
    for condition in conditions:
        if not isinstance(condition.goal, Target | Range):
            raise InputError(f"got the target '{target}', expected values or ranges, such as gap=4.5±0.2 or alpha<70")
    return conditions


def _scorer(text: str) -> Scorer:
    quantity = read_conditions(text)[0].quantity
    if not isinstance(quantity, Scorer):
        raise InputError(f"got '{text}', expected the name of a scorer (`molgen rewards` lists them)")
    return quantity
