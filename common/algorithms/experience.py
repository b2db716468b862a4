"""`Experience`: what an algorithm learns from, as tensors that can be split, mixed, moved and replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from common.cost import Cost
from common.diffusion import State


@dataclass(frozen=True)
class Experience:
    """M rows, each a stretch of L steps of a reverse chain; nothing in it carries a gradient.

    Attributes:
        path: (M, L + 1, N, D) states along the chain, noisier first. L = 0: clean states alone.
        steps: (M, L) long, the place of each step among the sampler's times; the last place is the read-out.
        mask: (M, N) bool, True = real.
        condition: name -> (M, ...) what the rows were asked for.
        rewards: (M,) NaN where a sample could not be scored; None where nothing was scored.
        log_prob: (M, L) of each step under the law that drew it, summed over the real degrees of freedom; None where
            the algorithm does not need it.
        extra: name -> (M, ...) what one algorithm adds to its rows.
        shared: name -> tensor of any shape that all rows share.
        metrics: name -> scalar, for the log.
        cost: what collecting it took.
    """

    path: Tensor
    steps: Tensor
    mask: Tensor
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    rewards: Tensor | None = None
    log_prob: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        rows, length = self.path.shape[0], self.path.shape[1] - 1
        if self.steps.shape != (rows, length) or self.mask.shape != (rows, self.path.shape[2]):
            raise ValueError(
                f"got path {tuple(self.path.shape)}, steps {tuple(self.steps.shape)} and mask "
                f"{tuple(self.mask.shape)}, expected (M, L + 1, N, D), (M, L) and (M, N)"
            )

    def __len__(self) -> int:
        return self.path.shape[0]

    @property
    def length(self) -> int:
        """L, the steps of a row."""
        return self.steps.shape[1]

    def state(self, place: int) -> State:
        """The states at one place 0 ... L of all rows; -1 is the cleanest."""
        # In one piece, as the sampler had it: matrix products of a strided tensor round differently.
        return State(self.path[:, place].contiguous(), self.mask, self.condition)

    def replace(self, **changes: Any) -> Experience:
        """A copy with the named fields changed."""
        return replace(self, **changes)

    def with_extra(self, **tensors: Tensor) -> Experience:
        """A copy with more `extra`."""
        return replace(self, extra={**self.extra, **tensors})

    def index(self, rows: Tensor | slice) -> Experience:
        """The rows (K,), in that order, or those of a mask (M,); without metrics and cost, which are the whole's."""
        return replace(
            self,
            **_each_row(self, lambda tensor: tensor[rows]),
            metrics={},
            cost=Cost(),
        )

    def to(self, device: torch.device | str) -> Experience:
        """A copy on `device`."""
        return replace(
            self,
            **_each_row(self, lambda tensor: tensor.to(device)),
            shared={name: tensor.to(device) for name, tensor in self.shared.items()},
        )

    def flat(self) -> Experience:
        """Each step a row of its own (M L rows, L = 1): for losses that treat steps alone.

        What is (M, L) in `extra` goes with its step; everything else is repeated.
        """
        count, length = self.steps.shape

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(length, dim=0)

        def cut(tensor: Tensor) -> Tensor:
            if tensor.shape[:2] == (count, length):
                return tensor.reshape(count * length, 1, *tensor.shape[2:])
            return repeated(tensor)

        return replace(
            self,
            path=torch.stack([self.path[:, :-1], self.path[:, 1:]], dim=2).flatten(0, 1),
            steps=self.steps.reshape(-1, 1),
            mask=repeated(self.mask),
            condition={name: repeated(values) for name, values in self.condition.items()},
            rewards=None if self.rewards is None else repeated(self.rewards),
            log_prob=None if self.log_prob is None else self.log_prob.reshape(-1, 1),
            extra={name: cut(values) for name, values in self.extra.items()},
        )

    def minibatches(self, count: int, generator: torch.Generator, together: int = 1) -> Iterator[Experience]:
        """All rows once, in random order, in `count` parts of about the same size.

        Args:
            count: of the parts.
            generator: on the CPU.
            together: this many rows that follow each other stay so; their number divides that of all rows.
        """
        groups = torch.randperm(len(self) // together, generator=generator)
        for part in groups.tensor_split(count):
            yield self.index((part[:, None] * together + torch.arange(together)).flatten().to(self.path.device))

    @staticmethod
    def concatenate(parts: Sequence[Experience]) -> Experience:
        """The rows of all parts, of one length and padding: a replay store. Costs add up; metrics are the last part's.

        `shared` has to be the same in all; that of the first is kept.
        """
        first = parts[0]

        def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
            return None if tensors[0] is None else torch.cat([t for t in tensors if t is not None])

        cost = Cost()
        for part in parts:
            cost = cost + part.cost
        return replace(
            first,
            path=torch.cat([part.path for part in parts]),
            steps=torch.cat([part.steps for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
            condition={name: torch.cat([part.condition[name] for part in parts]) for name in first.condition},
            rewards=joined([part.rewards for part in parts]),
            log_prob=joined([part.log_prob for part in parts]),
            extra={name: torch.cat([part.extra[name] for part in parts]) for name in first.extra},
            metrics=parts[-1].metrics,
            cost=cost,
        )


def _each_row(experience: Experience, change: Any) -> dict[str, Any]:
    """The fields that have rows, each tensor changed."""
    return {
        "path": change(experience.path),
        "steps": change(experience.steps),
        "mask": change(experience.mask),
        "condition": {name: change(values) for name, values in experience.condition.items()},
        "rewards": None if experience.rewards is None else change(experience.rewards),
        "log_prob": None if experience.log_prob is None else change(experience.log_prob),
        "extra": {name: change(values) for name, values in experience.extra.items()},
    }
