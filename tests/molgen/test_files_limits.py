"""What the readers refuse before they read, and writes that fail half way."""

import gzip
import pickle
import resource
import zipfile

import numpy as np
import pytest

from common.atomic import atomic_writer
from common.errors import InputError
from molgen.data.files import FORMATS, read_molecules
from molgen.data.molecules import MoleculeSet
from molgen.data.sdf import write_sdf
from molgen.data.tables import write_csv
from molgen.data.xyz import write_xyz

WATER = "3\n\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


def refuse(path, message):
    with pytest.raises(InputError, match=message) as error:
        read_molecules(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_missing_file_folder_and_unknown_format(tmp_path):
    refuse(tmp_path / "none.sdf", "no such file")
    refuse(tmp_path, "is a folder")
    (tmp_path / "folder.sdf").mkdir()
    refuse(tmp_path / "folder.sdf", "is a folder")
    with pytest.raises(InputError, match=r"unknown format '\.pdb'") as error:
        read_molecules(write(tmp_path / "a.pdb", "x"))
    assert all(suffix in str(error.value) for suffix in FORMATS)
    refuse(write(tmp_path / "bare", "x"), "unknown format ''")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.sdf.zip", "a.7z", "a.npz.gz", "a.sdf.bz2"])
def test_archives(tmp_path, name):
    refuse(write(tmp_path / name, b"PK\x03\x04"), "archives are not read|single text files only")


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pt", "a.ckpt", "a.npy"])
def test_pickles(tmp_path, name):
    refuse(write(tmp_path / name, b"\x80\x04"), "not read as molecules")


def test_address():
    with pytest.raises(InputError, match="is an address; download the file first"):
        read_molecules("https://example.org/a.sdf")


def test_content_that_belies_the_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.sdf", "w") as archive:
        archive.writestr("x", "y")
    refuse(tmp_path / "a.sdf", "is a zip archive")
    refuse(write(tmp_path / "b.xyz", pickle.dumps({"a": 1})), "is a pickle")
    refuse(write(tmp_path / "c.xyz", gzip.compress(b"3\n")), "let its name end in .gz")
    refuse(write(tmp_path / "d.xyz.gz", WATER), "is not gzip")
    refuse(write(tmp_path / "e.xyz", WATER.encode("utf-16")), "UTF-16")
    refuse(write(tmp_path / "f.xyz", b"3\n\x00\x00\n"), "zero bytes")
    refuse(write(tmp_path / "g.xyz", b""), "is empty")
    refuse(write(tmp_path / "h.smi", b"\n\n"), "holds no molecules")


def test_broken_gzip(tmp_path):
    packed = gzip.compress((WATER * 200).encode())
    refuse(write(tmp_path / "a.xyz.gz", packed[:-20]), "broken or cut-off gzip")
    refuse(write(tmp_path / "b.xyz.gz", packed[:20] + b"\x00\xff" * 9 + packed[38:]), "broken or cut-off gzip")


def test_gzip_that_unpacks_to_too_much(tmp_path):
    path = write(tmp_path / "a.xyz.gz", gzip.compress((WATER * 1000).encode()))
    assert len(read_molecules(path).molecules) == 1000
    with pytest.raises(InputError, match="unpacks to more than 5000 bytes"):
        read_molecules(path, max_unpacked_bytes=5000)


def test_line_without_end(tmp_path):
    refuse(write(tmp_path / "a.smi", b"C" * (3 << 20)), "line 1 is longer than")


def molecules(n=1000):
    pair = (np.array([8, 1, 1]), np.array([[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]]))
    return MoleculeSet.from_molecules([pair] * n, {"gap_ev": np.arange(n)})


@pytest.fixture
def full_disk():
    """A limit on file size stands in for a full disk: the write itself fails, in the middle of the file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "writer",
    [
        lambda path: write_sdf(path, molecules()),
        lambda path: write_xyz(path, molecules()),
        lambda path: write_csv(path, {"x": np.arange(10_000.0)}),
    ],
    ids=["sdf", "xyz", "csv"],
)
def test_full_disk_leaves_the_old_file(tmp_path, full_disk, writer):
    path = write(tmp_path / "a.out", "precious")
    with pytest.raises(OSError, match=r"cannot write .*a.out: .*; the file that was there is untouched"):
        writer(path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError), atomic_writer(tmp_path / "a") as file:
        file.write("half\udcff")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="does not exist"), atomic_writer(tmp_path / "none" / "a"):
        pass
    with pytest.raises(InputError, match="is a folder"), atomic_writer(tmp_path):
        pass


def test_written_text_and_bytes(tmp_path):
    with atomic_writer(tmp_path / "a") as file:
        file.write("ä\n")
    with atomic_writer(tmp_path / "a", "wb") as file:
        file.write((tmp_path / "a").read_bytes() + b"\xff")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa4\n\xff"
