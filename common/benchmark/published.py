"""Published numbers, kept as data: a YAML file a table, with protocol, n and source. Quoted, never rerun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.named import build, nearest


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        method: its name.
        source: where it stands.
        values: column -> the number as printed; a column that the paper lacks is absent.
        note: what a reader should know.
    """

    method: str
    source: str
    values: Mapping[str, float | str]
    note: str = ""

    def text(self, column: str) -> str:
        """The cell of a column, "-" where there is none."""
        return str(self.values.get(column, "-"))


@dataclass(frozen=True)
class PublishedTable:
    """Numbers of one protocol.

    Attributes:
        name: the file's, without suffix.
        title: above the table.
        protocol: how they were measured; numbers of other protocols do not compare.
        columns: key -> title with unit.
        rows: in the order of the file.
        n: what each number is taken over.
    """

    name: str
    title: str
    protocol: str
    columns: Mapping[str, str]
    n: str
    rows: tuple[PublishedRow, ...]


def read_published(folder: Path, name: str) -> PublishedTable:
    """The table `name` of a folder.

    Raises:
        InputError: there is none, it cannot be read, or a row has an unknown column or no source.
    """
    path = folder / f"{name}.yaml"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise InputError(f"no published table '{name}'{nearest(name, known)}; there are: {', '.join(known) or 'none'}")
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = tuple(build(PublishedRow, row, f"{path}, a row") for row in content.pop("rows"))
        table = build(PublishedTable, {**content, "name": name, "rows": rows}, str(path))
    except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is no table of published numbers: {' '.join(str(error).split())}") from error
    for row in rows:
        if not row.source:
            raise InputError(f"{path}: '{row.method}' has no source")
        for column in row.values:
            if column not in table.columns:
                raise InputError(f"{path}: '{row.method}' has a value for '{column}', which is no column")
    return table
