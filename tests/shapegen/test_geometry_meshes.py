import numpy as np
import pytest
import trimesh

from common.errors import InputError
from shapegen.geometry.meshes import FORMATS, export_mesh, inspect, load_exported, repair, upright


def box(extents=(0.1, 0.2, 0.3)):
    return trimesh.creation.box(extents)


def without_faces(mesh, drop):
    kept = np.setdiff1d(np.arange(len(mesh.faces)), drop)
    return trimesh.Trimesh(mesh.vertices, mesh.faces[kept], process=False)


def test_report_of_a_closed_box():
    report = inspect(box())
    assert report.watertight
    assert report.winding_consistent
    assert (report.components, report.holes, report.non_manifold_edges, report.degenerate_faces) == (1, 0, 0, 0)
    assert report.volume == pytest.approx(0.006)
    assert report.euler_number == 2
    assert str(report) == "12 faces, 1 part, watertight"


def test_report_counts_holes_and_their_sizes():
    ball = trimesh.creation.icosphere(2)
    # All faces around one vertex, and one face elsewhere.
    around = np.flatnonzero((ball.faces == 0).any(axis=1))
    far = int(np.argmax(np.linalg.norm(ball.triangles_center - ball.vertices[0], axis=1)))
    report = inspect(without_faces(ball, [*around, far]))
    assert not report.watertight
    assert report.holes == 2
    assert report.hole_edges == (len(around), 3)
    assert report.hole_lengths[0] > report.hole_lengths[1] > 0
    assert report.volume is None
    assert "NOT watertight: 2 holes" in str(report)


def test_report_counts_parts_and_edges_of_three_faces():
    two = trimesh.util.concatenate([box(), box().apply_translation((1, 0, 0))])
    assert inspect(two).components == 2
    wing = trimesh.Trimesh(
        np.concatenate([box().vertices, [[5.0, 5.0, 5.0]]]),
        np.concatenate([box().faces, [[*box().faces[0][:2], 8]]]),
        process=False,
    )
    assert inspect(wing).non_manifold_edges == 1


def test_repair_closes_holes_and_turns_faces_outward():
    ball = trimesh.creation.icosphere(2)
    around = np.flatnonzero((ball.faces == 0).any(axis=1))
    broken = without_faces(ball, [*around, 200])
    faces = broken.faces.copy()
    faces[:40] = faces[:40, ::-1]
    soup = trimesh.Trimesh(
        broken.vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), process=False
    )
    mended = repair(soup)
    report = inspect(mended)
    assert report.watertight
    assert report.winding_consistent
    assert report.volume == pytest.approx(ball.volume, rel=0.03)


def test_repair_keeps_hollows_and_turns_solids(tmp_path):
    outer, hollow = trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(3, 0.8)
    hollow.invert()
    aside = trimesh.creation.box((1, 1, 1))
    aside.apply_translation((3, 0, 0))
    aside.invert()
    shell = trimesh.util.concatenate([outer, hollow, aside])
    volume = outer.volume + hollow.volume + 1
    shell.update_faces(np.arange(len(shell.faces)) > 0)
    assert repair(shell).volume == pytest.approx(volume, rel=0.01)
    # A solid within a solid, as careless models have it, is no hollow.
    hollow.invert()
    twice = trimesh.util.concatenate([outer, hollow])
    assert repair(twice).volume == pytest.approx(outer.volume + hollow.volume, rel=0.01)


def test_repair_leaves_large_openings_when_told():
    ball = trimesh.creation.icosphere(2)
    around = np.flatnonzero((ball.faces == 0).any(axis=1))
    far = int(np.argmax(np.linalg.norm(ball.triangles_center - ball.vertices[0], axis=1)))
    report = inspect(repair(without_faces(ball, [*around, far]), max_hole_edges=3))
    assert report.hole_edges == (len(around),)


def test_repair_drops_degenerate_and_double_faces():
    mesh = box()
    dirty = trimesh.Trimesh(mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:1], [[0, 0, 1]]]), process=False)
    assert inspect(repair(dirty)).watertight


@pytest.mark.parametrize("kind", FORMATS)
def test_files_have_absolute_size_and_are_read_back(kind, tmp_path):
    path = tmp_path / f"box.{kind}"
    report = export_mesh(box(), path, scale_mm=80)
    expected = np.array([0.1, 0.2, 0.3]) / 0.3 * 80
    if kind == "glb":
        expected = expected[[0, 2, 1]] / 1000  # metres, Y up
    assert report.extents == pytest.approx(expected, rel=1e-5)
    assert report.watertight
    assert report.faces == 12
    assert load_exported(path).extents == pytest.approx(expected, rel=1e-5)
    assert load_exported(path).volume > 0


def test_units_and_up_axis():
    assert upright(np.array([[1.0, 2.0, 3.0]]), "y").tolist() == [[1.0, -3.0, 2.0]]
    for up in "xyz":
        turned = upright(np.eye(3), up)
        assert np.linalg.det(turned) == pytest.approx(1)
        assert turned["xyz".index(up)].tolist() == [0, 0, 1]


def test_glb_of_a_y_up_mesh_is_unchanged(tmp_path):
    tall = trimesh.creation.cone(0.2, 1.0)
    tall.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0)))  # tip to +Y
    export_mesh(tall, tmp_path / "cone.glb", unit_mm=1000, up="y")
    assert load_exported(tmp_path / "cone.glb").bounds == pytest.approx(tall.bounds, abs=1e-6)


def test_open_meshes_are_written_and_reported(tmp_path):
    report = export_mesh(without_faces(box(), [0]), tmp_path / "open.stl", unit_mm=1)
    assert not report.watertight
    assert report.holes == 1


def test_bad_meshes_leave_no_file(tmp_path):
    empty = trimesh.Trimesh(np.zeros((3, 3)), np.zeros((0, 3), int), process=False)
    flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    lost = trimesh.Trimesh(np.full((3, 3), np.nan), [[0, 1, 2]], process=False)
    far = box().apply_translation((1e9, 0, 0))
    for mesh, message in ((empty, "no faces"), (flat, "no area"), (lost, "NaN"), (far, "away from the origin")):
        with pytest.raises(InputError, match=message):
            export_mesh(mesh, tmp_path / "bad.stl")
    with pytest.raises(InputError, match="expected glb, stl, ply, obj"):
        export_mesh(box(), tmp_path / "bad.step")
    with pytest.raises(InputError, match="-5 mm"):
        export_mesh(box(), tmp_path / "bad.stl", scale_mm=-5)
    with pytest.raises(InputError, match="up axis 'w'"):
        export_mesh(box(), tmp_path / "bad.stl", up="w")
    assert list(tmp_path.iterdir()) == []
