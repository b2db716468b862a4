import pytest
import torch

from common.diffusion import Centered, Transition, size_mask

SPACE, MASK = Centered(3), size_mask(torch.tensor([3, 5]))


def make(seed: int, std: float) -> Transition:
    generator = torch.Generator().manual_seed(seed)
    mean = SPACE.project(torch.randn(2, 5, 4, generator=generator, dtype=torch.float64), MASK)
    return Transition(mean, torch.full((2,), std, dtype=torch.float64), SPACE, MASK)


def repeat(step: Transition, count: int) -> Transition:
    """The same two steps `count` times in one batch."""
    return Transition(step.mean.repeat(count, 1, 1), step.std.repeat(count), SPACE, MASK.repeat(count, 1))


def test_kl_agrees_with_monte_carlo():
    count = 50_000
    first, second = make(0, 0.5), make(1, 0.8)
    many, others = repeat(first, count), repeat(second, count)
    x = many.sample(torch.randn(many.mean.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    ratio = (many.log_prob(x) - others.log_prob(x)).reshape(count, 2).mean(0)
    torch.testing.assert_close(ratio, first.kl(second), rtol=0.01, atol=0)


def test_a_step_has_no_divergence_from_itself():
    step = make(0, 0.5)
    assert not step.kl(step).any()


def test_the_score_function_gradient_is_the_exact_gradient_of_a_mean():
    """d/dm E[x] = 1 in each direction of the space, estimated through log_prob alone."""
    mean = torch.zeros(1, requires_grad=True, dtype=torch.float64)
    count = 200_000
    mask = size_mask(torch.ones(count, dtype=torch.long))
    step = Transition(mean.expand(count, 1, 1), torch.ones(count, dtype=torch.float64), Centered(0), mask)
    x = step.sample(torch.randn(count, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).detach()
    (gradient,) = torch.autograd.grad((step.log_prob(x) * x[:, 0, 0]).mean(), mean)
    assert float(gradient) == pytest.approx(1, abs=0.02)


def test_a_deterministic_step_has_no_density():
    step = make(0, 0.0)
    with pytest.raises(ValueError, match="deterministic step"):
        step.log_prob(step.mean)
    with pytest.raises(ValueError, match="deterministic step"):
        make(0, 0.5).kl(step)
