import numpy as np
import pytest
import trimesh

from common.errors import InputError
from common.workers import Failure

pytest.importorskip("mujoco", reason="the drop simulation needs mujoco")

from shapegen.geometry.drop import drop, drop_many


def turned(mesh, degrees, axis=(0, 1, 0)):
    mesh.apply_transform(trimesh.transformations.rotation_matrix(np.radians(degrees), axis))
    return mesh


def overhanging(reach):
    foot, arm = trimesh.creation.box((0.3, 0.3, 0.3)), trimesh.creation.box((reach, 0.3, 0.2))
    arm.apply_translation((reach / 2 - 0.15, 0, 0.6))
    pole = trimesh.creation.box((0.2, 0.2, 0.7))
    pole.apply_translation((0, 0, 0.3))
    return trimesh.boolean.union([foot, pole, arm])


@pytest.mark.parametrize(
    "mesh",
    [
        trimesh.creation.box((1, 1, 1)),
        trimesh.creation.cylinder(0.1, 1.0),
        trimesh.creation.cone(0.3, 1.0),
        overhanging(0.3),
        trimesh.creation.box((0.01, 0.02, 0.005)),
    ],
)
def test_what_stands_stays(mesh):
    found = drop(mesh)
    assert found.stable
    assert found.rested
    assert found.tilt_deg < 1
    assert found.mass_from == "mesh"


@pytest.mark.parametrize(
    "mesh",
    [
        turned(trimesh.creation.cone(0.3, 1.0), 180, (1, 0, 0)),
        trimesh.creation.cylinder(0.004, 1.0),
        turned(trimesh.creation.box((0.2, 0.2, 1.0)), 30),
        overhanging(2.0),
    ],
)
def test_what_cannot_stand_falls(mesh):
    found = drop(mesh)
    assert not found.stable
    assert found.tilt_deg > 20


def test_the_mesh_decides_the_centre_of_mass_not_its_hull():
    """Leaning so far that the solid falls back and its hull, whose centre is elsewhere, would not."""
    heavy_foot = trimesh.boolean.union(
        [trimesh.creation.box((1, 1, 0.4)), trimesh.creation.box((0.05, 0.05, 3.0)).apply_translation((0, 0, 1.5))]
    )
    leaning = turned(heavy_foot, 40)
    assert drop(leaning).tilt_deg == pytest.approx(40, abs=2)  # upright again: 40 degrees from where it began
    open_mesh = trimesh.Trimesh(leaning.vertices, leaning.faces[1:], process=False)
    found = drop(open_mesh)
    assert found.mass_from == "hull"
    assert found.tilt_deg > 45


def test_up_axis_and_repeatability():
    pole = turned(trimesh.creation.cylinder(0.05, 1.0), -90, (1, 0, 0))
    assert drop(pole, up="y").tilt_deg < 1
    assert drop(pole, up="y") == drop(pole, up="y")
    lying_on_edge = trimesh.creation.box((1, 0.004, 1))
    assert not drop(lying_on_edge).stable


def test_many_keep_their_order_and_report_failures():
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], [[0, 1, 2], [1, 3, 2]], process=False)
    found = drop_many([trimesh.creation.box((1, 1, 1)), flat, trimesh.creation.cylinder(0.004, 1.0)], workers=1)
    assert found[0].stable
    assert isinstance(found[1], Failure)
    assert "flat" in found[1].detail
    assert not found[2].stable


def test_bad_meshes():
    with pytest.raises(InputError, match="no faces"):
        drop(trimesh.Trimesh(np.zeros((3, 3)), np.zeros((0, 3), int), process=False))
    with pytest.raises(InputError, match="up axis"):
        drop(trimesh.creation.box((1, 1, 1)), up="w")


def test_a_bumpy_underside_is_levelled_on_demand():
    tall = trimesh.creation.box((0.3, 0.15, 1.0))
    tall = trimesh.boolean.union([tall, trimesh.creation.box((0.31, 0.01, 0.1)).apply_translation((0, -0.05, -0.465))])
    assert not drop(tall).stable
    assert drop(tall, foot=0.02).tilt_deg < 1
    tip = turned(trimesh.creation.cone(0.3, 1.0), 180, (1, 0, 0))
    assert not drop(tip, foot=0.015).stable
    with pytest.raises(InputError, match="at least 0"):
        drop(tall, foot=-0.5)
