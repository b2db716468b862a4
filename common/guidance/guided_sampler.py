"""`GuidedSampler`: a sampler with guidances around its denoiser and a selector among its particles."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from common.cost import Cost, Counted, CountedReward
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import Revise
from common.errors import InputError
from common.guidance.selection import ParticleNoise, Selected, Selector, select
from common.guidance.training_free import TrainingFree, recurring

logger = logging.getLogger(__name__)

# A guidance: it takes a denoiser and gives one.
Guidance = Callable[[DenoiserFunction], DenoiserFunction]


class GuidedSampler:
    """Draws states under guidance; stands where a `Sampler` draws samples.

    Without guidances and selector it gives what its sampler gives, bit for bit.

    Args:
        sampler: draws the chains.
        guidances: the first is nearest to the denoiser, the next around it, and so on. Each sees those within as its
            denoiser, so that tilts multiply.
        selector: chooses among particles of the guided chain, whose law it tilts.
        counted: what counts the calls of rewards and predictors in the guidances and the selector.
        denoisers: what counts the evaluations of further denoisers in the guidances.

    Attributes:
        last: what the last call of `sample` selected; None without a selector.

    Raises:
        InputError: a selector whose particles would stay copies of each other, because the sampler adds no noise.
    """

    def __init__(
        self,
        sampler: Sampler,
        guidances: Sequence[Guidance] = (),
        selector: Selector | None = None,
        counted: Sequence[Counted | CountedReward] = (),
        denoisers: Sequence[Counted] = (),
    ) -> None:
        if selector is not None and selector.needs_noise and sampler.noise_scale == 0:
            raise InputError(
                f"got the solver '{sampler.solver}' without noise, in which copies of a particle stay copies; "
                "take ancestral, sde-dpm2 or eta above 0, or best-of-n"
            )
        self.sampler = sampler
        self.guidances = tuple(guidances)
        self.selector = selector
        self.last: Selected | None = None
        self._counted, self._denoisers = tuple(counted), tuple(denoisers)
        self._evaluations = 0

    @property
    def particles(self) -> int:
        """States that are drawn for each sample: divide the batch size by it to keep the memory."""
        return 1 if self.selector is None else self.selector.particles

    @property
    def cost(self) -> Cost:
        """Of all samples so far."""
        further = sum(counted.evaluations for counted in self._denoisers)
        return Cost(sum(counted.evaluations for counted in self._counted), self._evaluations + further)

    @torch.no_grad()
    def sample(
        self,
        denoiser: DenoiserFunction,
        mask: Tensor,
        n_channels: int,
        noise: ParticleNoise,
        condition: Mapping[str, Tensor] | None = None,
    ) -> State:
        """Clean states (B, N, D), as `Sampler.sample`; noise such as `SampleNoise`."""
        counted = Counted(denoiser)
        guided: DenoiserFunction = counted
        for guidance in self.guidances:
            guided = guidance(guided)
        if self.selector is None:
            self.last = None
            revise = self._recurring(guided, noise)
            state = self.sampler.sample(guided, mask, n_channels, noise, condition, revise)
        else:
            state = self._selected(guided, mask, n_channels, noise, condition, self.selector)
        self._evaluations += counted.evaluations
        return state

    def _selected(
        self,
        guided: DenoiserFunction,
        mask: Tensor,
        n_channels: int,
        noise: ParticleNoise,
        condition: Mapping[str, Tensor] | None,
        selector: Selector,
    ) -> State:
        spread = noise.particles(selector.particles)
        self.last = select(
            selector, self.sampler, guided, mask, n_channels, spread, noise.uniforms, condition,
            self._recurring(guided, spread),
        )  # fmt: skip
        if failed := int((~self.last.valid).sum()):
            logger.warning("%d of %d samples: none of %d particles could be scored", failed, len(mask), self.particles)
        return self.last.state

    def _recurring(self, guided: DenoiserFunction, noise: Callable[[Tensor, int], Tensor]) -> Revise | None:
        active = [one for one in self.guidances if isinstance(one, TrainingFree) and one.scale > 0]
        times = max((one.recurrence for one in active), default=1)
        return recurring(self.sampler, guided, noise, times) if times > 1 else None
