"""What a generation leaves on disk: samples, tables, metrics, pictures."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import rdBase

from common.atomic import atomic_writer, write_json
from common.errors import InputError
from molgen.chemistry.descriptors import describe
from molgen.data.files import FORMATS, ReadReport, read_molecules
from molgen.data.molecules import MoleculeSet
from molgen.data.sdf import write_sdf
from molgen.data.sources import load_data, split_data
from molgen.metrics.report import Evaluation, evaluate

logger = logging.getLogger(__name__)

RAW_SAMPLES = "samples.npz"


def training_data(
    name: str, data_folder: str | Path = "data", part: str = "train", half: str = "all"
) -> MoleculeSet:  # fmt: skip
    """A part of a data set by name or path; that of training is what novelty and distances are measured against.

    `half` leaves one half of the training part, see `split_data`.
    """
    molecules = load_data(name, data_folder=data_folder).molecules
    return molecules.select(split_data(name, molecules, half=half)[part])


def read_samples(path: str | Path, workers: int | None = None) -> ReadReport:
    """Samples from a run directory, a molecule file, or a folder of molecule files, in that order of preference.

    Those of a folder are called FILE:RECORD.

    Raises:
        InputError: there are none.
    """
    path = Path(path)
    if not path.is_dir():
        return read_molecules(path, workers=workers)
    if (path / RAW_SAMPLES).exists():
        return ReadReport(MoleculeSet.load(path / RAW_SAMPLES))
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in FORMATS)
    if not files:
        raise InputError(f"{path} holds no samples; expected a run of `molgen generate`, or molecule files")
    reports = [read_molecules(file, workers=workers) for file in files]
    places = [f"{file.name}:{index}" for file, report in zip(files, reports, strict=True) for index in report.indices]
    return ReadReport(
        MoleculeSet.concatenate([report.molecules for report in reports]),
        [item for report in reports for item in report.skipped],
        identifiers=places,
    )


def judge(samples: MoleculeSet, reference: MoleculeSet | None, **options: Any) -> Evaluation:
    """`evaluate`, with a word about how long the reference takes."""
    if reference is not None:
        logger.info("comparing with %d reference molecules", len(reference))
    return evaluate(samples, reference, **options)


def write_samples(directory: Path, samples: MoleculeSet, evaluation: Evaluation) -> None:
    """`samples.npz` (numbers as generated), `samples.sdf` (bonds perceived) and `samples.csv`."""
    samples.save(directory / RAW_SAMPLES)
    rows = evaluation.rows
    write_sdf(
        directory / "samples.sdf",
        samples,
        mols=[found.mol for found in evaluation.perceived],
        reasons=[found.reason or "" for found in evaluation.perceived],
        properties={
            "smiles": [row["smiles"] or "" for row in rows],
            "valid": [str(row["valid"]).lower() for row in rows],
            "edm_stable": ["" if row["edm_stable"] is None else str(row["edm_stable"]).lower() for row in rows],
            **{name: values.tolist() for name, values in samples.properties.items()},
        },
        names=[f"sample_{row['index']}" for row in rows],
    )


def write_tables(
    directory: Path,
    evaluation: Evaluation,
    facts: Mapping[str, Any] | None = None,
    properties: Mapping[str, np.ndarray] | None = None,
) -> None:
    """`samples.csv` (one row a sample, with RDKit descriptors where there are bonds) and `metrics.json`.

    `properties` (column -> (M,) values) are further columns of the samples.
    """
    columns = (properties or {}).items()
    with rdBase.BlockLogs():  # Odd samples are counted in the table; RDKit's remarks add nothing.
        rows = [
            {**row, **{name: values[i] for name, values in columns}, **describe(found.mol)}
            for i, (row, found) in enumerate(zip(evaluation.rows, evaluation.perceived, strict=True))
        ]
    with atomic_writer(directory / "samples.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_json(directory / "metrics.json", {**evaluation.as_json(), **(facts or {})})
