"""Random numbers with one stream a sample, so that a batch's make-up changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def sample_seeds(seed: int, start: int, count: int) -> list[int]:
    """Seeds of the samples start, ..., start + count - 1 of a run with `seed`; independent of how runs are cut."""
    return [
        int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> 1)
        for index in range(start, start + count)
    ]


def sample_uniforms(seed: int, start: int, count: int, stream: int) -> np.ndarray:
    """(count,) uniform numbers in [0, 1) of the samples start, ..., each from its own stream.

    `stream` tells apart what is drawn for one sample: 1 and above; its noise is none of them.
    """
    return np.array([_stream(seed, index, stream).random() for index in range(start, start + count)])


def sample_normals(seed: int, start: int, count: int, stream: int, width: int) -> np.ndarray:
    """(count, width) float32 standard Gaussian numbers of the samples start, ..., each from its own stream.

    `stream` as in `sample_uniforms`.
    """
    rows = [_stream(seed, index, stream).standard_normal(width) for index in range(start, start + count)]
    return np.array(rows, np.float32).reshape(count, width)


def _stream(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, stream)))


class SampleNoise:
    """Standard Gaussian noise from one CPU generator a sample.

    Sample b's numbers depend on its own seed, its own number of points, and how often it was asked; neither on
    padding nor on the device.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = list(seeds)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._choices: list[np.random.Generator] = []

    def __call__(self, mask: Tensor, n_channels: int) -> Tensor:
        """(B, N, D) float32 noise on mask's device, zero where mask (B, N) is False.

        Real points must come first in each row of the mask.
        """
        if len(mask) != len(self._generators):
            raise ValueError(f"got a batch of {len(mask)}, expected {len(self._generators)}: one seed a sample")
        noise = torch.zeros(*mask.shape, n_channels)
        for row, size, generator in zip(noise, mask.sum(dim=1).tolist(), self._generators, strict=True):
            torch.randn(size, n_channels, generator=generator, out=row[:size])
        return noise.to(mask.device, non_blocking=True)

    def particles(self, count: int) -> SampleNoise:
        """Noise for `count` particles a sample, those of a sample together, each with a stream of its own.

        The first particle has what the sample itself would have from its start.
        """
        return SampleNoise([seed if k == 0 else _branch(seed, k) for seed in self._seeds for k in range(count)])

    def uniforms(self) -> Tensor:
        """(B,) float64 uniform numbers in [0, 1) on the CPU, one a sample, from a stream apart from the noise."""
        if not self._choices:
            self._choices = [np.random.default_rng(_branch(seed, 0)) for seed in self._seeds]
        return torch.tensor([generator.random() for generator in self._choices], dtype=torch.float64)


def _branch(seed: int, key: int) -> int:
    """The seed of another stream of the sample with `seed`."""
    return int(np.random.SeedSequence(seed, spawn_key=(key,)).generate_state(1, np.uint64)[0] >> 1)
