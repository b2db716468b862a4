import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common.errors import InputError
from shapegen.metrics.distances import chamfer, distance_matrix, distance_pool, earth_mover


def clouds(shapes, points, seed):
    return np.random.default_rng(seed).normal(size=(shapes, points, 3)).astype(np.float32)


def brute_chamfer(a, b):
    squared = ((a[:, None].astype(float) - b[None].astype(float)) ** 2).sum(-1)
    return squared.min(1).mean() + squared.min(0).mean()


def brute_emd(a, b):
    costs = np.sqrt(((a[:, None].astype(float) - b[None].astype(float)) ** 2).sum(-1))
    rows = np.arange(len(a))
    return min(costs[rows, list(order)].mean() for order in itertools.permutations(rows))


def test_chamfer_is_the_sum_of_two_means_of_squares():
    a, b = np.array([[0.0, 0, 0]]), np.array([[3.0, 0, 0], [0, 4.0, 0]])
    assert chamfer(a, b) == pytest.approx(9 + (9 + 16) / 2)


def test_chamfer_equals_its_definition_for_different_numbers_of_points():
    a, b = clouds(3, 40, 0), clouds(4, 25, 1)
    expected = [[brute_chamfer(x, y) for y in b] for x in a]
    assert distance_matrix("cd", a, b) == pytest.approx(np.array(expected), rel=1e-6)


def test_emd_is_the_best_of_all_assignments():
    a, b = clouds(2, 6, 2), clouds(3, 6, 3)
    expected = [[brute_emd(x, y) for y in b] for x in a]
    assert distance_matrix("emd", a, b) == pytest.approx(np.array(expected), rel=1e-6)


def test_emd_of_a_shift_is_its_length():
    a = clouds(1, 50, 4)[0]
    assert earth_mover(a, a + np.array([0.3, 0.0, 0.4])) == pytest.approx(0.5, rel=1e-5)


def test_emd_is_not_below_the_distance_to_the_nearest():
    a, b = clouds(2, 30, 5)
    assert earth_mover(a, b) >= cdist(a, b).min(1).mean()


@pytest.mark.parametrize("kind", ["cd", "emd"])
def test_self_matrix_is_symmetric_with_zero_diagonal(kind):
    a = clouds(7, 12, 6)
    matrix = distance_matrix(kind, a)
    assert np.array_equal(matrix, matrix.T)
    assert np.array_equal(np.diag(matrix), np.zeros(7))
    assert matrix == pytest.approx(distance_matrix(kind, a, a), abs=1e-12)


def test_workers_and_blocks_change_nothing(monkeypatch):
    from shapegen.metrics import distances

    a, b = clouds(9, 30, 7), clouds(5, 30, 8)
    alone = distance_matrix("cd", a, b), distance_matrix("emd", a)
    monkeypatch.setattr(distances, "_ALONE_S", 0.0)
    monkeypatch.setattr(distances, "_BLOCK_S", 1e-4)
    seen = []
    with distance_pool(2) as pool:
        pooled = (
            distance_matrix("cd", a, b, pool=pool),
            distance_matrix("emd", a, pool=pool, progress=lambda *x: seen.append(x)),
        )
    assert np.array_equal(alone[0], pooled[0])
    assert np.array_equal(alone[1], pooled[1])
    assert seen[-1][0] == seen[-1][1]


def test_torch_gives_the_same_numbers():
    torch_distances = pytest.importorskip("shapegen.metrics.torch_distances")
    a, b = clouds(4, 60, 9) + 5, clouds(3, 45, 10) + 5
    found = torch_distances.chamfer_matrix(a, b, "cpu", use_pytorch3d=False)
    assert found == pytest.approx(distance_matrix("cd", a, b), rel=1e-5)
    own = torch_distances.chamfer_matrix(a, None, "cpu", use_pytorch3d=False)
    assert own == pytest.approx(distance_matrix("cd", a), rel=1e-5, abs=1e-12)


def test_pytorch3d_gives_the_same_numbers():
    pytest.importorskip("pytorch3d", reason="pytorch3d has no wheel for this Python; build it from source to run this")
    from shapegen.metrics.torch_distances import chamfer_matrix

    a, b = clouds(4, 60, 9), clouds(3, 45, 10)
    assert chamfer_matrix(a, b, "cpu", use_pytorch3d=True) == pytest.approx(distance_matrix("cd", a, b), rel=1e-5)


def test_bad_input():
    a = clouds(2, 5, 0)
    with pytest.raises(InputError, match="equal numbers"):
        distance_matrix("emd", a, clouds(2, 6, 0))
    with pytest.raises(InputError, match="equal numbers"):
        earth_mover(a[0], a[0][:3])
    with pytest.raises(InputError, match="expected one of cd, emd"):
        distance_matrix("hausdorff", a)
    with pytest.raises(InputError, match=r"\(2, 5\)"):
        distance_matrix("cd", a[..., 0])
    with pytest.raises(InputError, match="NaN"):
        distance_matrix("cd", a * np.nan)
