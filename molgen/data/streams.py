"""Text files from anywhere, read line by line within limits: nothing here trusts the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError

MAX_LINE_BYTES = 1 << 20
MAX_RECORD_BYTES = 8 << 20
MAX_UNPACKED_BYTES = 64 << 30

_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"Rar!": "a rar archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy array",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def read_lines(path: str | Path, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> Iterator[str]:
    """The lines of a UTF-8 text file, without their ends; `.gz` is unpacked on the way.

    Bytes that are not UTF-8 come through as lone surrogates, so that a reader can refuse one record (`is_text`) and
    go on with the next.

    Args:
        path: the file; a name ending in `.gz` is read as gzip.
        max_unpacked_bytes: a gzip file that unpacks to more is refused at that point.

    Raises:
        InputError: the file is missing, a folder, binary, an archive, a broken gzip, or past a limit.
    """
    path = Path(path)
    packed = path.suffix.lower() == ".gz"
    _check_readable(path, packed)
    size = 0
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                size += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes; is this a molecule file?"
                    )
                if packed and size > max_unpacked_bytes:
                    raise InputError(
                        f"{path}: unpacks to more than {max_unpacked_bytes} bytes; unpack it yourself if you trust it"
                    )
                if b"\x00" in line:
                    raise InputError(
                        f"{path}: line {number} holds zero bytes: a binary file, or text that is not UTF-8"
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: broken or cut-off gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def is_text(text: str) -> bool:
    """False where `read_lines` met bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_readable(path: Path, packed: bool) -> None:
    """Refuse what is not a plain text file, by its first bytes and not by its name."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name one file in it")
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file; copy its content into a file first")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not head:
        raise InputError(f"{path}: is empty")
    if head.startswith(b"\x1f\x8b") != packed:
        hint = "is not gzip although its name ends in .gz" if packed else "is gzip: let its name end in .gz"
        raise InputError(f"{path}: {hint}")
    if not packed and head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise InputError(f"{path}: is a pickle, which could run code when read; export SDF or XYZ instead")
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            raise InputError(f"{path}: is {kind}; expected plain UTF-8 text (or one text file packed with gzip)")
