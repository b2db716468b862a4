"""Pruning, and weights by number of atoms."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from common.diffusion import X0, Denoiser
from common.diffusion.process import Process
from common.diffusion.schedule import Cosine
from common.diffusion.space import Centered
from common.errors import InputError
from molgen.data import gdb7_xtb
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.data.selection import descriptors, log_density, prune, size_weights

CODEC = MoleculeCodec((1, 6, 7, 8, 9))


@pytest.fixture(scope="module")
def molecules() -> MoleculeSet:
    return gdb7_xtb.load().select(np.arange(0, 12_000, 8))


def test_pruning_keeps_the_share_of_each_size(molecules):
    for by in ("density", "random"):
        kept = prune(molecules, 0.3, by)
        assert (np.diff(kept) > 0).all()
        before, after = Counter(molecules.num_atoms.tolist()), Counter(molecules.num_atoms[kept].tolist())
        assert all(after[size] == np.ceil(0.3 * count) for size, count in before.items())
        assert np.array_equal(prune(molecules, 1.0, by), np.arange(len(molecules)))
    assert np.array_equal(prune(molecules, 0.3), prune(molecules, 0.3, seed=1))
    assert not np.array_equal(prune(molecules, 0.3, "random"), prune(molecules, 0.3, "random", seed=1))


def test_what_is_unlike_the_others_goes_first(molecules):
    """One molecule of a frequent size is blown up by a half."""
    size = Counter(molecules.num_atoms.tolist()).most_common(1)[0][0]
    odd = int(np.flatnonzero(molecules.num_atoms == size)[3])
    parts = [molecules.select(np.array([i])) for i in range(len(molecules))]
    parts[odd] = MoleculeSet.from_molecules([(parts[odd].numbers, 1.5 * parts[odd].positions)])
    stretched = MoleculeSet.concatenate(parts)
    assert odd not in prune(stretched, 0.9)
    density = log_density(descriptors(stretched))
    assert density[odd] == density[molecules.num_atoms == size].min()


def test_density_is_that_of_a_gaussian():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3)) * [1.0, 2.0, 0.5] + [3.0, 0.0, 1.0]
    exact = -0.5 * (((features - [3.0, 0.0, 1.0]) / [1.0, 2.0, 0.5]) ** 2).sum(axis=1)
    assert np.abs(log_density(features) - exact).max() < 1
    # What never varies says nothing, and divides by nothing.
    constant = np.concatenate([features, np.full((4000, 1), 7.0)], axis=1)
    np.testing.assert_allclose(log_density(constant), log_density(features), atol=1e-6)


class _Blind(torch.nn.Module):
    """Takes small molecules as they come, and knows nothing of large ones."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x, t, mask, context=None):
        known = (mask.sum(dim=1) <= self.limit)[:, None, None]
        return torch.where(known, x, torch.full_like(x, 10.0)) * mask[..., None]


def test_sizes_that_the_reference_finds_hard_are_drawn_more_often(molecules):
    limit = int(np.median(molecules.num_atoms))
    denoiser = Denoiser(_Blind(limit), Process(Cosine(), Centered(3)), X0())
    weights = size_weights(denoiser, CODEC, molecules, 0.5)
    hard = molecules.num_atoms > limit
    assert weights.mean() == pytest.approx(1.0)
    assert weights[hard].min() > 1.5 * weights[~hard].max()
    assert len(np.unique(weights)) <= 8
    assert np.array_equal(weights, size_weights(denoiser, CODEC, molecules, 0.5))
    strong = size_weights(denoiser, CODEC, molecules, 1000.0)
    assert strong.max() / strong.min() == pytest.approx(16.0)


def test_what_cannot_be_is_refused(molecules):
    with pytest.raises(InputError, match="did you mean 'density'"):
        prune(molecules, 0.5, "densty")
    with pytest.raises(InputError, match="--keep 0"):
        prune(molecules, 0.0)
