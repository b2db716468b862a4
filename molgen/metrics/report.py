"""`evaluate`: every metric that the samples and the reference allow, and a row for each sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.metrics import Metric, proportion
from molgen.chemistry.bonds import count_fragments, edm_bonds, edm_stability, per_molecule
from molgen.chemistry.perception import Perceived, flat_smiles, perceive
from molgen.data.molecules import MoleculeSet
from molgen.metrics import geometry
from molgen.metrics.posebusters import INSTALL, installed_version, posebusters_metrics
from molgen.metrics.reference import Reference
from molgen.metrics.stability import stability_metrics, valency_metrics
from molgen.metrics.validity import (
    connectedness,
    edm_smiles,
    edm_validity_metrics,
    novelty,
    validity_metrics,
)


@dataclass(frozen=True)
class Evaluation:
    """The verdict on a set of samples.

    Attributes:
        metrics: one `Metric` for each name, in reading order.
        omitted: name of what was not measured -> why.
        rows: for each sample its index, n_atoms, valid, reason, smiles, edm_stable, edm_stable_atoms, edm_valid,
            valency_correct, fragments, novel and posebusters (None where not judged).
        perceived: for each sample its molecule with bonds, or the reason why there is none.
        reasons: reason of failed perception -> number of samples.
    """

    metrics: tuple[Metric, ...]
    omitted: Mapping[str, str]
    rows: tuple[dict[str, Any], ...]
    perceived: tuple[Perceived, ...]
    reasons: Mapping[str, int]

    def __getitem__(self, name: str) -> Metric:
        """The metric called `name`; KeyError if it was not measured."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def value(self, name: str) -> float:
        """The value of the metric called `name`, NaN if it was not measured."""
        return next((metric.value for metric in self.metrics if metric.name == name), math.nan)

    def as_json(self) -> dict[str, Any]:
        """What metrics.json holds: sample count, metrics, omissions, reasons of failure."""
        return {
            "n_samples": len(self.rows),
            "metrics": [metric.as_row() for metric in self.metrics],
            "omitted": dict(self.omitted),
            "failures": dict(self.reasons),
        }


def evaluate(
    samples: MoleculeSet,
    reference: MoleculeSet | Reference | None = None,
    *,
    known_smiles: Iterable[str] | None = None,
    single_only: bool = False,
    posebusters: int = 0,
    workers: int | None = None,
    time_limit: float = 2.0,
    seed: int = 0,
) -> Evaluation:
    """Judge samples. Broken samples count as failures and are never dropped; an empty set gives undefined metrics.

    Args:
        samples: decoded molecules.
        reference: what to compare distributions and novelty with, usually the training set. Prepare a `Reference`
            once where several sets are judged against it.
        known_smiles: further molecules that are not novel, or the only ones without a reference.
        single_only: build EDM-valid molecules with single bonds only, as EDM does for GEOM-Drugs.
        posebusters: at most how many samples go through PoseBusters (about a second each); 0 for none.
        workers: processes at most; all cores by default.
        time_limit: seconds for the perception of one molecule.
        seed: of the bootstrap and of the draw for PoseBusters.
    """
    omitted: dict[str, str] = {}
    bonds = edm_bonds(samples)
    stability = edm_stability(samples, bonds)
    fragments = count_fragments(samples)
    explicit, _ = edm_smiles(samples, single_only, bonds)
    perceived = perceive(samples, workers, time_limit)
    valency_rows, valency_correct = valency_metrics(samples, perceived)

    metrics = [
        *stability_metrics(samples, stability),
        *edm_validity_metrics(explicit, single_only),
        *validity_metrics(perceived),
        *valency_rows,
        connectedness(samples, fragments),
    ]
    identities = [one.flat_smiles if one.valid else "" for one in perceived]
    if isinstance(reference, MoleculeSet):
        reference = Reference.from_molecules(reference, single_only, workers, seed)
    known = (reference.smiles if reference else frozenset()) | flat_smiles(known_smiles or ())
    novel: list[bool | None] = [None] * len(samples)
    if known:
        row, flags = novelty(identities, known, f"the reference's {len(known)}")
        metrics.append(row)
        novel = [bool(flag) if text else None for flag, text in zip(flags, identities, strict=True)]
    else:
        omitted["novelty"] = "no reference molecules were given"
    if reference is None:
        omitted["distances"] = "no reference set was given: bond lengths and angles, sizes and elements not compared"
    else:
        metrics.append(_edm_novelty(explicit, reference.edm_smiles))
        metrics += _distances(samples, perceived, reference, seed)

    passed: dict[int, bool] = {}
    if posebusters and installed_version() is None:
        omitted["posebusters"] = f"PoseBusters is not installed; {INSTALL}"
    elif posebusters:
        rows, passed = posebusters_metrics(perceived, posebusters, seed, workers)
        metrics += rows
    else:
        omitted["posebusters"] = "not asked for"

    stable_atoms = per_molecule(stability.atoms, samples.offsets)
    rows = tuple(
        {
            "index": i,
            "n_atoms": int(samples.num_atoms[i]),
            "valid": one.valid,
            "reason": one.reason,
            "smiles": one.smiles,
            "edm_stable": bool(stability.molecules[i]) if stability.covered[i] else None,
            "edm_stable_atoms": int(stable_atoms[i]),
            "edm_valid": explicit[i] is not None,
            "valency_correct": bool(valency_correct[i]),
            "fragments": int(fragments[i]),
            "novel": novel[i],
            "posebusters": passed.get(i),
        }
        for i, one in enumerate(perceived)
    )
    reasons = Counter(one.reason for one in perceived if one.reason is not None)
    return Evaluation(tuple(metrics), omitted, rows, tuple(perceived), dict(reasons.most_common()))


def _edm_novelty(explicit: list[str | None], known: frozenset[str]) -> Metric:
    distinct = {smiles for smiles in explicit if smiles}
    rule = f"distinct EDM-valid explicit-H SMILES not among the reference's {len(known)} (arXiv 2203.17003)"
    return proportion("edm_novelty", len(distinct - known), len(distinct), rule)


def _distances(samples: MoleculeSet, perceived: list[Perceived], reference: Reference, seed: int) -> list[Metric]:
    lengths, angles = geometry.bonds_and_angles(perceived)
    return [
        geometry.atom_count_metric(samples, reference.molecules, seed),
        geometry.atom_type_metric(samples, reference.molecules, seed),
        geometry.bond_type_metric(lengths, reference.lengths, seed),
        *geometry.length_metrics(lengths, reference.lengths, seed),
        *geometry.angle_metrics(angles, reference.angles, seed),
    ]
