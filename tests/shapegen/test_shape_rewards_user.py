"""A user's own reward of shapes, also where it crashes, hangs and answers nonsense: scoring completes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from contracts.shape_cases import as_given, box, points_on
from contracts.user_faults import check_faulty, write_faulty

from common.errors import InputError
from shapegen.rewards.scoring import Given, ShapeScorer
from shapegen.rewards.table import find_scorer

CLOUD = '''
def score(clouds):
    """height of the middle point"""
    return [float(sorted(cloud.vertices[:, 2])[len(cloud.vertices) // 2]) for cloud in clouds]


score.unit = "m"
'''
MESH = """
import sys


def score(meshes):
    assert "torch" not in sys.modules
    return [mesh.volume if mesh.is_watertight else None for mesh in meshes]


score.takes = "mesh"
"""
TENSOR = '''
import torch


def score(points):
    """(B, N, 3) -> (B,)"""
    assert isinstance(points, torch.Tensor) and points.dtype == torch.float32 and points.ndim == 3
    return points[..., 2].amax(dim=1) + 100 * len(points)


score.takes = "tensor"
score.batch_size = 2
'''


def written(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return f"{folder / name}:score"


def test_a_function_of_clouds_is_the_default(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        scorer = find_scorer(written(tmp_path, CLOUD))
    assert "takes a cloud, unit m" in caplog.text
    cloud = points_on(box(), 100)
    with ShapeScorer([scorer], workers=1) as engine:
        values = engine.score([Given(cloud), as_given(box())]).values[scorer.name]
    assert values[0] == pytest.approx(np.sort(cloud[:, 2])[50])
    # A mesh comes as points drawn on it.
    assert values[1] == pytest.approx(0.1, abs=0.02)


def test_a_function_of_meshes_gets_the_mesh_or_a_reconstruction(tmp_path):
    scorer = find_scorer(written(tmp_path, MESH))
    assert scorer.needs == "mesh"
    with ShapeScorer([scorer], workers=1) as engine:
        table = engine.score([as_given(box()), Given(points_on(box(), 256)), Given(np.zeros((64, 3)))])
    values = table.values[scorer.name]
    assert values[0] == pytest.approx(0.0012)
    assert values[1] == pytest.approx(0.0012, rel=0.1)
    assert table.reasons[scorer.name][2] == "no surface"


def test_a_function_of_tensors_gets_batches_of_clouds_of_one_size(tmp_path):
    scorer = find_scorer(written(tmp_path, TENSOR))
    clouds = [points_on(box(), n, seed) for seed, n in enumerate((40, 50, 40, 40))]
    with ShapeScorer([scorer], workers=1) as engine:
        values = engine.score([Given(cloud) for cloud in clouds]).values[scorer.name]
    expected = [np.float32(cloud[:, 2].max()) for cloud in clouds]
    np.testing.assert_allclose(values, np.array(expected) + np.array([200, 100, 200, 100]), rtol=1e-6)


def test_what_a_function_takes_must_be_known(tmp_path):
    with pytest.raises(
        InputError, match=r"takes 'meshes' \(did you mean 'mesh'\?\), expected one of cloud, mesh, tensor"
    ):
        find_scorer(written(tmp_path, MESH.replace('"mesh"', '"meshes"')))
    with pytest.raises(InputError, match="its takes is 3, expected a text"):
        find_scorer(written(tmp_path, MESH.replace('"mesh"', "3"), "other.py"))


def test_with_a_third_of_the_shapes_crashing_or_hanging_scoring_completes(tmp_path):
    kinds = ["hang", "exit", "segfault", "exit", "raise", "none", "infinite", "text", "long"]
    faults = dict(zip(np.random.default_rng(0).permutation(20)[: len(kinds)].tolist(), kinds, strict=True))
    # A shape is known by its number of points.
    sizes = np.arange(40, 60)
    keys = {str(sizes[k]): kind for k, kind in faults.items()}
    scorer = find_scorer(write_faulty(tmp_path, keys, "str(len(sample.vertices))", "len(sample.vertices)"))
    with ShapeScorer([scorer, find_scorer("aspect_ratio")], workers=2, time_limit_s=2.0) as engine:
        result = engine.score([Given(points_on(box(), size)) for size in sizes])
        assert len(engine.cache) == 20 - 4, "time limits and crashes are tried again, other failures are kept"
    check_faulty(
        scorer.name, result.values[scorer.name], result.reasons[scorer.name], result.failures, faults, sizes
    )  # fmt: skip
    assert not np.isnan(result.values["aspect_ratio"]).any()
