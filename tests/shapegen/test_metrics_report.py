import json

import numpy as np
import pytest

from common.errors import InputError
from shapegen.metrics.distances import distance_matrix
from shapegen.metrics.generation import nearest_neighbour_test
from shapegen.metrics.protocols import QUICK, Protocol
from shapegen.metrics.report import evaluate, unit_frame

SMALL = Protocol("small", 20, 32, 10, 16, 8, 16, ("cd",), 24, 16)


def spheres(count, seed, points=48, spread=0.3):
    """Spheres of random size and stretch."""
    rng = np.random.default_rng(seed)
    cloud = rng.normal(size=(count, points, 3))
    cloud /= np.linalg.norm(cloud, axis=-1, keepdims=True)
    return cloud * np.exp(spread * rng.normal(size=(count, 1, 3)))


def labels(count):
    return ["ball" if k % 2 else "egg" for k in range(count)]


@pytest.fixture(scope="module")
def verdict():
    return evaluate(
        spheres(40, 0),
        spheres(30, 1),
        spheres(50, 2),
        mode=SMALL,
        sample_classes=labels(40),
        reference_classes=labels(30),
        train_classes=labels(50),
        workers=1,
    )


def test_full_mode_equals_the_definitions_on_all_shapes_and_points():
    samples, reference = spheres(12, 3, 20), spheres(12, 4, 20)
    found = evaluate(samples, reference, mode="full", workers=1)
    for kind in ("cd", "emd"):
        within, between, own = (
            distance_matrix(kind, *sets) for sets in ((samples,), (samples, reference), (reference,))
        )
        expected = nearest_neighbour_test(within, between, own)
        assert found[f"1nna_{kind}_percent"].value == pytest.approx(100 * expected.accuracy)
        assert found[f"mmd_{kind}"].value == pytest.approx(between.min(axis=0).mean())
    assert found.oracle == ()
    assert set(found.omitted) == {"oracle", "novelty", "per_class"}


def test_quick_mode_says_its_sizes(verdict):
    assert "20 samples, 20 references, 32 points each" in verdict["1nna_cd_percent"].rule
    assert "10 samples, 10 references, 16 points each" in verdict["1nna_emd_percent"].rule
    assert "8 samples, 8 references, 16 points each" in verdict.per_class["egg"].metrics[0].rule
    assert verdict.as_json()["protocol"]["name"] == "small"


def test_the_oracle_row_is_always_there_with_the_same_metrics(verdict):
    names = {m.name for m in verdict.metrics} - {"finite_percent"}
    assert {m.name for m in verdict.oracle} == names
    for one in verdict.per_class.values():
        assert [m.name for m in one.oracle] == [m.name for m in one.metrics]


def test_samples_of_the_same_law_pass_and_score_like_the_oracle(verdict):
    oracle = {m.name: m for m in verdict.oracle}
    metric = verdict["1nna_cd_percent"]
    assert metric.value == pytest.approx(50, abs=25)
    assert metric.value == pytest.approx(oracle["1nna_cd_percent"].value, abs=30)
    assert verdict["finite_percent"].value == 100


def test_results_are_json_and_repeatable(verdict):
    text = json.dumps(verdict.as_json(), allow_nan=False)
    again = evaluate(
        spheres(40, 0),
        spheres(30, 1),
        spheres(50, 2),
        mode=SMALL,
        sample_classes=labels(40),
        reference_classes=labels(30),
        train_classes=labels(50),
        workers=1,
    )
    assert json.dumps(again.as_json(), allow_nan=False) == text


def test_copies_of_the_training_set_are_neither_novel_nor_is_one_shape_unique():
    train, reference = spheres(40, 5, 24), spheres(40, 6, 24)
    copied = evaluate(train[:30], reference, train, mode=Protocol("all", emd_shapes=5, emd_points=8), workers=1)
    assert copied["novelty_percent"].value == 0
    collapsed = np.repeat(spheres(1, 7, 24), 30, axis=0)
    found = evaluate(collapsed, reference, train, mode=Protocol("all", emd_shapes=5, emd_points=8), workers=1)
    assert found["uniqueness_percent"].value == 0
    oracle = {m.name: m.value for m in found.oracle}
    assert oracle["novelty_percent"] == pytest.approx(95, abs=3)
    assert oracle["uniqueness_percent"] == pytest.approx(95, abs=3)


def test_broken_samples_count_as_bad_ones():
    samples = spheres(20, 8)
    good = evaluate(samples, spheres(20, 9), mode=SMALL, workers=1)
    samples[:15, 3, 1] = np.nan
    bad = evaluate(samples, spheres(20, 9), mode=SMALL, workers=1)
    assert bad["finite_percent"].value == pytest.approx(25)
    assert bad["1nna_cd_off_points"].value > good["1nna_cd_off_points"].value
    assert bad["cov_cd_percent"].value < good["cov_cd_percent"].value


def test_broken_samples_are_neither_novel_nor_unique():
    train, samples = spheres(40, 5, 24), spheres(24, 7, 24)
    protocol = Protocol("all", emd_shapes=5, emd_points=8)
    samples[:6, 3, 1] = np.nan
    found = evaluate(samples, spheres(40, 6, 24), train, mode=protocol, workers=1)
    for name in ("novelty_percent", "uniqueness_percent", "finite_percent"):
        assert found[name].value <= 75, name
    samples[:] = np.nan
    lost = evaluate(samples, spheres(40, 6, 24), train, mode=protocol, workers=1)
    for name in ("novelty_percent", "uniqueness_percent", "finite_percent"):
        assert (lost[name].value, lost[name].low) == (0, 0), name
        # None of 24 does not mean none at all.
        assert 10 < lost[name].high < 20, name


def test_classes_with_too_few_shapes_are_named():
    found = evaluate(
        spheres(12, 0),
        spheres(12, 1),
        mode=SMALL,
        sample_classes=["a"] * 10 + ["b"] * 2,
        reference_classes=["a"] * 12,
        workers=1,
    )
    assert list(found.per_class) == ["a"]
    assert "2 samples and 0 references" in found.omitted["class b"]


def test_unit_frame_holds_the_reference():
    reference = spheres(10, 3) + np.array([4.0, 0, 0])
    centre, scale = unit_frame(reference)
    assert np.linalg.norm((reference - centre) * scale, axis=-1).max() == pytest.approx(0.5)


def test_bad_input():
    good = spheres(6, 0)
    with pytest.raises(InputError, match="expected one of quick, full"):
        evaluate(good, good, mode="slow")
    with pytest.raises(InputError, match="at least 5"):
        evaluate(good[:2], good)
    with pytest.raises(InputError, match="reference set has NaN"):
        evaluate(good, good * np.nan)
    with pytest.raises(InputError, match="got 3 classes for 6 samples"):
        evaluate(good, good, sample_classes=["a"] * 3)
    assert QUICK.emd_points is not None
