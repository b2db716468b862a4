"""Data sets by name: where each comes from, what it holds, how it is read and split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.named import nearest
from molgen.data import gdb7_xtb, geom, qm9, splits
from molgen.data.files import FORMATS, ReadReport, read_molecules, select_properties
from molgen.data.molecules import MoleculeSet

logger = logging.getLogger(__name__)

DATA_FOLDER = Path("data")


@dataclass(frozen=True)
class Source:
    """One named data set.

    Attributes:
        name: what the user types.
        description: one sentence.
        size: number of molecules, as text.
        level: how geometries and properties were computed.
        licence: of the data.
        origin: where to get it.
        files: what has to lie where, below the data folder; empty where nothing has to.
        load: reads it from the folder of that name.
        split: set, seed -> part -> indices; the literature's split where there is one.
        halves: training part -> `a` and `b` -> indices in it; the literature's halves where there are some.
    """

    name: str
    description: str
    size: str
    level: str
    licence: str
    origin: str
    files: str
    load: Callable[[Path], ReadReport]
    split: Callable[[MoleculeSet, int], dict[str, np.ndarray]]
    halves: Callable[[MoleculeSet], dict[str, np.ndarray]] = splits.halves


def _load_gdb7(_: Path) -> ReadReport:
    try:
        molecules = gdb7_xtb.load()
    except FileNotFoundError as error:
        raise InputError(
            "this installation lacks the data set gdb7-xtb; make it with: molgen data build gdb7-xtb"
        ) from error
    count = len(molecules)
    return ReadReport(molecules, indices=np.arange(1, count + 1), identifiers=[""] * count)


def _split_gdb7(molecules: MoleculeSet, seed: int) -> dict[str, np.ndarray]:
    parts = gdb7_xtb.split(len(molecules), seed)
    return {name: np.sort(part) for name, part in zip(splits.FRACTIONS, parts, strict=True)}


def _split_qm9(molecules: MoleculeSet, seed: int) -> dict[str, np.ndarray]:
    if len(molecules) == qm9.NUM_MOLECULES:
        return qm9.edm_split(len(molecules))
    logger.warning("%d molecules are not the whole of QM9: split by seed, not as in the literature", len(molecules))
    return splits.split(molecules, seed)


def _split_qm9_test(molecules: MoleculeSet, seed: int) -> dict[str, np.ndarray]:
    return qm9.split_of_test_part() if len(molecules) == qm9.NUM_TEST else splits.split(molecules, seed)


def _halves_qm9(training: MoleculeSet) -> dict[str, np.ndarray]:
    if len(training) not in (qm9.NUM_TRAIN, qm9.TEST_SPLIT[0]):
        return splits.halves(training)
    return dict(zip(("a", "b"), qm9.edm_halves(np.arange(len(training))), strict=True))


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="gdb7-xtb",
            description="small molecules of up to 7 heavy atoms (C, N, O, F), enumerated and computed by this project",
            size="over 10,000",
            level="GFN2-xTB geometries and properties",
            licence="MIT, with this project",
            origin="ships with the project; molgen data build gdb7-xtb makes it anew",
            files="",
            load=_load_gdb7,
            split=_split_gdb7,
        ),
        Source(
            name="qm9",
            description="stable molecules of up to 9 heavy atoms (C, N, O, F)",
            size="130,831 (133,885 less 3,054 uncharacterised)",
            level="B3LYP/6-31G(2df,p)",
            licence="CC0",
            origin="doi:10.6084/m9.figshare.978904 (quantum-machine.org/datasets), or torch_geometric.datasets.QM9",
            files="qm9/gdb9.sdf, qm9/gdb9.sdf.csv, qm9/uncharacterized.txt "
            "(or qm9/dsgdb9nsd_*.xyz, or qm9/train|valid|test.npz, or qm9/processed/data_v3.pt)",
            load=qm9.load_qm9,
            split=_split_qm9,
            halves=_halves_qm9,
        ),
        Source(
            name="qm9-test",
            description="the test part of EDM's split of QM9 as a small data set; not comparable with models of its "
            "training part",
            size="13,083",
            level="B3LYP/6-31G(2df,p)",
            licence="CC0",
            origin="as qm9",
            files="qm9-test/test.npz (EDM's arrays), or all of qm9",
            load=qm9.load_qm9_test,
            split=_split_qm9_test,
            halves=_halves_qm9,
        ),
        Source(
            name="geom-drugs",
            description="drug-like molecules of up to 181 atoms, up to 30 low conformers of each",
            size="about 6.9 million conformers of 292,000 molecules",
            level="CREST conformers at GFN2-xTB",
            licence="CC0",
            origin="doi:10.7910/DVN/JNGTDF (drugs_crude.msgpack), or the array that EDM's build_geom_dataset.py makes",
            files="geom-drugs/geom_drugs_30.npy or geom-drugs/drugs_crude.msgpack",
            load=geom.load_geom,
            split=splits.split,
        ),
    )
}


def find_source(name: str) -> Source:
    """The named data set; an `InputError` names the nearest otherwise."""
    if name in SOURCES:
        return SOURCES[name]
    raise InputError(
        f"no data set is called '{name}'{nearest(name.lower(), SOURCES)}; "
        f"known: {', '.join(SOURCES)}, or a file ({', '.join(FORMATS)})"
    )


def load_data(
    data: str | Path,
    *,
    data_folder: str | Path = DATA_FOLDER,
    properties: list[str] | None = None,
    max_atoms: int | None = None,
    seed: int = 0,
) -> ReadReport:
    """A data set by name (`qm9`, looked for in `data_folder/qm9`) or any molecule file by its path.

    Args:
        data: name or path. A name wins over a file that is called the same; write `./qm9` for the file.
        data_folder: holds one folder for each named set.
        properties: columns or property names to keep; None keeps all.
        max_atoms: larger molecules are left out.
        seed: for the 3D embedding of SMILES.

    Raises:
        InputError: no such name or file, or its content cannot be used.
    """
    name = str(data)
    if name not in SOURCES:
        # What looks like a path is one; a bare word is a mistyped name.
        if not Path(name).suffix and "/" not in name and not Path(name).exists():
            find_source(name)
        return read_molecules(data, properties=properties, max_atoms=max_atoms, seed=seed)
    report = SOURCES[name].load(Path(data_folder) / name)
    return _narrow(report, name, properties, max_atoms)


def split_data(
    data: str | Path, molecules: MoleculeSet, seed: int = 0, half: str = "all"
) -> dict[str, np.ndarray]:  # fmt: skip
    """Part (`train`, `val`, `test`) -> sorted indices: the literature's split for a named set, else 80/10/10 by seed.

    Args:
        data: name or path, as given to `load_data`.
        molecules: what it gave.
        seed: of a split that the literature does not fix.
        half: `a` or `b` leaves that half of the training part; the halves share no molecule, and are those of EDM's
            protocol for QM9.
    """
    source = SOURCES.get(str(data))
    parts = (source.split if source else splits.split)(molecules, seed)
    if half == "all":
        return parts
    train = parts["train"]
    halves = (source.halves if source else splits.halves)(molecules.select(train))
    return {**parts, "train": np.sort(train[halves[half]])}


def learnable(molecules: MoleculeSet, max_atoms: int | None = None) -> MoleculeSet:
    """The part of a training part that a generator can learn: no charged molecules, none of more than `max_atoms`.

    Raises:
        InputError: nothing is left.
    """
    small = up_to(molecules, max_atoms)
    if small.charges is None or not small.charges.any():
        return small
    neutral = np.flatnonzero(small.charges == 0)
    if not len(neutral):
        raise InputError(f"all of {len(small)} molecules have a charge, which models do not learn")
    logger.warning("%d molecules with a charge, which models do not learn, are left out", len(small) - len(neutral))
    return small.select(neutral)


def up_to(molecules: MoleculeSet, max_atoms: int | None) -> MoleculeSet:
    """Those of at most `max_atoms` atoms (None: all); an `InputError` where that is none."""
    if max_atoms is None or molecules.num_atoms.max(initial=0) <= max_atoms:
        return molecules
    kept = np.flatnonzero(molecules.num_atoms <= max_atoms)
    if not len(kept):
        raise InputError(f"every one of {len(molecules)} molecules has more than {max_atoms} atoms")
    logger.warning("%d molecules with more than %d atoms are left out", len(molecules) - len(kept), max_atoms)
    return molecules.select(kept)


def _narrow(report: ReadReport, name: str, properties: list[str] | None, max_atoms: int | None) -> ReadReport:
    molecules, indices, identifiers = report.molecules, report.indices, report.identifiers
    warnings = list(report.warnings)
    if max_atoms is not None and molecules.num_atoms.max() > max_atoms:
        kept = np.flatnonzero(molecules.num_atoms <= max_atoms)
        if not len(kept):
            raise InputError(f"{name}: every molecule has more than {max_atoms} atoms")
        warnings.append(f"{len(molecules) - len(kept)} molecules with more than {max_atoms} atoms are left out")
        molecules, indices, identifiers = molecules.select(kept), indices[kept], [identifiers[i] for i in kept]
    if properties is not None:
        molecules = select_properties(molecules, properties, name)
    return ReadReport(molecules, report.skipped, indices, identifiers, warnings)
