"""`generate_states`: many samples in batches, each sample the same whatever the batches are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.diffusion.denoiser import DenoiserFunction
from common.diffusion.noise import SampleNoise, sample_seeds
from common.diffusion.state import State, size_mask
from common.precision import autocast


class StateSampler(Protocol):
    """What draws a batch: a `Sampler`, or one with guidance."""

    def sample(
        self,
        denoiser: DenoiserFunction,
        mask: Tensor,
        n_channels: int,
        noise: SampleNoise,
        condition: Mapping[str, Tensor] | None = None,
    ) -> State:
        """Clean states (B, N, D) for a mask (B, N)."""
        ...


def generate_states(
    denoiser: DenoiserFunction,
    sampler: StateSampler,
    sizes: np.ndarray,
    n_channels: int,
    *,
    device: torch.device,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 128,
    precision: str = "float32",
    condition: Mapping[str, Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[np.ndarray, State]]:
    """Clean states of the samples start, start + 1, ... of the run with `seed`, batch by batch.

    A sample depends on (seed, its index) alone, up to float rounding; neither on their number nor on `batch_size`.

    Args:
        denoiser: (state_t, t) -> x0_hat.
        sampler: draws the states.
        sizes: (M,) number of points of each sample.
        n_channels: channels of a state.
        device: where the denoiser is.
        seed: of the run.
        start: index of the first sample.
        batch_size: samples at a time.
        precision: see `common.precision`.
        condition: name -> (M, ...) a row for each sample.
        progress: called with the number of samples done after each batch.

    Yields:
        Places (b,) in `sizes` and the `State` of these samples; similar sizes come together, for less padding.
    """
    seeds = sample_seeds(seed, start, len(sizes))
    order = np.argsort(sizes, kind="stable")
    for first in range(0, len(sizes), batch_size):
        places = order[first : first + batch_size]
        mask = size_mask(torch.from_numpy(sizes[places])).to(device)
        rows = {name: values[torch.from_numpy(places)].to(device) for name, values in (condition or {}).items()}
        with autocast(device, precision):
            state = sampler.sample(denoiser, mask, n_channels, SampleNoise([seeds[i] for i in places]), rows)
        yield places, state
        if progress is not None:
            progress(first + len(places))
