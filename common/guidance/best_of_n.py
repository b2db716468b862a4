"""`BestOfN`: the best of several samples.

What any other method has to beat. The best of n has the law n F(r(x_0))^(n - 1) p(x_0), with F the distribution
function of a reward without ties under p: at most log n - (n - 1) / n nats away from p (arXiv 2401.01879).

Known limit: it finds what the model gives by chance; a reward that is met once in a thousand samples takes a thousand.

Cost: n times that of sampling, and n reward calls, a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import State
from common.diffusion.sampler import Visit
from common.guidance.selection import Ends, Selected, Selection, require_particles
from common.rewards import Reward


@dataclass(frozen=True)
class BestOfN:
    """The best of `particles` independent samples.

    Attributes:
        reward: any.
        particles: n. The first is the sample that an unguided run gives, so that a larger n never gives a worse one.
    """

    reward: Reward
    particles: int = 8

    def __post_init__(self) -> None:
        require_particles(self.particles)

    @property
    def needs_noise(self) -> bool:
        """See `Selector`."""
        return False

    def begin(self, uniforms: Callable[[], Tensor]) -> Selection:
        """See `Selector`."""
        return _Best(self)


class _Best:
    def __init__(self, settings: BestOfN) -> None:
        self._settings = settings

    def revise(self, visit: Visit) -> Visit:
        return visit

    def finish(self, state: State) -> Selected:
        ends = Ends.of(self._settings.reward, state, self._settings.particles)
        # Stable: the first of equals, and of a group of failures the first.
        best = ends.ranked.argsort(dim=1, descending=True, stable=True)[:, 0]
        return ends.selected(best, torch.full((len(best),), self._settings.particles, dtype=torch.float64))
