"""Files from anywhere, looked at before anything parses them: nothing here trusts a name or a header."""

from __future__ import annotations

import zipfile
from pathlib import Path

from common.errors import InputError

MAX_FILE_BYTES = 256 << 20
# Arrays are read as they are, without parsing, so they may be larger.
MAX_ARRAY_BYTES = 16 << 30

ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".bz2", ".xz", ".zst", ".tbz2", ".txz"}
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}
_MAGIC = {
    b"ply\n": ".ply",
    b"ply\r": ".ply",
    b"glTF": ".glb",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x1f\x8b": "a gzip file",
    b"Rar!": "a rar archive",
    b"\x89HDF": "an HDF5 file",
}


def check_address(path: str | Path) -> None:
    """Refuse an address: nothing is fetched from the net."""
    if "://" in str(path) or str(path).startswith(("http:", "https:", "ftp:")):
        raise InputError(f"{path}: is an address; download it first and name the file here")


def read_bytes(path: Path, suffix: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a mesh file whose first bytes and length fit its suffix.

    Raises:
        InputError: missing, empty, too large, or another format than the suffix says.
    """
    check_readable(path, suffix, max_bytes)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from error
    if suffix == ".stl" and not content[:512].lstrip().startswith(b"solid") and not _is_binary_stl(content):
        raise InputError("is no STL file: its length does not fit the number of triangles in its header")
    if suffix == ".stl" and content[:512].lstrip().startswith(b"solid") and b"\0" in content:
        # Some programs begin binary files with the word that marks text.
        if not _is_binary_stl(content):
            raise InputError("is no STL file: neither text nor the length that its header says")
    elif suffix in (".obj", ".off", ".dat") and b"\0" in content:
        raise InputError(f"is a binary file, expected {suffix[1:].upper()} text")
    if suffix == ".off" and not content.lstrip().upper().startswith((b"OFF", b"COFF", b"NOFF", b"CNOFF")):
        raise InputError("does not begin with OFF; its name is wrong or it is damaged")
    return content


def check_readable(path: Path, suffix: str, max_bytes: int) -> None:
    """Refuse by the first bytes and the size what cannot be a file of this suffix.

    Raises:
        InputError: see `read_bytes`.
    """
    try:
        if not path.is_file():
            raise InputError("no such file" if not path.exists() else "is not a regular file")
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from error
    if size == 0:
        raise InputError("is empty")
    if size > max_bytes:
        raise InputError(f"has {size / 2**20:.0f} MiB, more than the limit of {max_bytes / 2**20:.0f} MiB; simplify it")
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and suffix != ".stl":
        raise InputError("is a pickle, which could run code when read")
    for magic, found in _MAGIC.items():
        if head.startswith(magic) and found != suffix:
            what = f"{found[1:].upper()} content" if found.startswith(".") else found
            if found == ".npz":
                what = "a zip archive"
            raise InputError(f"is {what} although its name ends in {suffix}; rename or unpack it")
    expected = {found: magic for magic, found in _MAGIC.items()}.get(suffix)
    if expected is not None and not head.startswith(tuple(m for m, found in _MAGIC.items() if found == suffix)):
        raise InputError(f"is no {suffix[1:].upper()} file although its name says so")


def unpacked_bytes(path: Path) -> int:
    """What an npz says that it unpacks to.

    Raises:
        InputError: it is no zip file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"is a broken npz file ({error})") from error


def _is_binary_stl(content: bytes) -> bool:
    return len(content) >= 84 and len(content) == 84 + 50 * int.from_bytes(content[80:84], "little")
