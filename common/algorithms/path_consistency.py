"""`PathConsistency`: the optimal kernel's identity, squared (path consistency learning, GFlowNets).

The optimum of the KL-regularised problem satisfies, at every step of every path (arXiv 2407.13734, eq. 21 and 22),

    v_t(x_t) / tau + log p_theta(x_s | x_t) = v_s(x_s) / tau + log p_ref(x_s | x_t),        v_0 = r,

so that its squared residual is zero under any law of paths: the method is off-policy, and experience can be replayed.

    detailed      each step's residual, with a learnt value: detailed balance (arXiv 2111.09266)
    trajectory    the steps of a path summed, which leaves v_T = tau log Z alone: trajectory balance (arXiv 2201.13259)

Our choices: in the trajectory form log Z is not a parameter but the mean over the group of rows that ask for the same
thing (the log-variance loss, arXiv 2010.10436), so conditions need no network of their own; on the policy's own paths
its gradient is that of the KL-regularised objective. In the detailed form the value is a module,
(state, t) -> (M,) in units of tau, trained by the same residual.

Known biases: means-only kernels cannot make the residual zero, which leaves order 1 / steps; the detailed form has in
addition the error of its value function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.algorithms.algorithm import require_groups, require_temperature, scalars, score
from common.algorithms.experience import Experience
from common.algorithms.rollout import kernel, kernels, require_density, rollout, step_times
from common.cost import Cost
from common.diffusion import DenoiserFunction, Sampler, State
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.named import nearest
from common.rewards import Reward

BALANCES = ("trajectory", "detailed")


class ValueNetwork(nn.Module):
    """A value of states: a small network on each real point, summed, then another (arXiv 1703.06114).

    It is invariant under permutation, and under nothing else: where rotations matter, give `PathConsistency` a network
    that knows them. It starts at zero.

    Args:
        n_channels: D.
        width: of the hidden layers.
    """

    def __init__(self, n_channels: int, width: int = 64) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(2 * n_channels + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.whole = nn.Sequential(nn.Linear(width + 2, width), nn.SiLU(), last)

    def forward(self, state: State, t: Tensor) -> Tensor:
        """(M,) v / tau of noisy states at times t (M,)."""
        time = t[:, None, None].expand(*state.x.shape[:2], 1)
        points = self.point(torch.cat([state.x, state.x.square(), time], dim=-1)) * state.mask.unsqueeze(-1)
        size = state.sizes.clamp(min=1).to(state.x.dtype)[:, None]
        return self.whole(torch.cat([points.sum(dim=1) / size, size.log(), t[:, None]], dim=-1))[:, 0]


@dataclass(frozen=True)
class PathConsistency:
    """Trajectory or detailed balance.

    Attributes:
        sampler: see `rollout_sampler`.
        tau: temperature.
        balance: `trajectory` or `detailed`.
        value: (state, t) -> (M,) v / tau, for `detailed`; see `ValueNetwork`. It is trained with the policy.
        group_size: rows that follow each other and ask for the same thing, for log Z; 0 takes all. Minibatches of
            `trajectory` have to keep groups together.
        explore_std: at least 1; inflates the noise of the chains that are learnt from.
        epochs: see `Algorithm`.
    """

    sampler: Sampler
    tau: float = 1.0
    balance: str = "trajectory"
    value: nn.Module | None = None
    group_size: int = 0
    explore_std: float = 1.0
    epochs: int = 1

    def __post_init__(self) -> None:
        require_density(self.sampler)
        require_temperature(self.tau)
        if self.balance not in BALANCES:
            raise InputError(
                f"got balance '{self.balance}'{nearest(self.balance, BALANCES)}; expected one of {', '.join(BALANCES)}"
            )
        if (self.balance == "detailed") != (self.value is not None):
            raise InputError("a value belongs to the balance 'detailed', and to it alone; see ValueNetwork")
        if self.group_size < 0 or self.group_size == 1 or not self.explore_std >= 1:
            raise InputError(
                f"got group_size {self.group_size} and explore_std {self.explore_std}; "
                "expected 0 or at least 2, and at least 1"
            )

    @property
    def needs_gradient(self) -> bool:
        """See `Algorithm`."""
        return False

    @property
    def needs_data(self) -> bool:
        """See `Algorithm`."""
        return False

    @property
    def rows_together(self) -> int:
        """See `Algorithm`: paths whose mean stands for log Z."""
        return self.group_size if self.balance == "trajectory" else 1

    @property
    def trained(self) -> Sequence[nn.Module]:
        """See `Algorithm`: the value."""
        return () if self.value is None else (self.value,)

    @torch.no_grad()
    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
    ) -> Experience:
        """See `Algorithm`: B chains, with log p_ref of their steps."""
        require_groups(self.group_size, len(batch))
        chains = rollout(policy, self.sampler, batch, self._wider(noise))
        scored = score(reward, chains.state(-1))
        base = []
        for place in range(chains.length):
            step = kernel(reference, self.sampler, chains.state(place), chains.steps[:, place])
            base.append(step.log_prob(chains.path[:, place + 1]))
        reference_log_prob = torch.stack(base, dim=1)
        if chains.log_prob is None:
            raise ValueError("the chains have no log_prob")
        return chains.replace(
            rewards=scored.values,
            extra={"reference_log_prob": reference_log_prob, "return": scored.filled() / self.tau},
            metrics={
                **scored.metrics(),
                **scalars(path_kl=(chains.log_prob - reference_log_prob).sum(dim=1).mean()),
            },
            cost=chains.cost + Cost(reward_calls=len(batch), evaluations=chains.steps.numel()),
        )

    def _wider(self, noise: NoiseSource) -> Callable[[Tensor, int], Tensor]:
        """The noise, more of it after its first draw, which is the prior."""
        drawn = 0

        def wider(mask: Tensor, n_channels: int) -> Tensor:
            nonlocal drawn
            drawn += 1
            return noise(mask, n_channels) * (1.0 if drawn == 1 else self.explore_std)

        return wider

    def loss(
        self, policy: DenoiserFunction, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the squared residual: of each path off its group's mean, or of each step."""
        shape = experience.steps.shape
        after = experience.path[:, 1:].flatten(0, 1)
        log_ratio = kernels(policy, self.sampler, experience).log_prob(after).unflatten(0, shape)
        log_ratio = log_ratio - experience.extra["reference_log_prob"]
        if self.balance == "trajectory":
            residual = log_ratio.sum(dim=1) - experience.extra["return"]
            grouped = residual.unflatten(0, (-1, self.group_size or len(residual)))
            residual = grouped - grouped.mean(dim=1, keepdim=True)
            log_z = -grouped.mean()
        else:
            values = self._values(experience)
            residual = values[:, :-1] + log_ratio - values[:, 1:]
            log_z = values[:, 0].mean()
        loss = 0.5 * residual.square().mean()
        return loss, dict(scalars(residual=residual.square().mean().sqrt(), log_z=log_z))

    def _values(self, experience: Experience) -> Tensor:
        """(M, L + 1) v / tau along the paths; the clean end has the reward."""
        if self.value is None:
            raise ValueError("detailed balance has no value")
        length = experience.length
        flat = experience.flat()
        before = flat.state(0)
        inner = self.value(before, step_times(self.sampler, before, flat.steps[:, 0])).unflatten(0, (-1, length))
        return torch.cat([inner, experience.extra["return"][:, None]], dim=1)
