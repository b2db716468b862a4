"""Every algorithm with the law that it aims at in the closed-form worlds, and how near it must come."""

from __future__ import annotations

from contracts.worlds import GaussianWorld, MixtureWorld

from common.algorithms import AdjointMatching, Backprop, PathConsistency, PolicyGradient, RewardWeighted, Rgdm
from common.diffusion import Centered, Euclidean

EUCLIDEAN = GaussianWorld(Euclidean())
# Molecules' space: centre of mass removed on three channels, two sizes, padding.
CENTRED = GaussianWorld(Centered(3), sizes=(3, 2), n_channels=4)
MIXTURE = MixtureWorld(Euclidean(), steps=24)

# name -> (algorithm, law that it aims at, tolerance in nats a degree of freedom). The starting distance is about 0.2.
# 0.002 is noise of the updates; more is the method's bias.
CASES = {
    "policy_gradient": (lambda s: PolicyGradient(s), "best_chain", 0.002),
    "policy_gradient, groups and 2 epochs": (lambda s: PolicyGradient(s, group_size=64, epochs=2), "best_chain", 0.002),
    "backprop": (lambda s: Backprop(s), "best_chain", 0.002),
    "adjoint_matching": (lambda s: AdjointMatching(s), "best_chain", 0.002),
    "adjoint_matching, 4 steps a chain": (lambda s: AdjointMatching(s, visited=4), "best_chain", 0.002),
    "path_consistency": (lambda s: PathConsistency(s), "best_chain", 0.002),
    "reward_weighted, data": (lambda s: RewardWeighted(s, 1.0, source="data"), "projected_chain", 0.004),
    "reward_weighted, policy": (lambda s: RewardWeighted(s, 1.0, source="policy"), "tilted_chain", 0.004),
    "rgdm": (lambda s: Rgdm(s, 1.0, "kl", candidates=8, visited=4, look_ahead=4), "tilted_chain", 0.004),
    # The look-ahead of one evaluation ignores the spread of x_0 given x_t.
    "rgdm, x0_hat": (lambda s: Rgdm(s, 1.0, "kl", candidates=8, visited=4), "tilted_chain", 0.01),
    # A fifth of the way back to the base in each round, and rounds that add up.
    "rgdm, anchored": (
        lambda s: Rgdm(s, 1.0, "policy", candidates=8, visited=4, look_ahead=4, anchor=0.2),
        "tilted_chain",
        0.004,
    ),
    # One of K candidates instead of their mean: the same target, more noise.
    "rgdm, resampled": (
        lambda s: Rgdm(s, 1.0, "kl", candidates=8, visited=4, look_ahead=4, resample=True),
        "tilted_chain",
        0.006,
    ),
    # Proposals that differ from the base leave fewer effective samples: a self-normalised bias of order 1 / K.
    "rgdm, data": (
        lambda s: Rgdm(s, 1.0, "kl", "posterior", candidates=16, visited=4, look_ahead=4),
        "tilted_chain",
        0.03,
    ),
}
