"""Every solver x schedule x space against laws whose denoiser is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from contracts.oracle import GaussianLaw, MixtureLaw

from common.diffusion import (
    SOLVERS,
    Centered,
    Cosine,
    Euclidean,
    LinearLogSNR,
    LinearPath,
    Polynomial,
    Process,
    SampleNoise,
    Sampler,
    State,
    sample_seeds,
    size_mask,
)

SCHEDULES = [Polynomial(precision=1e-4), Cosine(), LinearLogSNR(), LinearPath()]
SPACES = [Euclidean(), Centered(3)]
COUNT = 4000


def batch_noise(seed: int):
    """As `SampleNoise`, from one generator: thousands of samples at once."""
    generator = torch.Generator().manual_seed(seed)
    return lambda mask, n_channels: torch.randn(*mask.shape, n_channels, generator=generator, dtype=torch.float64)


def gaussian(process: Process, n_points: int = 3, std: float = 0.6) -> tuple[GaussianLaw, torch.Tensor]:
    mask = size_mask(torch.full((COUNT,), n_points), n_points + 1)
    raw = torch.linspace(-1, 1, (n_points + 1) * 4, dtype=torch.float64).reshape(1, -1, 4)
    return GaussianLaw(process, process.space.project(raw, mask[:1])[0], std), mask


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("solver", SOLVERS)
def test_gaussian_law_is_recovered(solver, schedule, space):
    process = Process(schedule, space)
    law, mask = gaussian(process)
    # The bias of a first-order solver falls as 1 / steps.
    steps = 300 if SOLVERS[solver][0] == 1 else 80
    x = Sampler(process, steps=steps, solver=solver).sample(law, mask, 4, batch_noise(0)).x
    assert not x[~mask].any()
    error = (x.mean(0) - law.mean)[mask[0]]
    assert error.abs().max() < 5 * law.std / math.sqrt(COUNT) + 0.01
    # Every direction of the space has the same variance, so the sum over it measures the std.
    squared = (x - law.mean).mul(mask.unsqueeze(-1)).square().sum((1, 2)).mean()
    std = float((squared / process.space.dof(mask[:1], 4)[0]).sqrt())
    assert std == pytest.approx(law.std, rel=0.03)


@pytest.mark.parametrize("solver", SOLVERS)
def test_mixture_law_is_recovered(solver):
    process = Process(Cosine(), Euclidean())
    means = torch.tensor([[[-1.0, 0.5]], [[1.0, 0.0]]], dtype=torch.float64)
    law = MixtureLaw(process, means, torch.tensor([0.3, 0.7], dtype=torch.float64), 0.2)
    mask = size_mask(torch.ones(COUNT, dtype=torch.long))
    x = Sampler(process, steps=250, solver=solver).sample(law, mask, 2, batch_noise(1)).x
    right = x[:, 0, 0] > 0
    assert float(right.double().mean()) == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / COUNT) + 0.01)
    for mean, members in zip(means, (~right, right), strict=True):
        torch.testing.assert_close(x[members].mean(0), mean, atol=0.03, rtol=0)
        torch.testing.assert_close(x[members].std(0), torch.full_like(mean, 0.2), atol=0.02, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm2", 2)])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_deterministic_solvers_converge_with_their_order(solver, order, space):
    """Against the exact flow of a Gaussian law from t = 1 to t = 0."""
    process = Process(LinearLogSNR(6.0, -6.0), space)
    law, mask = gaussian(process)
    law, mask = law, mask[:64]
    prior = process.prior(batch_noise(2)(mask, 4), mask)
    ones, zeros = torch.ones(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    errors = []
    for steps in (40, 80, 160):
        last = list(Sampler(process, steps=steps + 1, solver=solver).reverse(law, State(prior, mask), batch_noise(0)))[
            -1
        ]
        errors.append(float((last.before.x - law.flow(prior, mask, ones, zeros)).abs().max()))
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.25)


def test_edm_sampler_is_edms_chain_step_by_step():
    """T ancestral steps and a noisy read-out with EDM's own formulas (arXiv 2203.17003, eq. 5 to 8), same noise."""
    steps = 1000
    process = Process(Polynomial(steps, 2.0, 1e-5), Centered(3))
    mask = size_mask(torch.tensor([4, 3]), 5)
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(3)) * 0.3

    def eps(z, t):
        return process.space.project(torch.tanh(z @ weight) + t * z, mask)

    def denoiser(state: State, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (v[:, None, None] for v in process.schedule.alpha_sigma(t))
        return (state.x - sigma * eps(state.x, t[:, None, None])) / alpha

    result = Sampler.edm(process, steps).sample(denoiser, mask, 5, SampleNoise(sample_seeds(0, 0, 2))).x

    noise = SampleNoise(sample_seeds(0, 0, 2))
    gamma = -process.schedule.log_snr(torch.arange(steps + 1, dtype=torch.float64) / steps)
    project = process.space.project
    z = project(noise(mask, 5), mask).double()
    for i in range(steps, 0, -1):
        g_t, g_s = gamma[i], gamma[i - 1]
        sigma_t, sigma_s = torch.sigmoid(g_t).sqrt(), torch.sigmoid(g_s).sqrt()
        alpha_ts = (torch.sigmoid(-g_t) / torch.sigmoid(-g_s)).sqrt()
        sigma2_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
        mean = z / alpha_ts - sigma2_ts / (alpha_ts * sigma_t) * eps(z.float(), i / steps).double()
        z = mean + (sigma2_ts.sqrt() * sigma_s / sigma_t) * project(noise(mask, 5), mask).double()
    alpha_0, sigma_0 = torch.sigmoid(-gamma[0]).sqrt(), torch.sigmoid(gamma[0]).sqrt()
    expected = (z - sigma_0 * eps(z.float(), 0.0).double()) / alpha_0
    expected = expected + sigma_0 / alpha_0 * project(noise(mask, 5), mask).double()
    torch.testing.assert_close(result.double(), expected, atol=2e-4, rtol=2e-4)


def test_batches_change_nothing():
    process = Process(Cosine(), Centered(3))
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)) * 0.4

    def denoiser(state: State, t: torch.Tensor) -> torch.Tensor:
        return process.space.project(torch.tanh(state.x @ weight) * (1 - t[:, None, None]), state.mask)

    sampler = Sampler(process, steps=20, solver="sde-dpm2")
    sizes = torch.tensor([3, 6, 4])
    together = sampler.sample(denoiser, size_mask(sizes), 5, SampleNoise(sample_seeds(0, 0, 3))).x
    for i, size in enumerate(sizes):
        alone = sampler.sample(denoiser, size_mask(size[None]), 5, SampleNoise(sample_seeds(0, i, 1))).x
        torch.testing.assert_close(together[i, :size], alone[0], atol=1e-5, rtol=1e-5)


def test_the_chain_hands_out_its_steps():
    process = Process(Cosine(), Euclidean())
    law, mask = gaussian(process)
    mask = mask[:5]
    prior = State(process.prior(batch_noise(0)(mask, 4), mask), mask)
    steps = list(Sampler(process, steps=7).reverse(law, prior, batch_noise(1)))
    assert [step.t for step in steps] == Sampler(process, steps=7).times().tolist()
    assert [step.s for step in steps] == [step.t for step in steps[1:]] + [None]
    for before, after in itertools.pairwise(steps):
        assert after.before is before.after
        assert torch.isfinite(before.transition.log_prob(before.after.x)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"solver": "eulr"}, "expected one of"), ({"steps": 0}, "at least 1"), ({"eta": 2.0}, "eta")],
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(Process(Cosine(), Euclidean()), **options)
