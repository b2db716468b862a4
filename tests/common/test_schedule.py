import pytest
import torch

from common.diffusion import Cosine, LinearBeta, LinearLogSNR, LinearPath, Polynomial

ALL = [Polynomial(), Polynomial(timesteps=100), LinearBeta(), Cosine(), LinearLogSNR(), LinearPath()]


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_noise_grows_with_time_and_log_snr_agrees_with_alpha_and_sigma(schedule):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * (alpha / sigma).log())
    assert (log_snr.diff() <= 0).all()
    assert alpha[0] > 0.99
    assert sigma[0] < 0.08
    assert sigma[-1] > 0.99
    assert alpha[-1] < 0.08


@pytest.mark.parametrize("schedule", ALL[:5], ids=str)
def test_variance_is_preserved(schedule):
    alpha, sigma = schedule.alpha_sigma(torch.rand(100, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(100, dtype=torch.float64))


def test_polynomial_is_edms_on_its_grid():
    """The formula of arXiv 2203.17003, appendix B, step by step in plain Python."""
    steps, precision = 1000, 1e-5
    alpha2, previous, kept = [], 1.0, 1.0
    for i in range(steps + 1):
        raw = (1 - (i / steps) ** 2) ** 2
        kept *= min(1.0, max(0.001, raw / previous))
        previous = raw
        alpha2.append((1 - 2 * precision) * kept + precision)
    # Float32 times, as a sampler has them, must hit the grid all the same.
    t = torch.arange(steps + 1, dtype=torch.float32) / steps
    alpha, sigma = Polynomial(steps, 2.0, precision).alpha_sigma(t.double())
    expected = torch.tensor(alpha2, dtype=torch.float64)
    torch.testing.assert_close(alpha**2, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma**2, 1 - expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("steps", "end"), [(1000, 0.02), (100, 0.02)])
def test_linear_beta_is_ddpms_on_its_grid(steps, end):
    """alpha_k^2 = (1 - beta_1) ... (1 - beta_k), step by step in plain Python (arXiv 2006.11239, section 2)."""
    alpha2, kept = [], 1.0
    for k in range(steps):
        kept *= 1 - (1e-4 + (end - 1e-4) * k / (steps - 1))
        alpha2.append(kept)
    # The times of a sampler with one evaluation a step.
    t = (torch.arange(steps, dtype=torch.float32) / (steps - 1)).double()
    alpha, sigma = LinearBeta(steps, 1e-4, end).alpha_sigma(t)
    expected = torch.tensor(alpha2, dtype=torch.float64)
    torch.testing.assert_close(alpha**2, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma**2, 1 - expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("settings", [{"timesteps": 1}, {"start": 0.0}, {"start": 0.03}, {"end": 1.0}])
def test_unusable_betas_are_refused(settings):
    with pytest.raises(ValueError, match="expected at least 2, and rising numbers between 0 and 1"):
        LinearBeta(**settings)
