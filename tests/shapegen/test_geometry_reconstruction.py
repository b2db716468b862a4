import numpy as np
import pytest
import trimesh
from scipy.spatial import KDTree

from common.errors import InputError
from common.workers import Failure
from shapegen.geometry.clouds import check_cloud, inliers, spacing
from shapegen.geometry.normals import oriented_normals, principal_normals, thinned
from shapegen.geometry.reconstruction import occupancy_volume, reconstruct, reconstruct_many
from shapegen.geometry.winding import fit_winding_field


def vessel(wall=0.06):
    outside = trimesh.creation.cylinder(0.35, 1.0, sections=64)
    inside = trimesh.creation.cylinder(0.35 - wall, 1.0, sections=64)
    inside.apply_translation((0, 0, wall))
    return trimesh.boolean.difference([outside, inside])


def l_shape():
    foot, back = trimesh.creation.box((1, 0.3, 0.1)), trimesh.creation.box((0.1, 0.3, 0.8))
    back.apply_translation((-0.45, 0, 0.35))
    return trimesh.boolean.union([foot, back])


SOLIDS = {
    "sphere": lambda: trimesh.creation.icosphere(3, radius=0.5),
    "box": lambda: trimesh.creation.box((1, 0.7, 0.5)),
    "torus": lambda: trimesh.creation.torus(0.4, 0.12),
    "thin box": lambda: trimesh.creation.box((1, 0.7, 0.05)),
    "l shape": l_shape,
    "vessel": vessel,
}


def surface(mesh, count, seed=0):
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return np.asarray(points), mesh.face_normals[faces]


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_come_back_closed_with_their_volume(name):
    mesh = SOLIDS[name]()
    points, _ = surface(mesh, 1500)
    found = reconstruct(points)
    assert found.mesh.is_watertight
    assert found.mesh.is_winding_consistent
    assert found.mesh.body_count == 1
    assert found.mesh.volume == pytest.approx(mesh.volume, rel=0.05)
    assert found.occupancy == pytest.approx(found.mesh.volume, rel=0.04)
    assert found.bridged < 0.01
    there = KDTree(surface(mesh, 40_000, 1)[0]).query(surface(found.mesh, 4000, 2)[0])[0]
    pitch = np.sqrt(mesh.area / 1500)
    assert there.mean() < 0.25 * pitch
    assert np.quantile(there, 0.99) < 1.0 * pitch


@pytest.mark.parametrize("name", ["box", "thin box", "vessel"])
def test_normals_point_outward_on_both_sides_of_a_wall(name):
    points, normals = surface(SOLIDS[name](), 1500)
    agreement = np.einsum("pc,pc->p", oriented_normals(points), normals)
    assert (agreement > 0).mean() > 0.97
    assert agreement.mean() > 0.9


def test_principal_normals_of_a_plane():
    points = np.random.default_rng(0).normal(size=(200, 3)) * [1, 1, 0]
    assert np.abs(principal_normals(points)[:, 2]) == pytest.approx(np.ones(200))


def test_the_field_is_one_inside_and_nothing_far_away():
    points, _ = surface(SOLIDS["sphere"](), 1000)
    field = fit_winding_field(points)
    inside, outside = field(np.zeros((1, 3)))[0], field(np.array([[3.0, 0, 0]]))[0]
    assert inside == pytest.approx(1, abs=0.15)
    assert outside == pytest.approx(0, abs=0.03)
    assert field.smoothing == 1.05


def test_noise_is_smoothed_where_the_data_says_so():
    points, _ = surface(SOLIDS["sphere"](), 1500)
    noisy = points + 0.4 * spacing(points) * np.random.default_rng(0).normal(size=points.shape)
    found = reconstruct(noisy)
    assert found.field.smoothing > 1.05
    assert found.mesh.is_watertight
    assert found.mesh.volume == pytest.approx(SOLIDS["sphere"]().volume, rel=0.06)


def test_place_and_unit_change_nothing():
    points, _ = surface(SOLIDS["torus"](), 800)
    first = reconstruct(points)
    for factor, shift in ((80.0, [500.0, -20.0, 3.0]), (1e-9, 0.0), (1e9, 0.0)):
        moved = reconstruct(points * factor + np.array(shift))
        assert moved.mesh.is_watertight
        assert moved.mesh.volume == pytest.approx(first.mesh.volume * factor**3, rel=0.01)


def test_stray_points_are_left_out():
    points, _ = surface(SOLIDS["box"](), 1000)
    stray = np.concatenate([points, [[4.0, 0, 0], [0, -3.0, 1.0]]])
    assert np.flatnonzero(~inliers(stray)).tolist() == [1000, 1001]
    found = reconstruct(stray)
    assert found.stray_points == 2
    assert np.ptp(found.mesh.vertices, axis=0) == pytest.approx([1, 0.7, 0.5], abs=0.08)


def test_spacing_of_a_random_surface():
    mesh = SOLIDS["box"]()
    assert spacing(surface(mesh, 3000)[0]) == pytest.approx(np.sqrt(mesh.area / 3000), rel=0.05)


def test_occupancy_needs_no_mesh():
    mesh = SOLIDS["l shape"]()
    points, normals = surface(mesh, 3000)
    assert occupancy_volume(points, normals) == pytest.approx(mesh.volume, rel=0.06)


def test_many_in_processes_keep_their_order_and_report_failures():
    big, _ = surface(SOLIDS["box"](), 300)
    small = big * 0.5
    flat = np.zeros((40, 3))
    found = reconstruct_many([big, flat, small], workers=1)
    assert found[0].mesh.volume == pytest.approx(8 * found[2].mesh.volume, rel=0.01)
    assert isinstance(found[1], Failure)
    assert found[1].reason == "InputError"


def test_thinned_keeps_the_order():
    points = np.arange(30.0).reshape(10, 3)
    assert (np.diff(thinned(points, 4)[:, 0]) > 0).all()
    assert thinned(points, 20) is points


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), "expected \\(P, 3\\)"),
        (np.random.default_rng(0).normal(size=(10, 3)), "at least 32"),
        (np.full((50, 3), np.nan), "50 of 50 points have NaN"),
        (np.ones((50, 3)), "in one place"),
    ],
)
def test_bad_clouds(points, message):
    with pytest.raises(InputError, match=message):
        reconstruct(points)


def test_bad_options():
    points, _ = surface(SOLIDS["sphere"](), 100)
    with pytest.raises(InputError, match="resolution is 4"):
        reconstruct(points, resolution=4)
    with pytest.raises(InputError, match=r"smoothing is 0\.5"):
        reconstruct(points, smoothing=0.5)
    assert len(check_cloud(points)) == 100
