"""What a generator learns from, out of a training part: pruning, and weights by number of atoms (arXiv 2409.19128).

Two steps, as in that paper: keep the part of the data that a cheap score finds most typical, then draw groups that a
trained reference finds hard more often. Our choices: the score is the density of a Gaussian over composition and
interatomic distances, taken within each number of atoms, so that the law of sizes stays; and the groups are numbers of
atoms, which samples are asked for: how often each is learnt from changes nothing about the law of molecules of a size.
The paper's weights come from a robust optimisation in the course of training, ours from one look at the reference's
loss.
"""

from __future__ import annotations

import numpy as np
import torch

from common.algorithms.algorithm import Policy
from common.algorithms.likelihood import Likelihood
from common.errors import InputError
from common.named import nearest
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet

SCORES = ("density", "random")
# Edges of the histogram of interatomic distances, in Angstrom.
_EDGES = np.linspace(0.75, 6.75, 25)
# Groups of neighbouring sizes, with about as many molecules each, and molecules of each whose loss is taken.
_GROUPS, _LOOKED_AT, _BATCH = 8, 512, 64
_LARGEST_WEIGHT = 4.0


def prune(molecules: MoleculeSet, keep: float, by: str = "density", seed: int = 0) -> np.ndarray:
    """Indices of the molecules that stay, in ascending order: of each number of atoms the share `keep`, at least one.

    Args:
        molecules: a training part.
        keep: above 0, at most 1.
        by: `density` keeps the most typical, `random` any.
        seed: of `random`.

    Raises:
        InputError: an unknown score, or a share out of range.
    """
    if by not in SCORES:
        raise InputError(f"got --keep-by '{by}'{nearest(by, SCORES)}; expected one of {', '.join(SCORES)}")
    if not 0 < keep <= 1:
        raise InputError(f"got --keep {keep}, expected more than 0 and at most 1")
    if by == "random":
        score = np.random.default_rng(seed).random(len(molecules))
    else:
        score = log_density(descriptors(molecules))
    sizes, kept = molecules.num_atoms, []
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        best = np.argsort(-score[members], kind="stable")
        kept.append(members[best[: int(np.ceil(keep * len(members)))]])
    return np.sort(np.concatenate(kept))


def descriptors(molecules: MoleculeSet) -> np.ndarray:
    """(M, E + 24) counts of each element, and the histogram of interatomic distances an atom."""
    sizes = molecules.num_atoms
    elements = np.unique(molecules.numbers)
    owner = np.repeat(np.arange(len(molecules)), sizes)
    counts = np.zeros((len(molecules), len(elements)))
    np.add.at(counts, (owner, np.searchsorted(elements, molecules.numbers)), 1)
    histogram = np.zeros((len(molecules), len(_EDGES) - 1))
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        first, second = np.triu_indices(int(size), 1)
        positions = molecules.select(members).positions.reshape(len(members), int(size), 3)
        distances = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
        places = np.searchsorted(_EDGES, distances, side="right") - 1
        rows, columns = np.nonzero((places >= 0) & (places < histogram.shape[1]))
        np.add.at(histogram, (members[rows], places[rows, columns]), 1 / size)
    return np.concatenate([counts, histogram], axis=1)


def log_density(features: np.ndarray) -> np.ndarray:
    """(M,) log density of features (M, D) under the Gaussian of all of them, but for a constant."""
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / max(len(features) - 1, 1)
    # Directions in which nothing varies say nothing.
    precision = np.linalg.pinv(covariance, rcond=1e-6, hermitian=True)
    return -0.5 * np.einsum("md,de,me->m", centred, precision, centred)


@torch.no_grad()
def size_weights(
    denoiser: Policy,
    codec: MoleculeCodec,
    molecules: MoleculeSet,
    strength: float = 1.0,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> np.ndarray:
    """(M,) how often molecules are drawn, 1 on average: exp(strength z) of the standardised loss z of their sizes.

    Args:
        denoiser: the trained reference.
        codec: molecule -> state, the reference's.
        molecules: a training part.
        strength: 0 weighs all alike; weights lie within a factor of 4 of each other's mean.
        device: of the denoiser.
        seed: of the noise, and of which molecules are looked at.
    """
    sizes = molecules.num_atoms
    ends = np.unique(np.quantile(sizes, np.linspace(0, 1, _GROUPS + 1)[1:], method="higher"))
    groups = np.searchsorted(ends, sizes)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    losses = np.empty(len(ends))
    for group in range(len(ends)):
        members = rng.permutation(np.flatnonzero(groups == group))[:_LOOKED_AT]
        found = []
        for part in np.array_split(members, -(-len(members) // _BATCH)):
            state = codec.encode(codec.arrange(molecules.select(part))).to(device)
            found.append(len(part) * float(Likelihood().loss(denoiser, state, generator)[0]))
        losses[group] = sum(found) / len(members)
    standardised = (losses - losses.mean()) / max(float(losses.std()), 1e-12)
    limit = np.log(_LARGEST_WEIGHT)
    weights = np.exp(np.clip(strength * standardised, -limit, limit))[groups]
    return weights / weights.mean()
