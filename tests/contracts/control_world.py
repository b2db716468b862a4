"""A world in which the posterior of every control is known: a point on a plane whose channels are seen with noise."""

from __future__ import annotations

import torch
from contracts.oracle import GaussianLaw
from contracts.worlds import SCHEDULE, Moments, noise_source
from torch import nn

from common.algorithms import Ctrl
from common.algorithms.ctrl import ControlTerm
from common.algorithms.rollout import rollout_sampler
from common.cost import Cost
from common.diffusion import X0, Denoiser, Euclidean, Process, State
from common.diffusion.control import Control, ControlledDenoiser
from common.diffusion.embedding import time_features

PROCESS = Process(SCHEDULE, Euclidean())
LAW = GaussianLaw(PROCESS, torch.zeros(1, 2, dtype=torch.float64), 0.8)
NOISE = 0.4
STEPS = 12
QUESTIONS = ({"y1": 0.8, "y2": -0.6}, {"y1": -0.8, "y2": 0.5}, {"y1": 0.7})


class AnalyticNetwork(nn.Module):
    """The analytic denoiser of LAW, and a head that is zero, for adapters to fill."""

    control_site = "embed_global"

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed_global = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.head = nn.Linear(width, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x, t, mask, context):
        h = torch.tanh(self.embed_global(time_features(t, 16).to(x.dtype)))
        shift, gain = self.head(h)[:, None].chunk(2, dim=-1)
        return LAW(State(x, mask), t) + (shift + gain * x)


def controls() -> tuple[ControlTerm, ...]:
    """y1 of channel 0 and y2 of channel 1, each seen with noise on a set of its own."""
    terms = []
    for channel in (0, 1):

        def predict(state: State, channel: int = channel) -> tuple[torch.Tensor, torch.Tensor]:
            mean = state.x[:, 0, channel]
            return mean, torch.full_like(mean, NOISE / 2)

        seen = torch.randn(500, generator=torch.Generator().manual_seed(channel), dtype=torch.float64)
        # The predictor claims half its std; scale 2 is its calibration.
        terms.append(ControlTerm(Control(f"y{channel + 1}"), predict, seen, scale=2.0))
    return tuple(terms)


def batch(count: int, **asked: float) -> State:
    condition = {name: torch.full((count,), value, dtype=torch.float64) for name, value in asked.items()}
    return State(
        torch.zeros(count, 1, 2, dtype=torch.float64), torch.ones(count, 1, dtype=torch.bool), condition
    )  # fmt: skip


def sample(denoiser, state: State, seed: int = 0) -> torch.Tensor:
    sampler = rollout_sampler(PROCESS, STEPS)
    noise = noise_source(torch.Generator().manual_seed(seed))
    return sampler.sample(denoiser, state.mask, 2, noise, state.condition).x[:, 0]


def fit(
    inner,
    iterations: int,
    null_share: float,
    chains: int = 192,
    updates: int = 1,
    values_each: int = 1,
    seed: int = 0,
) -> tuple[ControlledDenoiser, Cost]:
    """`inner` under CTRL: `iterations` batches of chains, each gone through in `updates` steps. And what that took."""
    torch.manual_seed(seed)
    base = Denoiser(AnalyticNetwork().double(), PROCESS, X0())
    ctrl = Ctrl(inner, controls(), null_share=null_share, values_each=values_each)
    policy = ControlledDenoiser(base, [term.control for term in ctrl.terms], rank=4)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    cost = Cost()
    for _ in range(iterations):
        experience = ctrl.collect(
            policy, policy.uncontrolled, ctrl.reward, batch(chains), noise_source(generator), generator
        )
        cost = cost + experience.cost
        for part in experience.minibatches(updates, generator):
            loss, _ = ctrl.loss(policy, policy.uncontrolled, part)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        decay.step()
    return policy, cost


def divergences(policy: ControlledDenoiser, count: int = 6000) -> list[float]:
    """KL(samples || posterior) in nats, after mean and variance, of each channel of each of `QUESTIONS`."""
    base = float(sample(policy, batch(20_000)).var())
    # Bayes of the base's chain.
    slope, posterior = base / (base + NOISE**2), base * NOISE**2 / (base + NOISE**2)
    found = []
    for asked in QUESTIONS:
        x = sample(policy, batch(count, **asked))
        for channel, name in enumerate(("y1", "y2")):
            samples = Moments(x[:, channel].mean()[None, None], float(x[:, channel].var()))
            mean = torch.full_like(samples.mean, slope * asked.get(name, 0.0))
            exact = Moments(mean, posterior if name in asked else base)
            found.append(samples.kl(exact, 1, torch.ones(1, dtype=torch.bool)))
    return found
