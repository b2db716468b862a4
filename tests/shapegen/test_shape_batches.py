import json
from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import pytest
import torch

from common.diffusion import Euclidean
from common.errors import InputError
from common.named import build
from shapegen.data.batches import ShapeBatches, random_subsets
from shapegen.data.codec import MODES, ShapeCodec
from shapegen.data.shapes import ShapeSet


def shapes(count: int = 24, stored: int = 64) -> ShapeSet:
    """Shape k is a random cloud of size k + 1 about (k, -k, 5)."""
    rng = np.random.default_rng(0)
    k = np.arange(count)[:, None, None]
    centre = np.concatenate([k, -k, np.full_like(k, 5)], axis=2)
    points = rng.uniform(-1, 1, (count, stored, 3)) * (k + 1) + centre
    return ShapeSet(points, np.arange(count) % 3, ("a", "b", "c"), unit="mm")


@pytest.mark.parametrize("mode", ["global", "centred"])
def test_decoding_undoes_encoding(mode):
    data = shapes()
    codec = ShapeCodec.fit(data, mode)
    state = codec.encode(data)
    assert state.x.std(correction=0).item() == pytest.approx(1, rel=0.05 if mode == "global" else 1e-4)
    back = codec.decode(state)
    expected = data.points
    if mode == "centred":
        expected = expected - (expected.min(axis=1, keepdims=True) + expected.max(axis=1, keepdims=True)) / 2
    assert back.points == pytest.approx(expected, abs=1e-4)
    assert (back.unit, back.class_names) == ("mm", data.class_names)
    assert np.array_equal(back.class_index, data.class_index)


def test_global_normalisation_is_that_of_the_whole_set():
    data = shapes()
    codec = ShapeCodec.fit(data)
    values = data.points.astype(np.float64)
    assert codec.centre == pytest.approx(values.mean(axis=(0, 1)))
    assert codec.scale == pytest.approx(np.sqrt(np.square(values - values.mean(axis=(0, 1))).mean()))


def test_sizes_are_kept_unless_normalised_per_shape():
    data = shapes()
    for mode in MODES:
        x = ShapeCodec.fit(data, mode).encode(data).x
        spread = x.std(dim=(1, 2), correction=0) if mode == "per_shape" else (x - x.mean(1, keepdim=True)).std((1, 2))
        ratio = (spread[-1] / spread[0]).item()
        assert ratio == pytest.approx(1, rel=0.1) if mode == "per_shape" else 15 < ratio < 40
    assert ShapeCodec.fit(data, "per_shape").unit == "unitless"


def test_scattered_places_are_reported(caplog):
    data = shapes()
    ShapeCodec.fit(data)
    assert not caplog.records
    ShapeCodec.fit(replace(data, points=data.points + 1000 * data.class_index[:, None, None]))
    assert "normalise 'centred'" in caplog.text


def test_a_codec_survives_json():
    codec = ShapeCodec.fit(shapes(), "centred")
    assert build(ShapeCodec, json.loads(json.dumps(asdict(codec))), "codec") == codec


def test_a_subset_is_normalised_as_the_whole():
    data = shapes()
    codec = ShapeCodec.fit(data, "per_shape")
    state = next(iter(ShapeBatches(data, codec, 24, 8, seed=0, condition={"row": np.arange(24)})))
    whole = codec.encode(data).x
    for x, row in zip(state.x, state.condition["row"], strict=True):
        assert bool((x[:, None] == whole[row][None]).all(dim=2).any(dim=1).all())


def test_the_state_is_full_and_euclidean():
    data = shapes()
    state = next(iter(ShapeBatches(data, ShapeCodec.fit(data), 5, 16, seed=0)))
    assert state.x.shape == (5, 16, 3)
    assert state.x.dtype == torch.float32
    assert bool(state.mask.all())
    assert torch.equal(Euclidean().project(state.x, state.mask), state.x)


def rows(state) -> list[int]:
    return state.condition["row"].tolist()


def stream(**options) -> ShapeBatches:
    data = shapes()
    options = {"seed": 3, "condition": {"row": np.arange(24), "class": data.class_index}} | options
    return ShapeBatches(data, ShapeCodec.fit(data), options.pop("batch_size", 5), 16, **options)


def test_each_shape_once_an_epoch():
    seen = [row for state in islice(stream(batch_size=6), 8) for row in rows(state)]
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]


def test_batches_are_a_function_of_the_step():
    whole = list(islice(stream(rotate="up"), 20))
    for start in (1, 7, 13):
        for found, expected in zip(stream(rotate="up", start=start), whole[start:], strict=False):
            assert torch.equal(found.x, expected.x)
            assert rows(found) == rows(expected)


def test_processes_share_the_stream():
    alone = list(islice(stream(), 12))
    shares = [list(islice(stream(rank=rank, world_size=2), 6)) for rank in (0, 1)]
    for k, expected in enumerate(alone):
        assert torch.equal(shares[k % 2][k // 2].x, expected.x)


def test_points_are_fresh_each_epoch():
    first, second = islice(stream(batch_size=24), 2)
    again = dict(zip(rows(second), second.x, strict=True))
    for row, x in zip(rows(first), first.x, strict=True):
        assert not torch.equal(x.sort(0).values, again[row].sort(0).values)


def test_the_condition_goes_with_the_shapes():
    state = next(iter(stream()))
    assert state.condition["class"].tolist() == [row % 3 for row in rows(state)]
    assert state.condition["class"].dtype == torch.int64


def test_rotation_keeps_heights_and_distances_to_the_axis():
    still, turned = next(iter(stream())), next(iter(stream(rotate="up")))
    assert rows(still) == rows(turned)
    assert torch.equal(still.x[..., 2], turned.x[..., 2])
    assert torch.allclose(still.x[..., :2].norm(dim=-1), turned.x[..., :2].norm(dim=-1), atol=1e-5)
    assert not torch.allclose(still.x, turned.x, atol=0.1)


def test_memory_mapped_sets_give_the_same_batches(tmp_path):
    data = shapes()
    data.save(tmp_path / "set.npz")
    mapped = ShapeSet.load(tmp_path / "set.npz", memory_map=True)
    codec = ShapeCodec.fit(mapped)
    assert codec == ShapeCodec.fit(data)
    first, second = (next(iter(ShapeBatches(d, codec, 4, 8, seed=0))).x for d in (data, mapped))
    assert torch.equal(first, second)


def test_subsets_are_uniform():
    chosen = random_subsets(np.random.default_rng(0), 4000, 6, 2)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    pairs = np.sort(chosen, axis=1) @ [6, 1]
    counts = np.unique(pairs, return_counts=True)[1]
    assert len(counts) == 15
    assert np.abs(counts - 4000 / 15).max() < 80
    assert np.array_equal(
        np.sort(random_subsets(np.random.default_rng(0), 3, 6, 6), axis=1), np.tile(np.arange(6), (3, 1))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stream(rotate="so3"), "rotate 'so3'"),
        (lambda: ShapeBatches(shapes(), ShapeCodec(), 4, 65, seed=0), "expected 1 to 64"),
        (lambda: ShapeBatches(shapes().select([]), ShapeCodec(), 4, 8, seed=0), "empty training set"),
        (lambda: stream(condition={"class": np.zeros(3)}), "condition 'class' has 3 rows"),
        (lambda: ShapeCodec.fit(shapes(), "unit_sphere"), "mode 'unit_sphere'"),
        (lambda: ShapeCodec.fit(shapes().select([])), "empty training set"),
        (lambda: ShapeCodec.fit(replace(shapes(), points=np.ones((24, 4, 3)))), "positive number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
