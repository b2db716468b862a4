import numpy as np
import pytest
import torch

from common.diffusion import Centered, Euclidean, Transition, size_mask

MASK = size_mask(torch.tensor([5, 1, 3]), 6)


@pytest.mark.parametrize("space", [Euclidean(), Centered(3)])
def test_projection_is_idempotent_symmetric_and_clears_padding(space):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    projected = space.project(x, MASK)
    torch.testing.assert_close(space.project(projected, MASK), projected)
    torch.testing.assert_close((projected * y).sum((1, 2)), (x * space.project(y, MASK)).sum((1, 2)))
    assert not projected[~MASK].any()


@pytest.mark.parametrize("space", [Euclidean(), Centered(3), Centered(2)])
def test_dof_is_the_trace_of_the_projector(space):
    basis = torch.eye(30, dtype=torch.float64).reshape(30, 6, 5)
    for row, mask in enumerate(MASK):
        projected = space.project(basis, mask.expand(30, 6))
        assert space.dof(MASK, 5)[row] == round(float((projected * basis).sum()))


def test_centred_noise_has_no_centre_and_the_projector_as_covariance():
    space, mask = Centered(3), size_mask(torch.tensor([4]), 5)
    noise = torch.randn(200_000, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    projected = space.project(noise, mask.expand(len(noise), 5))
    assert projected[..., :3].sum(1).abs().max() < 1e-12
    covariance = torch.einsum("bn,bm->nm", projected[:, :4, 0], projected[:, :4, 0]) / len(noise)
    expected = torch.eye(4, dtype=torch.float64) - 0.25
    assert (covariance - expected).abs().max() < 0.01


def test_log_prob_is_the_density_of_the_subspace():
    """Against an explicit orthonormal basis of the centred space: (N - 1) * 3 + N * F dimensions."""
    space, sizes = Centered(3), [4]
    mask = size_mask(torch.tensor(sizes), 6)
    generator = torch.Generator().manual_seed(2)
    mean, x = (space.project(torch.randn(1, 6, 5, generator=generator, dtype=torch.float64), mask) for _ in range(2))
    std = 0.7
    # Columns 2 ... N of an orthonormal matrix whose first column is constant span the centred vectors.
    basis = np.linalg.qr(np.column_stack([np.ones(4), np.eye(4)[:, :3]]))[0][:, 1:]
    difference = (x - mean)[0, :4].numpy()
    coordinates = np.concatenate([(basis.T @ difference[:, :3]).ravel(), difference[:, 3:].ravel()])
    expected = -0.5 * (coordinates**2).sum() / std**2 - len(coordinates) * (np.log(std) + 0.5 * np.log(2 * np.pi))
    transition = Transition(mean, torch.tensor([std], dtype=torch.float64), space, mask)
    assert float(transition.log_prob(x)) == pytest.approx(expected)
    # More padding changes nothing.
    wide = torch.nn.functional.pad(mean, (0, 0, 0, 3)), torch.nn.functional.pad(x, (0, 0, 0, 3))
    padded = Transition(wide[0], transition.std, space, size_mask(torch.tensor(sizes), 9))
    torch.testing.assert_close(padded.log_prob(wide[1]), transition.log_prob(x))
