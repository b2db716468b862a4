"""Training-time control: one paper a file, one loss an algorithm. None knows what the points are."""

from collections.abc import Callable

from common.algorithms.adjoint_matching import AdjointMatching
from common.algorithms.algorithm import Algorithm
from common.algorithms.backprop import Backprop
from common.algorithms.conditional import Conditional
from common.algorithms.ctrl import Ctrl
from common.algorithms.experience import Experience
from common.algorithms.path_consistency import PathConsistency
from common.algorithms.policy_gradient import PolicyGradient
from common.algorithms.pretraining import Pretraining
from common.algorithms.reward_weighted import RewardWeighted
from common.algorithms.rgdm import Rgdm
from common.cost import Cost

# What `finetune --method` names; each takes a `sampler` (see `rollout_sampler`) and its settings. `Ctrl` and
# `Conditional` take terms.
ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "rgdm": Rgdm,
    "policy_gradient": PolicyGradient,
    "reward_weighted": RewardWeighted,
    "backprop": Backprop,
    "path_consistency": PathConsistency,
    "adjoint_matching": AdjointMatching,
}

__all__ = [
    "ALGORITHMS",
    "AdjointMatching",
    "Algorithm",
    "Backprop",
    "Conditional",
    "Cost",
    "Ctrl",
    "Experience",
    "PathConsistency",
    "PolicyGradient",
    "Pretraining",
    "RewardWeighted",
    "Rgdm",
]
