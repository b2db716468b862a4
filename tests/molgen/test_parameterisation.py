import math

import pytest
import torch

from common.diffusion import X0, Centered, Cosine, Denoiser, Eps, Polynomial, Process, State, V, size_mask
from molgen.models.parameterisation import CategoricalTypes

ALPHA, SIGMA = torch.tensor([0.6]), torch.tensor([0.8])


def test_types_are_a_scaled_categorical_law():
    raw = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    x0_hat = CategoricalTypes(type_scale=0.25).x0_hat(raw, torch.zeros_like(raw), ALPHA, SIGMA)
    torch.testing.assert_close(x0_hat[..., 3:].sum(-1), torch.full((1, 3), 0.25))
    assert (x0_hat[..., 3:] >= 0).all()


def test_loss_is_cross_entropy_over_real_atoms():
    mask = size_mask(torch.tensor([2]), 3)
    x0 = torch.zeros(1, 3, 5)
    x0[0, 0, 3] = x0[0, 1, 4] = 1.0
    x0_hat = x0.clone()
    x0_hat[..., 3:] = 0.5
    parts = CategoricalTypes(type_weight=2.0).loss_parts(x0_hat, x0, mask, ALPHA, SIGMA, math.inf)
    assert float(parts["types"]) == pytest.approx(2 * math.log(2))
    assert float(parts["v"]) == 0


@pytest.mark.parametrize("parameterisation", [Eps(), V(), X0()], ids=lambda p: type(p).__name__)
def test_a_perfect_network_has_no_loss_and_finds_x0(parameterisation):
    """Raw output equal to what the parameterisation names gives back the clean state, at every time."""
    process, mask = Process(Cosine(6.0), Centered(3)), size_mask(torch.tensor([4, 3]))
    generator = torch.Generator().manual_seed(0)
    x0, eps = (
        process.space.project(torch.randn(2, 4, 5, generator=generator, dtype=torch.float64), mask) for _ in range(2)
    )
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    x_t = process.corrupt(x0, mask, t, eps)
    alpha, sigma = process.schedule.alpha_sigma(t)
    wide = alpha[:, None, None], sigma[:, None, None]
    raw = {"Eps": eps, "V": wide[0] * eps - wide[1] * x0, "X0": x0}[type(parameterisation).__name__]
    x0_hat = parameterisation.x0_hat(raw, x_t, alpha, sigma)
    torch.testing.assert_close(x0_hat, x0)
    # A raw output that is off by delta costs delta^2: the loss is that of what the network predicts.
    off = parameterisation.x0_hat(raw + 0.1 * mask.unsqueeze(-1), x_t, alpha, sigma)
    (part,) = parameterisation.loss_parts(off, x0, mask, alpha, sigma, math.inf).values()
    torch.testing.assert_close(part, torch.full((2,), 0.01, dtype=torch.float64))


def test_the_denoiser_stays_in_the_space():
    class Slope(torch.nn.Module):
        def forward(self, x, t, mask, context):
            return torch.ones_like(x) * torch.arange(4.0)[:, None]

    denoiser = Denoiser(Slope(), Process(Polynomial(), Centered(3)), X0())
    mask = size_mask(torch.tensor([3]), 4)
    out = denoiser(State(torch.zeros(1, 4, 5), mask), torch.tensor([0.5]))
    assert out[..., :3].sum(1).abs().max() < 1e-6
    assert not out[~mask].any()
