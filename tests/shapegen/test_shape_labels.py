"""Labels against solids whose values are known in closed form."""

import numpy as np
import pytest
import trimesh

from common.errors import InputError
from shapegen.families import FAMILIES, build
from shapegen.families.labels import (
    columns,
    find_label,
    genus,
    mass_properties,
    shape_labels,
    stability_margin,
    symmetry_error,
)


def on_ground(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    mesh.apply_translation([0, 0, -mesh.bounds[0, 2]])
    return mesh


def test_a_box():
    a, b, c = 0.1, 0.2, 0.4
    found = shape_labels(on_ground(trimesh.creation.box((a, b, c))))
    assert tuple(found) == columns()
    volume = a * b * c
    assert found.pop("symmetry_error") == pytest.approx(0, abs=1e-5)
    assert found == pytest.approx(
        {
            "volume_m3": volume,
            "area_m2": 2 * (a * b + b * c + a * c),
            "width_m": a,
            "depth_m": b,
            "height_m": c,
            "aspect_ratio": 2,
            "footprint_ratio": 2,
            "fill": 1,
            "centre_height_m": c / 2,
            "inertia_small_m5": volume * (a**2 + b**2) / 12,
            "inertia_middle_m5": volume * (a**2 + c**2) / 12,
            "inertia_large_m5": volume * (b**2 + c**2) / 12,
            "elongation": c / b,
            "flatness": b / a,
            "genus": 0,
            "stability_margin_m": a / 2,
            "tip_angle_deg": np.degrees(np.arctan2(a / 2, c / 2)),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("name", ["chair", "mug", "gear"])
def test_mass_properties_agree_with_trimesh(name):
    mesh = build(name, 2).mesh
    mesh.apply_translation([0.3, -0.2, 0.1])
    volume, centre, inertia = mass_properties(mesh.triangles)
    assert volume == pytest.approx(mesh.volume)
    assert centre == pytest.approx(mesh.center_mass)
    assert inertia == pytest.approx(mesh.moment_inertia, rel=1e-6, abs=1e-12)


def test_genus():
    torus = trimesh.creation.torus(1.0, 0.3)
    ball = trimesh.creation.icosphere(subdivisions=2)
    assert genus(torus) == 1
    assert genus(ball) == 0
    both = trimesh.util.concatenate([torus, trimesh.creation.torus(1.0, 0.3).apply_translation([0, 0, 2]), ball])
    assert genus(both) == 2


@pytest.mark.parametrize(
    ("name", "fixed", "expected"),
    [
        ("mug", {}, 1),
        ("vase", {}, 0),
        ("gear", {"web": "full"}, 1),
        ("gear", {"web": "holes", "web_holes": 5}, 6),
        ("bracket", {"rib": "none", "base_holes": 2, "upright_holes": 1}, 3),
        ("wheel", {"spokes": 6}, 7),
        ("pipe", {"flange_holes": 4}, 9),
    ],
)
def test_holes_are_counted(name, fixed, expected):
    assert genus(build(name, 5, **fixed).mesh) == expected


def test_symmetry_error_tells_left_from_right():
    assert symmetry_error(build("vase", 0).mesh) < 1e-3
    assert symmetry_error(build("chair", 0).mesh) < 2e-3
    assert symmetry_error(build("mug", 0).mesh) > 0.01
    # Turned by a quarter, the handle lies in the mirror plane.
    turned = build("mug", 0).mesh
    turned.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1]))
    assert symmetry_error(turned) < 2e-3


def test_symmetry_error_has_no_scale():
    mesh = build("lamp", 2, style="desk").mesh
    larger = mesh.copy().apply_scale(10)
    assert symmetry_error(larger) == pytest.approx(symmetry_error(mesh), rel=1e-6)


def test_stability_margin():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 2.0]])
    assert stability_margin(square, np.array([0.4, 0.5, 1.0])) == pytest.approx(0.4)
    assert stability_margin(square, np.array([1.25, 0.5, 1.0])) == pytest.approx(-0.25)
    line = square[[0, 1, 4]]
    assert stability_margin(line, np.array([0.5, 0.0, 1.0])) == 0
    assert stability_margin(line, np.array([0.5, 0.1, 1.0])) == pytest.approx(-0.1)


def test_an_uneven_underside_is_a_foot_where_its_unevenness_is_known():
    base = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.01], [1.0, 1.0, 0.012], [0.0, 1.0, 0.008]]
    vertices = np.array([*base, [0.5, 0.5, 1.0]])
    centre = np.array([0.6, 0.5, 0.4])
    assert stability_margin(vertices, centre) < 0
    assert stability_margin(vertices, centre, foot=0.015) == pytest.approx(0.4)
    box = on_ground(trimesh.creation.box((1, 1, 1)))
    bumped = box.copy()
    bumped.vertices[bumped.vertices[:, 2] < 0.5, 2] += np.array([0.0, 0.01, 0.01, 0.01])
    bumped.vertices -= [0, 0, bumped.vertices[:, 2].min()]
    exact = shape_labels(box)["tip_angle_deg"]
    assert shape_labels(bumped)["tip_angle_deg"] < 0.5 * exact
    assert shape_labels(bumped, foot=0.02)["tip_angle_deg"] == pytest.approx(exact, abs=1)


def test_an_open_mesh_has_no_volume():
    box = trimesh.creation.box((1, 1, 1))
    box.update_faces(np.arange(len(box.faces)) > 0)
    found = shape_labels(box, "unitless")
    assert found["width"] == 1
    assert found["area"] == pytest.approx(5.5)
    assert np.isnan([found[name] for name in ("volume", "fill", "genus", "stability_margin")]).all()


def test_a_mesh_inside_out_has_no_volume():
    box = trimesh.creation.box((1, 1, 1))
    box.invert()
    assert np.isnan(shape_labels(box)["volume_m3"])


def test_a_flat_sheet_divides_by_nothing():
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    found = shape_labels(sheet)
    assert found["height_m"] == 0
    assert found["footprint_ratio"] == 1
    wall = trimesh.Trimesh(sheet.vertices[:, [0, 2, 1]], sheet.faces)
    assert np.isnan(shape_labels(wall)["footprint_ratio"])


def test_names_and_columns():
    assert find_label("volume").column("m") == "volume_m3"
    assert find_label("volume_m3").name == "volume"
    assert find_label("tip_angle").column("unitless") == "tip_angle_deg"
    with pytest.raises(InputError, match="did you mean 'volume'"):
        find_label("volum")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_all_labels(name):
    assert np.isfinite(list(shape_labels(build(name, 1).mesh).values())).all()
