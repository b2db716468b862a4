"""Folders and files of shapes: every format, every layout, and everything that can be wrong with a file."""

import numpy as np
import pytest
import trimesh

from common.errors import InputError
from shapegen.data.files import FORMATS, read_shapes
from shapegen.data.meshes import MeshFile, MeshReader, parse_mesh
from shapegen.data.shapes import ShapeSet
from shapegen.data.sources import split_data

FACES = [[0, 1, 2]]
SIZE = (0.1, 0.2, 0.4)


def box(size=SIZE) -> trimesh.Trimesh:
    return trimesh.creation.box(size)


def cloud(count: int = 100, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3)).astype(np.float32) * scale


def read_one(path, **options):
    """The sample of one mesh file, read in this process (the pool has its own test)."""
    return MeshReader(**({"points": 256} | options))(MeshFile(str(path), path.name, "a"))


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".off", ".glb"])
def test_every_mesh_format(tmp_path, suffix):
    path = tmp_path / f"box{suffix}"
    mesh = box()
    if suffix == ".glb":  # Y is up in its files
        mesh = box((SIZE[0], SIZE[2], SIZE[1]))
    mesh.export(path)
    sample = read_one(path, unit="m")
    assert sample.points.shape == (256, 3)
    assert sample.normals is not None
    assert sample.properties["volume_m3"] == pytest.approx(np.prod(SIZE), rel=1e-5)
    assert sample.properties["height_m"] == pytest.approx(SIZE[2], rel=1e-5)
    assert sample.properties["genus"] == 0
    # Points lie on the surface, normals point outwards.
    outside = np.abs(sample.points / np.array(SIZE)).max(axis=1)
    assert outside == pytest.approx(0.5, abs=1e-4)
    assert ((sample.points * sample.normals).sum(axis=1) > 0).all()


def test_up_axis_turns_and_does_not_mirror(tmp_path):
    path = tmp_path / "a.off"
    box((1, 2, 3)).export(path)
    assert read_one(path, up="y").properties["height"] == pytest.approx(2)
    assert read_one(path, up="-y").properties["height"] == pytest.approx(2)
    for up in ("z", "y", "-y"):
        assert read_one(path, up=up).properties["volume"] == pytest.approx(6)


def test_units(tmp_path):
    path = tmp_path / "a.stl"
    box((100, 200, 400)).export(path)
    sample = read_one(path, unit="mm")
    assert np.ptp(sample.points[:, 2]) == pytest.approx(400, rel=0.05)
    assert sample.properties["volume_m3"] == pytest.approx(np.prod(SIZE), rel=1e-5)
    assert "volume" in read_one(path).properties
    box().export(tmp_path / "a.glb")
    # GLB is in metres, whatever the set is in.
    assert np.ptp(read_one(tmp_path / "a.glb", unit="mm").points[:, 1]) == pytest.approx(400, rel=0.05)


def test_parts_of_a_scene_keep_their_places(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(box((1, 1, 1)))
    scene.add_geometry(box((1, 1, 1)), transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.export(tmp_path / "two.glb")
    assert read_one(tmp_path / "two.glb").properties["width"] == pytest.approx(6)


BROKEN = {
    "empty.obj": (b"", "is empty"),
    "no_faces.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "has no faces; save a point cloud"),
    "text.obj": (b"this is a letter, not a mesh\n", "has no faces"),
    "binary.obj": (b"v 0 0 0\0\0\0", "binary file, expected OBJ text"),
    "nan.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 nan 0\n3 0 1 2\n", "not a finite number"),
    "line.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "has no area"),
    "point.off": (b"OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "all points are one point"),
    "lying.off": (b"solid x\nendsolid x\n", "does not begin with OFF"),
    "lying.stl": (b"\0" * 80 + b"\xff\xff\xff\x7f" + b"\0" * 50, "does not fit the number of triangles"),
    "lying.glb": (b"v 0 0 0\n", "is no GLB file"),
    "far.off": (b"OFF\n3 1 0\n1e9 0 0\n1e9 1 0\n1e9 0 1\n3 0 1 2\n", "away from the origin"),
    "zip.obj": (b"PK\x03\x04rest", "is a zip archive although its name ends in .obj"),
    "gzip.ply": (b"\x1f\x8b\x08rest", "is a gzip file although"),
    "ply.obj": (b"ply\nformat ascii 1.0\n", "is PLY content although its name ends in .obj"),
    "pickle.off": (b"\x80\x04\x95rest", "is a pickle"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mesh_says_what_is_wrong(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_one(tmp_path / name)


def test_limits(tmp_path, monkeypatch):
    path = tmp_path / "a.off"
    box().export(path)
    with pytest.raises(InputError, match="more than the limit of 0 MiB; simplify"):
        read_one(path, max_bytes=100)
    monkeypatch.setattr("shapegen.data.meshes.MAX_FACES", 11)
    with pytest.raises(InputError, match="12 faces, more than the limit of 11"):
        read_one(path)


def test_a_part_named_many_times_is_counted_before_it_is_copied(monkeypatch):
    scene = trimesh.Scene()
    scene.add_geometry(box(), geom_name="box")
    for k in range(9):
        scene.graph.update(frame_to=f"copy {k}", geometry="box", matrix=np.eye(4))
    monkeypatch.setattr("shapegen.data.meshes.MAX_FACES", 100)
    with pytest.raises(InputError, match="120 faces"):
        parse_mesh(scene.export(file_type="glb"), ".glb")


def test_no_other_file_is_opened(tmp_path):
    secret = tmp_path / "secret.mtl"
    secret.write_text("newmtl a\n")
    secret.chmod(0)
    path = tmp_path / "a.obj"
    path.write_text("mtllib secret.mtl\nmtllib ../../etc/passwd\nusemtl a\n" + box().export(file_type="obj"))
    assert read_one(path).properties["genus"] == 0


def test_open_and_inverted_meshes_are_used_and_noted(tmp_path):
    opened, inverted = box(), box()
    opened.update_faces(np.arange(12) > 0)
    opened.export(tmp_path / "open.ply")
    sample = read_one(tmp_path / "open.ply")
    assert "not watertight" in sample.notes[0]
    assert np.isnan(sample.properties["volume"])
    inverted.invert()
    inverted.export(tmp_path / "in.ply")
    sample = read_one(tmp_path / "in.ply")
    assert "inside out" in sample.notes[0]
    assert sample.properties["volume"] == pytest.approx(np.prod(SIZE))


def test_stl_triangles_are_joined(tmp_path):
    box().export(tmp_path / "a.stl")
    assert read_one(tmp_path / "a.stl").notes == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, each format, a broken file, files that are no shapes, a copy."""
    root = tmp_path_factory.mktemp("shapes")
    for class_name, suffixes in {"box": (".obj", ".ply", ".stl", ".off"), "ball": (".glb",)}.items():
        (root / class_name).mkdir()
        for k, suffix in enumerate(suffixes):
            shape = box((1, 2, 3 + k)) if class_name == "box" else trimesh.creation.icosphere(subdivisions=2)
            shape.export(root / class_name / f"{k}{suffix}")
    (root / "box" / "copy.obj").write_bytes((root / "box" / "0.obj").read_bytes())
    (root / "box" / "0.mtl").write_text("newmtl a")
    (root / "box" / "bad.off").write_bytes(BROKEN["nan.off"][0])
    (root / "box" / "index.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    (root / "ball" / "old.zip").write_bytes(b"PK")
    (root / "ball" / "scan.e57").write_bytes(b"x")
    np.save(root / "ball" / "cloud.npy", cloud(400))
    trimesh.PointCloud(cloud(300, 1)).export(root / "ball" / "cloud.ply")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a.obj").write_text("")
    return root


def test_a_folder_of_everything(folder):
    report = read_shapes(folder, points=256, workers=2)
    assert report.shapes.class_counts == {"ball": 3, "box": 5}
    assert report.shapes.points.shape == (8, 256, 3)
    assert report.shapes.ids[0] == "ball/0.glb"
    reasons = dict(report.skipped)
    assert set(reasons) == {"box/bad.off", "box/index.obj", "ball/old.zip", "ball/scan.e57"}
    assert "archives are not read" in reasons["ball/old.zip"]
    assert "unknown format '.e57'" in reasons["ball/scan.e57"]
    assert "cannot be read as OBJ (IndexError" in reasons["box/index.obj"]
    text = "\n".join(report.lines())
    assert "read 8 of 12 shapes in 2 classes" in text
    assert "1 files are copies of others" in text
    assert "unit of the files is unknown" in text
    # The cloud has extents, and no volume.
    assert np.isnan(report.shapes.properties["volume"]).sum() == 2
    assert np.isfinite(report.shapes.properties["height"]).all()
    parts = split_data(report)
    place = {i: part for part, members in parts.items() for i in members}
    ids = report.shapes.ids.tolist()
    assert place[ids.index("box/0.obj")] == place[ids.index("box/copy.obj")]


def test_classes_can_be_chosen(folder, in_process):
    assert read_shapes(folder, points=64, classes=["ball"], workers=1).shapes.class_names == ("ball",)
    with pytest.raises(InputError, match="no class is called 'cube'; found: ball, box"):
        read_shapes(folder, classes=["cube"])


def test_reading_twice_gives_the_same(folder, in_process):
    first, second = (read_shapes(folder, points=64, classes=["ball"]) for _ in range(2))
    assert first.shapes.digest() == second.shapes.digest()
    assert read_shapes(folder, points=64, classes=["ball"], seed=1).shapes.digest() != first.shapes.digest()


def test_one_mesh_file(tmp_path, in_process):
    box().export(tmp_path / "crate.glb")
    report = read_shapes(tmp_path / "crate.glb", points=32)
    assert report.shapes.class_names == ("crate",)
    assert report.shapes.unit == "m"


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def test_published_parts(tmp_path):
    for class_name in ("02691156", "03001627"):
        for part, count in {"train": 6, "val": 2, "test": 3}.items():
            for k in range(count):
                write(tmp_path / class_name / part / f"{k}.npy", cloud(120, k))
    report = read_shapes(tmp_path, points=64, up="y")
    assert report.shapes.class_counts == {"airplane": 11, "chair": 11}
    assert report.parts is not None
    assert {part: len(v) for part, v in split_data(report).items()} == {"train": 12, "val": 4, "test": 6}
    assert all(f"/{part}/" in report.shapes.ids[i] for part, v in split_data(report).items() for i in v)


def test_validation_is_taken_from_training_where_none_is_published(tmp_path):
    for part, count in {"train": 20, "test": 5}.items():
        for k in range(count):
            write(tmp_path / "chair" / part / f"{k}.npy", cloud(64, k))
    parts = split_data(read_shapes(tmp_path, points=64))
    assert {part: len(v) for part, v in parts.items()} == {"train": 18, "val": 2, "test": 5}


def test_a_flat_folder_is_one_class(tmp_path):
    write(tmp_path / "cups" / "a.npy", cloud())
    write(tmp_path / "cups" / "b.npy", np.stack([cloud(90, 1), cloud(90, 2)]))
    report = read_shapes(tmp_path / "cups", points=80)
    assert report.shapes.class_counts == {"cups": 3}
    assert report.shapes.ids.tolist() == ["a.npy", "b.npy#0", "b.npy#1"]


def test_clouds_with_few_points_do_not_spoil_the_set(tmp_path):
    for k in range(39):
        write(tmp_path / f"{k:02}.npy", cloud(100, k))
    write(tmp_path / "few.npy", cloud(20))
    report = read_shapes(tmp_path, points=512)
    assert report.shapes.num_points == 100
    assert report.skipped == [("few.npy", "20 points, fewer than the 100 of the other shapes")]
    assert "100 points a shape are stored instead of 512" in "\n".join(report.warnings)


def test_a_class_with_one_shape_is_reported(tmp_path):
    for k in range(3):
        write(tmp_path / "a" / f"{k}.npy", cloud(64, k))
    write(tmp_path / "b" / "0.npy", cloud(64, 9))
    report = read_shapes(tmp_path, points=64)
    assert "1 classes hold one shape only (b)" in "\n".join(report.warnings)
    assert 3 in split_data(report)["train"]


def test_mixed_scales_are_reported(tmp_path):
    for k, scale in enumerate((1, 1, 1, 1000)):
        write(tmp_path / f"{k}.npy", cloud(64, k, scale))
    assert "mixed units?" in "\n".join(read_shapes(tmp_path, points=64).warnings)


def test_a_stack_of_clouds_stays_on_the_disk(tmp_path):
    stack = np.stack([cloud(64, k) for k in range(5)])
    np.save(tmp_path / "stack.npy", stack)
    report = read_shapes(tmp_path / "stack.npy", points=64, unit="mm")
    assert isinstance(report.shapes.points, np.memmap)
    assert np.array_equal(report.shapes.points, stack)
    assert report.shapes.properties["height_m"] == pytest.approx(np.ptp(stack[:, :, 2], axis=1) / 1000)
    stack[2, 3, 1] = np.inf
    np.save(tmp_path / "stack.npy", stack)
    report = read_shapes(tmp_path / "stack.npy", points=32)
    assert report.skipped == [("stack.npy#2", "point 4 has a coordinate that is not a finite number")]
    assert report.shapes.points.shape == (4, 32, 3)


def test_npz_files(tmp_path):
    np.savez(tmp_path / "a.npz", points=cloud(), labels=np.zeros(3))
    assert read_shapes(tmp_path / "a.npz", points=50).shapes.num_points == 50
    shapes = ShapeSet(cloud()[None], np.zeros(1, int), ("cup",), unit="m")
    shapes.save(tmp_path / "b.npz")
    assert read_shapes(tmp_path / "b.npz").shapes.unit == "m"
    np.savez(tmp_path / "c.npz", left=cloud(), right=cloud())
    with pytest.raises(InputError, match="holds the arrays left, right, expected one called 'points'"):
        read_shapes(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 4)), r"expected \(points, 3\)"),
        (np.zeros((0, 3)), r"expected \(points, 3\)"),
        (np.zeros((64, 3)), "all points are one point"),
        (np.zeros((3, 3)), "3 points, expected at least 16"),
        (np.full((64, 3), np.nan), "not a finite number"),
        (np.array(["a"]), "expected numbers"),
        (np.array([None]), "cannot be read as NPY"),
    ],
)
def test_bad_arrays(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read_shapes(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", "archives are not read"),
        ("a.tar.gz", "archives are not read"),
        ("a.pkl", "could run code"),
        ("a.gltf", "export it as .glb"),
        ("a.step", "unknown format '.step'"),
        ("missing", "no such file or folder"),
        ("https://example.org/a.obj", "is an address"),
    ],
)
def test_files_that_are_not_read(tmp_path, name, message):
    path = name if ":" in name else tmp_path / name
    if name not in ("missing", "https://example.org/a.obj"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        read_shapes(path)


def test_folders_without_shapes(tmp_path, in_process):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="holds no shapes"):
        read_shapes(tmp_path)
    (tmp_path / "a.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError, match=r"none of its 1 shapes can be used; a.obj: has no faces"):
        read_shapes(tmp_path)


def test_options_are_checked(tmp_path):
    with pytest.raises(InputError, match="up axis 'x'"):
        read_shapes(tmp_path, up="x")
    with pytest.raises(InputError, match="got unit 'inch'"):
        read_shapes(tmp_path, unit="inch")


def test_every_format_is_explained():
    assert set(FORMATS) == {".obj", ".ply", ".stl", ".off", ".glb", ".npy", ".npz"}
