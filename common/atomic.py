"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from common.errors import InputError


def check_place(path: str | Path) -> None:
    """Raise `InputError` if no file can be at `path`: it is a folder, or there is no folder to hold it."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")


@contextmanager
def atomic_writer(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and put it in the place of `path` when the block ends well.

    Whatever goes wrong inside the block, a full disk included, `path` stays as it was and the temporary file goes.

    Args:
        path: the file to write; its folder must exist.
        mode: `w` (UTF-8 text, lines end in a line feed on every system) or `wb`.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
        OSError: the write failed (disk full, no permission); the message names `path` and says that it is untouched.
    """
    path = Path(path)
    check_place(path)
    # Beside the target, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") if mode == "wb" else open(temporary, "x", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kept = "the file that was there is untouched" if path.exists() else "no file was left behind"
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; {kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, all or nothing; NaN and infinity, which JSON cannot hold, become null."""
    with atomic_writer(path) as file:
        json.dump(finite(value), file, indent=2, allow_nan=False)
        file.write("\n")


def finite(value: Any) -> Any:
    """`value` (nested dicts, lists and tuples) with NaN and infinity replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
