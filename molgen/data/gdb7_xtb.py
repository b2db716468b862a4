"""`gdb7-xtb`: the data set that ships with molgen, and the pipeline that makes it.

Our own enumeration of small molecules (`molgen.data.enumeration`), in 3D by ETKDG and MMFF94, relaxed with GFN2-xTB,
kept where the bond graph survives, labelled with GFN2-xTB properties at the stored (rounded) geometry, so that the
oracle (`molgen.chemistry.xtb.properties`) gives every label back.

The build is resumable: molecules are done in a seeded random order, in chunks that are written atomically; a restart
skips the chunks that exist. Any number of finished chunks is a fair sample of the whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.workers import Failure, WorkerPool
from molgen.chemistry.bonds import edm_stability
from molgen.data.enumeration import MAX_HETEROATOMS, MAX_RINGS, RULES, enumerate_smiles, select
from molgen.data.molecules import MoleculeSet

logger = logging.getLogger(__name__)

NAME = "gdb7-xtb"
BUDGET = 14_000
MAX_FLUORINE_SHARE = 0.12
NUM_CONFORMERS = 4
FMAX = 0.02
CHUNK_SIZE = 200
TIMEOUT_S = 60.0
# Two atoms count as bonded up to this multiple of the sum of their covalent radii: above the longest bond in the set
# (1.6 Angstrom for C-C, limit 1.9), below the shortest 1,3-distance (2.0 Angstrom, across a cyclobutane).
BOND_FACTOR = 1.25
# Covalent radii in Angstrom: Cordero et al., Dalton Trans. 2008, 2832.
COVALENT_RADIUS = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57}
MIN_GAP_EV = 0.5
_QUANTUM = 1e-4  # of the stored coordinates, as in `MoleculeSet.save`


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        enumerated: molecules that pass the rules (0 for a given list of SMILES).
        candidates: of them, how many are to be tried.
        done: of them, how many were tried so far.
        kept: how many survived.
        failures: reason -> count.
        failed: (SMILES, reason) of each failure.
        core_seconds: time of the workers, all sessions together.
        refused: rule -> graphs that the enumeration refused (not filled for a given list of SMILES).
        seed: of the build.
        versions: package -> version.
    """

    candidates: int = 0
    enumerated: int = 0
    done: int = 0
    kept: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    core_seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)


def load() -> MoleculeSet:
    """The shipped set: properties mu_d, alpha_bohr3, homo_ev, lumo_ev, gap_ev, energy_hartree, and SMILES."""
    with as_file(files("molgen.data") / "embedded" / "gdb7_xtb.npz") as path:
        return MoleculeSet.load(path)


def split(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (int64) of training, validation and test molecules: 80, 10 and 10 % of a seeded permutation of n."""
    order = np.random.default_rng(seed).permutation(n)
    n_train, n_validation = int(0.8 * n), int(0.1 * n)
    return order[:n_train], order[n_train : n_train + n_validation], order[n_train + n_validation :]


def candidates(seed: int = 0, report: BuildReport | None = None) -> list[str]:
    """The SMILES that the build tries, in its seeded random order (half a minute)."""
    refused: Counter[str] = Counter()
    enumerated = enumerate_smiles(report=refused)
    chosen = select(enumerated, BUDGET, seed, MAX_FLUORINE_SHARE)
    if report is not None:
        report.enumerated, report.refused = len(enumerated), refused
    return [chosen[i] for i in np.random.default_rng(seed).permutation(len(chosen))]


def make_molecule(item: tuple[str, int]) -> tuple[np.ndarray, np.ndarray, dict[str, float]] | Failure:
    """One molecule from (SMILES, seed): atomic numbers (n,), rounded positions (n, 3) float32, properties.

    Or a `Failure` with a reason of `conformers.embed` or `xtb`, "relaxation did not converge", "bond graph changed"
    or "gap too small". Runs in a worker: tblite must not share a process with torch.
    """
    from molgen.chemistry.conformers import ConformerError, embed
    from molgen.chemistry.xtb import XtbError, properties, relax

    smiles, seed = item
    try:
        conformer = embed(smiles, seed, NUM_CONFORMERS)
        relaxed = relax(conformer.numbers, conformer.positions, conformer.charge, fmax=FMAX)
        if not relaxed.converged:
            return Failure("relaxation did not converge", f"{relaxed.max_force:.3f} eV/Angstrom")
        if not np.array_equal(bonds_by_distance(conformer.numbers, relaxed.positions), conformer.bonds):
            return Failure("bond graph changed")
        positions = _rounded(relaxed.positions - relaxed.positions.mean(axis=0))
        values = properties(conformer.numbers, positions, conformer.charge)
    except (ConformerError, XtbError) as error:
        return Failure(error.reason, str(error))
    if not values["gap_ev"] > MIN_GAP_EV or not all(np.isfinite(v) for v in values.values()):
        return Failure("gap too small", f"{values['gap_ev']:.3f} eV")
    return conformer.numbers, positions, values


def bonds_by_distance(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Atom pairs (b, 2) int64, smaller index first and sorted, within `BOND_FACTOR` times their covalent radii."""
    radii = np.array([COVALENT_RADIUS[int(z)] for z in numbers])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = np.triu(distances < BOND_FACTOR * (radii[:, None] + radii), k=1)
    return np.argwhere(bonded).astype(np.int64)


def build(
    output_dir: str | Path,
    seed: int = 0,
    workers: int | None = None,
    limit: int | None = None,
    progress: Callable[[BuildReport], None] | None = None,
    smiles: Sequence[str] | None = None,
    chunk_size: int = CHUNK_SIZE,
    partial_every_s: float = 180.0,
) -> tuple[MoleculeSet, BuildReport]:
    """Build the set, or go on with a build that was interrupted; Ctrl-C loses the unfinished chunks only.

    Writes to output_dir: `plan.json` (what is built), `chunks/` (work in progress), `partial.npz` every few minutes,
    and at the end `gdb7_xtb.npz` and its data card `gdb7_xtb.md`. The result is the same whatever the number of workers
    or interruptions.

    Args:
        output_dir: made where it does not exist.
        seed: of the choice and order of molecules and of their conformers.
        workers: processes; None means all cores.
        limit: stop after the first `limit` molecules of the seeded order.
        progress: called after each chunk.
        smiles: molecules to build instead of the enumeration, in this order.
        chunk_size: molecules to a file.
        partial_every_s: seconds between two writes of `partial.npz`.

    Raises:
        InputError: output_dir holds a build of something else, or no molecule survived.
    """
    output_dir = Path(output_dir)
    chunk_dir = output_dir / "chunks"
    chunk_dir.mkdir(parents=True, exist_ok=True)
    report = BuildReport(seed=seed, versions={p: version(p) for p in ("rdkit", "tblite", "numpy")})
    names = list(candidates(seed, report) if smiles is None else smiles)[:limit]
    report.candidates = len(names)
    _check_plan(output_dir / "plan.json", names, seed, chunk_size, report.versions)

    chunks = [range(start, min(start + chunk_size, len(names))) for start in range(0, len(names), chunk_size)]
    paths = [chunk_dir / f"{number:05d}.json" for number in range(len(chunks))]
    pending = [number for number, path in enumerate(paths) if not path.exists()]
    for number in set(range(len(chunks))) - set(pending):
        _count(report, json.loads(paths[number].read_text()))
    logger.info("%d of %d chunks to do", len(pending), len(chunks))

    todo = [i for number in pending for i in chunks[number]]
    results: dict[int, Any] = {}
    started = last_partial = time.monotonic()
    if todo:
        with WorkerPool(make_molecule, workers, TIMEOUT_S) as pool:
            clock, share = started, 0.0
            for position, result in pool.map((names[i], seed) for i in todo):
                results[todo[position]] = result
                number = todo[position] // chunk_size
                if not all(i in results for i in chunks[number]):
                    continue
                now = time.monotonic()
                share, clock = (now - clock) * pool.size, now
                done = [(names[i], results.pop(i)) for i in chunks[number]]
                _count(report, _write_chunk(paths[number], done, share))
                if progress is not None:
                    progress(report)
                if now - last_partial > partial_every_s:
                    last_partial = now
                    _save(_merge(paths), output_dir / "partial.npz")
    molecules = _merge(paths)
    if not len(molecules):
        raise InputError(f"none of {len(names)} molecules survived: {dict(report.failures)}")
    _save(molecules, output_dir / "gdb7_xtb.npz")
    (output_dir / "gdb7_xtb.md").write_text(data_card(molecules, report))
    (output_dir / "report.json").write_text(json.dumps(vars(report), indent=1))
    return molecules, report


def _rounded(positions: np.ndarray) -> np.ndarray:
    """The float32 positions that `MoleculeSet.load` will give back."""
    return np.round(positions / _QUANTUM).astype(np.int32).astype(np.float32) * np.float32(_QUANTUM)


def _check_plan(path: Path, names: list[str], seed: int, chunk_size: int, versions: dict[str, str]) -> None:
    plan = {
        "data": NAME,
        "seed": seed,
        "molecules": len(names),
        "chunk_size": chunk_size,
        "smiles_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "versions": versions,
    }
    if path.exists():
        found = json.loads(path.read_text())
        different = [key for key in plan if found.get(key) != plan[key]]
        if different:
            key = different[0]
            raise InputError(
                f"{path.parent} holds another build ({key}: {found.get(key)}, now {plan[key]}); "
                "take another directory, or remove it to start anew"
            )
    else:
        _write_text(path, json.dumps(plan, indent=1))


def _write_chunk(path: Path, done: list[tuple[str, Any]], core_seconds: float) -> dict[str, Any]:
    """Write the molecules, then the record that declares the chunk finished."""
    kept = [(smiles, result) for smiles, result in done if not isinstance(result, Failure)]
    record = {
        "kept": len(kept),
        "core_seconds": round(core_seconds, 3),
        "failed": [(smiles, result.reason) for smiles, result in done if isinstance(result, Failure)],
    }
    if kept:
        molecules = MoleculeSet.from_molecules(
            [(numbers, positions) for _, (numbers, positions, _) in kept],
            {name: [values[name] for _, (_, _, values) in kept] for name in kept[0][1][2]},
            [smiles for smiles, _ in kept],
        )
        _save(molecules, path.with_suffix(".npz"))
    _write_text(path, json.dumps(record))
    return record


def _count(report: BuildReport, record: dict[str, Any]) -> None:
    report.kept += record["kept"]
    report.done += record["kept"] + len(record["failed"])
    report.failures.update(reason for _, reason in record["failed"])
    report.failed.extend((smiles, reason) for smiles, reason in record["failed"])
    report.core_seconds += record["core_seconds"]


def _merge(paths: list[Path]) -> MoleculeSet:
    """All finished chunks in the order of the plan."""
    full = [path.with_suffix(".npz") for path in paths if path.exists() and path.with_suffix(".npz").exists()]
    if not full:
        return MoleculeSet.from_molecules([])
    return MoleculeSet.concatenate([MoleculeSet.load(path) for path in full])


def _save(molecules: MoleculeSet, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    molecules.save(temporary)
    os.replace(temporary, path)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def data_card(molecules: MoleculeSet, report: BuildReport) -> str:
    """The data card, in Markdown: every number in it is counted from `molecules` or taken from the build's report."""
    size = molecules.num_atoms
    owner = np.repeat(np.arange(len(molecules)), size)
    count = {z: np.bincount(owner, molecules.numbers == z, len(molecules)).astype(int) for z in COVALENT_RADIUS}
    heavy = size - count[1]
    stable = edm_stability(molecules)
    n_train, n_validation, n_test = (len(part) for part in split(len(molecules)))
    hours = report.core_seconds / 3600
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    failures = [(f"failed: {reason}", n) for reason, n in report.failures.most_common()]
    yields = _table(("", "molecules"), [("tried", report.done), *failures, ("kept", report.kept)])
    by_heavy = _table(("heavy atoms", "molecules"), [(n, int((heavy == n).sum())) for n in np.unique(heavy)])
    bins = range(int(size.min()), int(size.max()) + 1, 3)
    by_size = _table(
        ("atoms with H", "molecules"), [(f"{n} to {n + 2}", int(((size >= n) & (size < n + 3)).sum())) for n in bins]
    )
    by_element = _table(
        ("element", "molecules with it", "share", "atoms"),
        [
            (symbol, int((count[z] > 0).sum()), f"{(count[z] > 0).mean():.1%}", int(count[z].sum()))
            for symbol, z in zip("HCNOF", COVALENT_RADIUS, strict=True)
        ],
    )
    percent = (0, 1, 5, 25, 50, 75, 95, 99, 100)
    quantiles = _table(
        ("property", "mean", "std", *(f"{p} %" for p in percent)),
        [
            (column, *(f"{value:.3f}" for value in (x.mean(), x.std(), *np.percentile(x, percent))))
            for column, x in molecules.properties.items()
        ],
    )
    return f"""# {NAME}

{len(molecules):,} small organic molecules of H, C, N, O and F with up to {heavy.max()} heavy atoms, each with one
geometry and six properties at the GFN2-xTB level. Written by the build (`molgen.data.gdb7_xtb.build`), not by hand.

## How it was made
1. Every neutral closed-shell graph under the rules in `molgen/data/enumeration.py`: at most {MAX_HETEROATOMS}
   heteroatoms and {MAX_RINGS} rings, and none of {len(RULES)} forbidden substructures. {report.enumerated:,} pass;
   {report.candidates:,} were tried: the smallest first, those with fluorine up to {MAX_FLUORINE_SHARE:.0%} of a budget
   of {BUDGET:,}.
2. RDKit ETKDGv3, {NUM_CONFORMERS} conformers, each relaxed with MMFF94; the lowest in energy is kept. Stereo
   centres and double bonds carry no mark in the SMILES: the geometry shows which isomer it is.
3. Relaxed with GFN2-xTB (tblite) to forces below {FMAX} eV/Angstrom.
4. Kept where the bonds seen in the relaxed geometry (distance below {BOND_FACTOR} times the sum of the covalent radii)
   are those of the SMILES, and the gap exceeds {MIN_GAP_EV} eV.
5. Coordinates rounded to {_QUANTUM} Angstrom, and only then the properties computed, so that
   `molgen.chemistry.xtb.properties` at a stored geometry gives the stored value. The polarisability is a central
   difference of the dipole moment in fields of 0.002 atomic units.

Seed {report.seed}; {versions}. Time: {hours:.1f} worker-hours (wall time of the worker processes, beside
other work on the machine). The order is random, so that any slice is a fair sample.

Split (`molgen.data.gdb7_xtb.split`): {n_train:,} training, {n_validation:,} validation, {n_test:,} test, by
`numpy.random.default_rng(0).permutation`.

## Yield
{yields}

EDM's stability rule (arXiv 2203.17003) holds for {stable.molecules.mean():.1%} of the molecules and
{stable.atoms.mean():.2%} of the atoms: a model that scores higher has fitted the rule, not the data.

## Counts
{by_heavy}

{by_size}

{by_element}

## Properties
{quantiles}

## Limits
GFN2-xTB is a semi-empirical method: its orbital energies and dipole moments are its own and do not compare with QM9's
values from DFT. One conformer of each molecule, in vacuum. No charges, radicals or zwitterions. The rules favour the
plausible and leave out molecules that exist. Mirror images have equal labels.

## Licence
The project's (MIT); the data may also be used under CC0 1.0. No third party's data went in.
"""


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
