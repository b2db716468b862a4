"""`Denoiser`: (state_t, t) -> x0_hat. What the network's raw output means is a `Parameterisation`.

Nothing else crosses the boundary to samplers, guidance and algorithms: a guidance is a function from denoiser to
denoiser, and a test puts an analytic one in the network's place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from common.diffusion.process import Process
from common.diffusion.state import State

DenoiserFunction = Callable[[State, Tensor], Tensor]


class Parameterisation(Protocol):
    """How raw network output (B, N, D) becomes x0_hat, and the units in which its loss is measured."""

    def x0_hat(self, raw: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(B, N, D) clean estimate from raw output; alpha and sigma are (B,)."""
        ...

    def loss_parts(
        self, x0_hat: Tensor, x0: Tensor, mask: Tensor, alpha: Tensor, sigma: Tensor, max_weight: float
    ) -> dict[str, Tensor]:
        """name -> (B,) parts of the loss of x0_hat against x0, means over a sample's real channels.

        max_weight bounds the weight of a squared x0 error.
        """
        ...


def mean_squared_error(x0_hat: Tensor, x0: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean of (x0_hat - x0)^2 (B, N, D) over real points (mask (B, N)) and channels."""
    squared = (x0_hat - x0).square().sum(dim=-1) * mask
    return squared.sum(dim=1) / (mask.sum(dim=1) * x0.shape[-1]).clamp(min=1)


@dataclass(frozen=True)
class Eps:
    """The network predicts the noise (arXiv 2006.11239): EDM's choice."""

    def x0_hat(self, raw: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Parameterisation.x0_hat`."""
        return (x_t - sigma[:, None, None] * raw) / alpha[:, None, None]

    def loss_parts(
        self, x0_hat: Tensor, x0: Tensor, mask: Tensor, alpha: Tensor, sigma: Tensor, max_weight: float
    ) -> dict[str, Tensor]:
        """See `Parameterisation.loss_parts`: the squared error of eps, SNR times that of x0."""
        weight = ((alpha / sigma) ** 2).clamp(max=max_weight)
        return {"eps": weight * mean_squared_error(x0_hat, x0, mask)}


@dataclass(frozen=True)
class V:
    """The network predicts v = alpha eps - sigma x_0 of a variance-preserving process (arXiv 2202.00512)."""

    def x0_hat(self, raw: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Parameterisation.x0_hat`."""
        return alpha[:, None, None] * x_t - sigma[:, None, None] * raw

    def loss_parts(
        self, x0_hat: Tensor, x0: Tensor, mask: Tensor, alpha: Tensor, sigma: Tensor, max_weight: float
    ) -> dict[str, Tensor]:
        """See `Parameterisation.loss_parts`: the squared error of v."""
        return {"v": (1 / sigma**2).clamp(max=max_weight) * mean_squared_error(x0_hat, x0, mask)}


@dataclass(frozen=True)
class X0:
    """The network predicts the clean state itself."""

    def x0_hat(self, raw: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Parameterisation.x0_hat`."""
        return raw

    def loss_parts(
        self, x0_hat: Tensor, x0: Tensor, mask: Tensor, alpha: Tensor, sigma: Tensor, max_weight: float
    ) -> dict[str, Tensor]:
        """See `Parameterisation.loss_parts`: the squared error of x0 itself."""
        return {"x0": mean_squared_error(x0_hat, x0, mask)}


class Denoiser(nn.Module):
    """A network with the meaning of its output.

    Args:
        network: (x_t (B, N, D), t (B,), mask (B, N), context) -> raw (B, N, D); what else of a state's condition it is
            told, by name, stands in its `conditions`.
        process: the process that it denoises.
        parameterisation: what raw output means.
    """

    def __init__(self, network: nn.Module, process: Process, parameterisation: Parameterisation) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.parameterisation = parameterisation

    def forward(self, state: State, t: Tensor) -> Tensor:
        """x0_hat (B, N, D) in the process's space, for x_t = state.x at times t (B,)."""
        told = {name: state.condition.get(name) for name in getattr(self.network, "conditions", ())}
        raw = self.network(state.x, t, state.mask, state.condition.get("context"), **told)
        alpha, sigma = self.process.schedule.alpha_sigma(t)
        x0_hat = self.parameterisation.x0_hat(raw.to(state.x.dtype), state.x, alpha, sigma)
        return self.process.space.project(x0_hat, state.mask)


PARAMETERISATIONS = {"eps": Eps, "v": V, "x0": X0}
