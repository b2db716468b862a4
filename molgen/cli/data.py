"""`molgen data`: list, inspect and build data sets."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.options import argument, option
from common.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataOptions(CommonOptions):
    """Options of `molgen data`."""

    action: Literal["list", "inspect", "build"] = argument("what to do")
    data: str = option("", "data set name or molecule file (inspect), or the set to build (build)")
    data_folder: str = option("data", "folder that holds the named data sets")
    output_dir: str = option("", "build: where chunks and result go (default: runs/NAME); an interrupted build goes on")
    max_atoms: int | None = option(None, "inspect: leave larger molecules out (number of atoms)", at_least=1)
    workers: int | None = option(None, "build: processes (default: one a core)", at_least=1)
    limit: int | None = option(None, "build: only this many molecules", at_least=1)
    seed: int = option(0, "build: seed of selection and conformers; inspect: of 3D made from SMILES", at_least=0)


def run(options: DataOptions) -> Any:
    """Do what `action` says."""
    return {"list": _list, "inspect": _inspect, "build": _build}[options.action](options)


def _list(options: DataOptions) -> list[dict[str, str]]:
    from molgen.data.sources import SOURCES

    rows = [
        {
            "name": s.name, "description": s.description, "size": s.size, "level": s.level,
            "licence": s.licence, "origin": s.origin, "files": s.files,
        }
        for s in SOURCES.values()
    ]  # fmt: skip
    if not options.json:
        columns = ("name", "size", "level", "licence", "files to put into the data folder")
        table = [
            (r["name"], r["size"], r["level"], r["licence"], r["files"] or "(ships with the program)") for r in rows
        ]
        print_table("data sets", columns, table)
    return rows


def _inspect(options: DataOptions) -> dict[str, Any]:
    from molgen.data.inspect import summarise
    from molgen.data.sources import load_data

    if not options.data:
        raise InputError("nothing to inspect; name a data set or a file: molgen data inspect --data FILE.sdf")
    report = load_data(options.data, data_folder=options.data_folder, max_atoms=options.max_atoms, seed=options.seed)
    summary = summarise(report.molecules)
    if not options.json:
        print("\n".join(summary.lines()))
    return summary.to_dict()


def _build(options: DataOptions) -> dict[str, Any]:
    from molgen.data import gdb7_xtb

    if options.data not in ("", "gdb7-xtb"):
        raise InputError(f"got '{options.data}', expected gdb7-xtb: the one data set that the program makes itself")
    output_dir = Path(options.output_dir or "runs/gdb7-xtb-data")

    def progress(report: gdb7_xtb.BuildReport) -> None:
        logger.info(
            "%d of %d done, %d kept, failures %s", report.done, report.candidates, report.kept, dict(report.failures)
        )

    molecules, report = gdb7_xtb.build(output_dir, options.seed, options.workers, options.limit, progress)
    if not options.json:
        print(f"{len(molecules)} of {report.candidates} molecules survived: {output_dir / 'gdb7_xtb.npz'}")
    return {"output_dir": str(output_dir), "kept": report.kept, "failures": dict(report.failures)}


VERB = Verb("data", "list, inspect and build data sets", DataOptions, run)
