from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from common.errors import InputError
from molgen.data.batches import MoleculeBatches
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet

CODEC = MoleculeCodec((1, 6))


def molecules(count: int = 96) -> MoleculeSet:
    """Molecule i has its index in its coordinates, so that it can be recognised."""
    rng = np.random.default_rng(0)
    return MoleculeSet.from_molecules(
        [
            (np.ones(n, int), np.outer(np.arange(n), [1, 0, 0]) * (i + 1))
            for i, n in enumerate(rng.integers(2, 12, count))
        ]
    )


def identity(state) -> list[int]:
    """The index that each molecule of a batch carries: the spacing of its atoms less one."""
    return (state.x[:, 1, 0] - state.x[:, 0, 0]).round().int().sub(1).tolist()


def test_each_molecule_once_an_epoch():
    stream = iter(MoleculeBatches(molecules(), CODEC, 6, seed=0))
    for _ in range(2):
        assert sorted(i for state in islice(stream, 16) for i in identity(state)) == list(range(96))


def test_batches_are_a_function_of_the_step():
    whole = list(islice(MoleculeBatches(molecules(), CODEC, 5, seed=3), 60))
    for start in (1, 17, 40):
        for found, expected in zip(
            MoleculeBatches(molecules(), CODEC, 5, seed=3, start=start), whole[start:], strict=False
        ):
            assert torch.equal(found.x, expected.x)


def test_processes_share_the_stream():
    alone = list(islice(MoleculeBatches(molecules(), CODEC, 4, seed=1), 12))
    shares = [
        list(islice(MoleculeBatches(molecules(), CODEC, 4, seed=1, rank=rank, world_size=2), 6)) for rank in (0, 1)
    ]
    merged = [shares[k % 2][k // 2] for k in range(12)]
    assert [identity(state) for state in merged] == [identity(state) for state in alone]


def test_similar_sizes_stay_together():
    states = list(islice(MoleculeBatches(molecules(), CODEC, 6, seed=0), 16))
    padded = sum(state.mask.numel() for state in states)
    real = sum(int(state.mask.sum()) for state in states)
    assert padded < 1.15 * real


def test_another_seed_is_another_order():
    first, second = (next(iter(MoleculeBatches(molecules(), CODEC, 8, seed=seed))) for seed in (0, 1))
    assert identity(first) != identity(second)


def test_weights_are_shares_of_an_epoch():
    weights = np.where(np.arange(96) < 48, 3.0, 1.0)
    stream = iter(MoleculeBatches(molecules(), CODEC, 6, seed=0, weights=weights))
    epochs = [Counter(i for state in islice(stream, 16) for i in identity(state)) for _ in range(40)]
    # In an epoch each comes once or twice, or once or never; over many as often as its weight says.
    assert {epoch[0] for epoch in epochs} == {1, 2}
    assert {epoch[95] for epoch in epochs} == {0, 1}
    mean = np.mean([[epoch[i] for i in range(96)] for epoch in epochs], axis=0)
    np.testing.assert_allclose(mean, weights / weights.mean(), atol=0.25)
    resumed = MoleculeBatches(molecules(), CODEC, 6, seed=0, weights=weights, start=23)
    whole = islice(MoleculeBatches(molecules(), CODEC, 6, seed=0, weights=weights), 23, 40)
    for found, expected in zip(resumed, whole, strict=False):
        assert torch.equal(found.x, expected.x)
    for wrong in (np.ones(95), np.zeros(96)):
        with pytest.raises(InputError, match="expected 96 positive numbers"):
            MoleculeBatches(molecules(), CODEC, 6, seed=0, weights=wrong)


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="empty training set"):
        MoleculeBatches(MoleculeSet.from_molecules([]), CODEC, 4, seed=0)
