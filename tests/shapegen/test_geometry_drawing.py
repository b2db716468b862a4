import numpy as np
import pytest
from matplotlib.image import imread

from common.errors import InputError
from shapegen.geometry.drawing import View, contact_sheet


def balls(count, points=200):
    cloud = np.random.default_rng(0).normal(size=(count, points, 3))
    return cloud / np.linalg.norm(cloud, axis=-1, keepdims=True)


def test_each_cloud_has_its_coloured_cell(tmp_path):
    contact_sheet(balls(3), tmp_path / "s.png", ["a", "b", "c"], groups=[0, 1, 2], columns=3)
    picture = imread(tmp_path / "s.png")[..., :3]
    third = picture.shape[1] // 3
    strongest = []
    for k in range(3):
        part = picture[:, k * third : (k + 1) * third].reshape(-1, 3)
        vivid = part[np.ptp(part, axis=1) > 0.3]
        assert len(vivid) > 500
        strongest.append(vivid.mean(axis=0))
    assert strongest[0].argmax() == 2  # blue
    assert strongest[1].argmax() == 0  # orange
    assert strongest[2].argmax() == 1  # green


def test_same_scale_shows_sizes(tmp_path):
    clouds = [balls(1)[0], 0.3 * balls(1)[0]]
    contact_sheet(clouds, tmp_path / "s.png", columns=2, same_scale=True)
    picture = imread(tmp_path / "s.png")[..., :3]
    vivid = np.ptp(picture, axis=2) > 0.3
    half = picture.shape[1] // 2
    assert vivid[:, half:].sum() < 0.3 * vivid[:, :half].sum()


def test_camera_axes_are_a_rotation():
    axes = View(50, 30).axes()
    assert axes @ axes.T == pytest.approx(np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1)


def test_ragged_tiny_and_flat_clouds_are_drawn(tmp_path):
    contact_sheet([np.zeros((1, 3)), np.zeros((5, 3)), balls(1)[0] * [1, 1, 0]], tmp_path / "s.png", heading="odd")
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="got 2 titles for 1 clouds"):
        contact_sheet(balls(1), tmp_path / "s.png", ["a", "b"])
    with pytest.raises(InputError, match="got 0 clouds"):
        contact_sheet([], tmp_path / "s.png")
    with pytest.raises(InputError, match="NaN"):
        contact_sheet(balls(1) * np.nan, tmp_path / "s.png")
    with pytest.raises(InputError, match=r"\(200, 2\)"):
        contact_sheet(balls(1)[..., :2], tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()
