"""SDF (molfile V2000 and V3000): records read one by one, written with bonds or, where there are none, without."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from common.atomic import atomic_writer
from common.errors import InputError
from molgen.data.molecules import MoleculeSet
from molgen.data.records import Graph, Record, Skipped
from molgen.data.streams import MAX_RECORD_BYTES, is_text

NO_HYDROGENS = "molecules lack explicit hydrogen atoms; models of whole molecules expect them"

# What a molfile can say of one atom.
_MAX_ATOM_CHARGE = 15
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_HEADER = re.compile(r">.*?<(.*?)>")


def read_sdf(lines: Iterable[str], embed_2d: bool = False) -> Iterator[Record | Graph | Skipped]:
    """The records of an SDF file; positions in Angstrom.

    Two-dimensional drawings are skipped, or with `embed_2d` handed on as SMILES for 3D to be made from.
    """
    with rdBase.BlockLogs():
        for index, text in _split(lines):
            if text is None:
                yield Skipped(index, "", f"record is larger than {MAX_RECORD_BYTES} bytes")
            else:
                yield _parse(index, text, embed_2d)


def _split(lines: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """The text of each record with its number; None for one past the size limit."""
    index, size, held = 1, 0, []
    for line in lines:
        if line.rstrip() == "$$$$":
            yield index, "\n".join(held) if size <= MAX_RECORD_BYTES else None
            index, size, held = index + 1, 0, []
            continue
        size += len(line) + 1
        if size <= MAX_RECORD_BYTES:
            held.append(line)
    if size > MAX_RECORD_BYTES:
        yield index, None
    elif any(line.strip() for line in held):
        yield index, "\n".join(held)


def _parse(index: int, text: str, embed_2d: bool) -> Record | Graph | Skipped:
    if not is_text(text):
        return Skipped(index, "", "record holds bytes that are not UTF-8; convert the file to UTF-8")
    identifier = text.split("\n", 1)[0].strip()
    if not text.strip():
        return Skipped(index, "", "record is empty")
    block, end, data = text.partition("\nM  END")
    mol = Chem.MolFromMolBlock(f"{block}{end}\n", sanitize=False, removeHs=False) if end else None
    if mol is None:
        return Skipped(index, identifier, _why_broken(text))
    values = _tags(data)
    if mol.GetNumAtoms() == 0:
        return Skipped(index, identifier, "no atoms")
    conformer = mol.GetConformer()
    if _is_drawing(block, mol, conformer):
        if not embed_2d:
            return Skipped(index, identifier, "two-dimensional drawing, 3D is needed; embed_2d makes it with ETKDG")
        drawn = Chem.MolFromMolBlock(f"{block}{end}\n")
        if drawn is None:
            return Skipped(index, identifier, "two-dimensional drawing that RDKit cannot sanitise")
        return Graph(index, identifier, Chem.MolToSmiles(drawn), values)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.uint8)
    smiles, notes = _graph(mol)
    charge = Chem.GetFormalCharge(mol)
    return Record(index, identifier, numbers, conformer.GetPositions(), values, smiles, charge, notes)


def _graph(mol: Chem.Mol) -> tuple[str, tuple[str, ...]]:
    """Canonical SMILES (empty where the bonds make no molecule) and notes."""
    if mol.GetNumBonds() == 0 and mol.GetNumAtoms() > 1:
        return "", ()
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException:
        return "", ("molecules have bonds that RDKit cannot sanitise; kept without SMILES",)
    bare = mol.GetNumAtoms(onlyExplicit=False) > mol.GetNumAtoms()
    # Else hydrogens that mark the configuration of a double bond (imines) would stay in the SMILES.
    Chem.RemoveStereochemistry(mol)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False), isomericSmiles=False)
    return smiles, (NO_HYDROGENS,) if bare else ()


def _is_drawing(block: str, mol: Chem.Mol, conformer: Chem.Conformer) -> bool:
    """True for a flat picture instead of a geometry.

    A flat molecule (benzene) also has z = 0 everywhere, so the header's dimension code decides where it is there;
    a carbon with four neighbours in one plane is a picture whatever the header says. Without a code, four or more
    atoms with z = 0 count as a picture.
    """
    if np.abs(conformer.GetPositions()[:, 2]).max() > 0:
        return False
    header = block.split("\n", 2)[1:2]
    code = header[0][20:22].upper() if header else ""
    if code == "3D":
        return any(atom.GetAtomicNum() == 6 and atom.GetDegree() >= 4 for atom in mol.GetAtoms())
    return code == "2D" or mol.GetNumAtoms() > 3


def _tags(data: str) -> dict[str, str]:
    """The data items behind the molfile: tag -> first line of its value."""
    values: dict[str, str] = {}
    tag = None
    for line in data.split("\n"):
        if tag is None:
            match = _HEADER.match(line)
            tag = match[1].strip() if match else None
        else:
            values.setdefault(tag, line.strip())
            tag = None
    return values


def _why_broken(text: str) -> str:
    """What is wrong with a record that RDKit refuses."""
    lines = text.split("\n")
    if len(lines) < 4:
        return "record ends before its counts line"
    counts = lines[3]
    if "V3000" not in counts:
        try:
            n_atoms = int(counts[:3])
        except ValueError:
            return f"counts line is unreadable: '{counts[:40].strip()}'"
        for k in range(n_atoms):
            line = lines[4 + k] if 4 + k < len(lines) else "M  END"
            if line.startswith("M  END"):
                return f"record ends after {k} of {n_atoms} atoms"
            problem = _why_broken_atom(line)
            if problem:
                return f"atom {k + 1} {problem}"
    if not any(line.startswith("M  END") for line in lines):
        return "record is cut off: it has no 'M  END' line"
    return "RDKit cannot read its bonds or property lines"


def _why_broken_atom(line: str) -> str:
    fields = [line[0:10], line[10:20], line[20:30]]
    try:
        finite = np.isfinite([float(field) for field in fields]).all()
    except ValueError:
        return f"has unreadable coordinates: '{line[:30].strip()}'"
    if not finite:
        return "has a coordinate that is not a finite number"
    symbol = line[31:34].strip()
    try:
        with rdBase.BlockLogs():
            Chem.GetPeriodicTable().GetAtomicNumber(symbol)
    except RuntimeError:
        return f"is the unknown element '{symbol}'"
    return ""


def write_sdf(
    path: str | Path,
    molecules: MoleculeSet,
    mols: Sequence[Chem.Mol | None] | None = None,
    reasons: Sequence[str] | None = None,
    properties: Mapping[str, Sequence[object]] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write one V2000 record a molecule, Angstrom, all or nothing (more than 999 atoms: V3000).

    Every molecule gets a record. Where bonds could not be perceived the record holds its atoms alone and says so in
    the tag `bonds` (`perceived`, or `failed: reason`), so that no sample is lost.

    Args:
        molecules: M molecules.
        mols: M RDKit molecules with bonds and a conformer, None where perception failed; None for atoms only.
        reasons: M reasons of the failures, empty elsewhere.
        properties: tag -> M values; NaN and None leave the tag out. `molecules.properties` is written where
            this is None. Tags are `[A-Za-z][A-Za-z0-9_]*`.
        names: M record names; `molecule_1` and so on where None.

    Raises:
        InputError: a tag that SDF cannot hold, or lists of the wrong length.
        OSError: the file could not be written; what was there before stays.
    """
    columns = dict(molecules.properties if properties is None else properties)
    lists = {"mols": mols, "reasons": reasons, "names": names, **{f"property '{k}'": v for k, v in columns.items()}}
    for what, values in lists.items():
        if values is not None and len(values) != len(molecules):
            raise InputError(f"{what}: {len(values)} values for {len(molecules)} molecules")
    for tag in columns:
        if not _TAG.fullmatch(tag):
            raise InputError(f"'{tag}' cannot be an SDF tag; use letters, digits and _, first a letter")
    with atomic_writer(path) as file, rdBase.BlockLogs():
        for i in range(len(molecules)):
            name = _one_line(names[i]) if names is not None else f"molecule_{i + 1}"
            tags = {tag: values[i] for tag, values in columns.items()}
            block = None
            if mols is not None:
                block, tags["bonds"] = _bonded_block(mols[i], name, reasons[i] if reasons is not None else "")
            file.write(block or _bare_block(*molecules[i], name, molecules.charge(i)))
            for tag, value in tags.items():
                text = _value_text(value)
                if text:
                    file.write(f">  <{tag}>\n{text}\n\n")
            file.write("$$$$\n")


def _bonded_block(mol: Chem.Mol | None, name: str, reason: str) -> tuple[str | None, str]:
    """The molfile of a molecule with bonds and the text of its tag `bonds`; no molfile where there are none."""
    if mol is None:
        return None, f"failed: {reason or 'bonds could not be perceived'}"
    if not mol.GetNumConformers():
        return None, "failed: no coordinates came with the bonds"
    mol = Chem.Mol(mol)
    mol.SetProp("_Name", name)
    mol.GetConformer().Set3D(True)
    try:
        return Chem.MolToMolBlock(mol), "perceived"
    except (Chem.MolSanitizeException, RuntimeError) as error:
        return None, f"failed: {error}"


def _bare_block(numbers: np.ndarray, positions: np.ndarray, name: str, charge: int = 0) -> str:
    """A molfile of atoms without bonds."""
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    conformer.Set3D(True)
    for i, (number, position) in enumerate(zip(numbers.tolist(), positions.tolist(), strict=True)):
        atom = Chem.Atom(number)
        # Else a reader would add the hydrogens that the missing bonds seem to leave room for.
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
        conformer.SetAtomPosition(i, position)
    mol.AddConformer(conformer)
    if 0 < abs(charge) <= _MAX_ATOM_CHARGE and mol.GetNumAtoms():
        # Of the whole: which atom carries it is not known without bonds.
        mol.GetAtomWithIdx(0).SetFormalCharge(charge)
    mol.SetProp("_Name", name)
    return Chem.MolToMolBlock(mol, kekulize=False)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _value_text(value: object) -> str:
    """A tag's value as one line that no reader takes for the start of something else; empty where missing."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        # The shortest text that reads back as the same number.
        return repr(float(value)) if np.isfinite(value) else ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    text = _one_line(value)
    return f" {text}" if text.startswith((">", "$$$$")) else text
