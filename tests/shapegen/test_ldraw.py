"""LDraw: a small library written here, and the real sampled parts where they are."""

import csv
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from shapegen.data.ldraw import Library, PartReader, load_ldraw
from shapegen.data.sources import load_data, split_data

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "ldraw"
needs_real = pytest.mark.skipif(not (REAL / "parts.csv").exists(), reason="the shared LDraw points are not here")

# A cube of half-width 1 about the origin, faces counter-clockwise from outside, as LDraw's p/box.dat describes one.
CORNERS = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def box_text(order: str = "CCW") -> str:
    lines = ["0 Box", f"0 BFC CERTIFY {order}", "2 24 0 0 0 1 1 1"]
    for quad in QUADS:
        corners = quad if order == "CCW" else quad[::-1]
        lines.append("4 16 " + " ".join(str(v) for corner in corners for v in CORNERS[corner]))
    return "\n".join(lines)


@pytest.fixture
def library(tmp_path):
    """Parts of one box each, placed in every way that LDraw has."""
    files = {
        "p/box.dat": box_text(),
        "p/boxcw.dat": box_text("CW"),
        "parts/s/half.dat": "0 ~Half\n0 BFC CERTIFY CCW\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 BOX.DAT\n",
        # 50 x 20 x 30 units, moved away.
        "parts/1.dat": "0 Brick  1 x 1\n0 Name: 1.dat\n0 BFC CERTIFY CCW\n1 16 100 0 0 25 0 0 0 10 0 0 0 15 box.dat\n",
        "parts/2.dat": "0 Thing\n0 !CATEGORY Brick\n0 BFC CERTIFY CCW\n1 16 0 0 0 -25 0 0 0 10 0 0 0 15 boxcw.dat\n",
        "parts/3.dat": "0 Plate 2\n0 BFC CERTIFY CCW\n1 16 0 0 0 2 0 0 0 2 0 0 0 2 s\\half.dat\n"
        "0 BFC INVERTNEXT\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 s\\half.dat\n",
        "parts/4.dat": "0 ~Moved to 3\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 3.dat\n",
        "parts/5.dat": "0 Plate lost\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 gone.dat\n",
        "parts/6.dat": "0 Plate loop\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 6.dat\n",
        "parts/7.dat": "0 Plate broken\n3 16 0 0 0 1 0 x 0 1 0\n",
        "parts/8.dat": "0 Plate unsure\n4 16 0 0 0 1 0 0 1 1 0 0 1 0\n",
    }
    for name, text in files.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "lib"


def volume(triangles: np.ndarray) -> float:
    return float(np.einsum("ti,ti->", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])) / 6)


def test_sub_files_are_placed(library):
    part = Library.open(library).resolve("1.dat")
    assert part.triangles.shape == (12, 3, 3)
    assert part.triangles.min(axis=(0, 1)).tolist() == [75, -10, -15]
    assert part.triangles.max(axis=(0, 1)).tolist() == [125, 10, 15]


def test_faces_keep_their_winding(library):
    opened = Library.open(library)
    assert volume(opened.resolve("1.dat").triangles) == pytest.approx(50 * 20 * 30)
    # Clockwise file, mirrored: both are undone.
    assert volume(opened.resolve("2.dat").triangles) == pytest.approx(50 * 20 * 30)
    # The inner box is inverted: a shell.
    assert volume(opened.resolve("3.dat").triangles) == pytest.approx(4**3 - 2**3)
    assert opened.resolve("3.dat").certified
    assert not opened.resolve("8.dat").certified


def test_the_library_becomes_a_set(library, in_process):
    report = load_ldraw(library, points=128, workers=1)
    assert report.shapes.class_counts == {"Brick": 2, "Plate": 2}
    assert report.shapes.unit == "mm"
    assert report.shapes.properties["volume_m3"][0] == pytest.approx(50 * 20 * 30 * 0.4**3 * 1e-9)
    # -Y of the file is up, so its 20 units are the height.
    assert report.shapes.properties["height_m"][0] == pytest.approx(20 * 0.4e-3)
    reasons = dict(report.skipped)
    assert reasons == {
        "5.dat": "sub-file 'gone.dat' is not in the library",
        "6.dat": "sub-file '6.dat' contains itself",
        "7.dat": "7.dat, line 2: a coordinate is no number",
    }
    assert "declare no winding" in "\n".join(report.warnings)
    # The same part at another place and mirrored is a near copy.
    assert report.groups[0] == report.groups[1]


def test_normals_point_outwards(library):
    sample = PartReader(str(library), 200, 0)(("1.dat", "Brick"))
    middle = (sample.points.min(axis=0) + sample.points.max(axis=0)) / 2
    assert (((sample.points - middle) * sample.normals).sum(axis=1) > 0).all()


def test_categories_can_be_chosen(library, in_process):
    assert load_ldraw(library, points=32, classes=["Brick"], workers=1).shapes.class_names == ("Brick",)
    with pytest.raises(InputError, match="no category is called 'Tyre'; found: Brick, Plate"):
        load_ldraw(library, classes=["Tyre"])


def test_no_library(tmp_path):
    with pytest.raises(InputError, match="put an LDraw library there"):
        load_ldraw(tmp_path / "none")
    (tmp_path / "p").mkdir()
    with pytest.raises(InputError, match="holds no folder 'parts'"):
        load_ldraw(tmp_path)


@needs_real
def test_the_real_points_get_their_true_size():
    report = load_data("ldraw", data_folder=REAL.parent, points=2048, classes=["Boat", "Wheel"])
    shapes = report.shapes
    assert shapes.class_counts == {"Boat": 114, "Wheel": 239}
    with open(REAL / "parts.csv", newline="") as file:
        rows = {f"{row['category']}/{row['file']}": row for row in csv.DictReader(file)}
    # Width, depth and height of the set are x, z and y of the file.
    sizes = np.array([[float(rows[i][f"d{axis}_mm"]) for axis in "xzy"] for i in shapes.ids])
    # A sample of 2,048 points does not reach the very corners.
    relative = shapes.extents / sizes
    assert np.median(relative) == pytest.approx(1, abs=0.01)
    assert relative.max() < 1.01  # sizes are rounded to 0.01 mm in the table
    assert shapes.unit == "mm"


@needs_real
def test_near_copies_stay_together():
    report = load_data("ldraw", data_folder=REAL.parent, points=64, classes=["Boat", "Wheel", "Brick"])
    parts = split_data(report)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(report.shapes)))
    groups = [set(report.groups[indices]) for indices in parts.values()]
    assert sum(len(group) for group in groups) == len(set.union(*groups))
    assert 0.7 < len(parts["train"]) / len(report.shapes) < 0.9
