"""What every network that predicts properties must satisfy; each test file of such a network calls these.

The interface: `network(x (B, N, D), mask (B, N) bool) -> (values (B, P, 2), logits (B, C))`, coordinates first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from contracts.denoiser import make_batch, random_rotation
from torch import Tensor, nn

Predictor = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def assert_invariant(
    network: Predictor, n_features: int, *, rotation: bool = True, translation: bool = True, tolerance: float = 1e-8
) -> None:
    """Moving all points, and renaming them, changes nothing (float64 network)."""
    x, _, mask, _ = make_batch(n_features)
    out = _all(network, x, mask)
    assert out.std(dim=0).max() > 1e-6, "the outputs are alike for all samples: nothing is tested"
    if rotation:
        for seed, reflect in ((1, False), (2, False), (3, True)):
            moved = torch.cat([x[..., :3] @ random_rotation(seed, reflect, x.dtype).T, x[..., 3:]], dim=-1)
            _assert_equal(_all(network, moved, mask), out, tolerance, "reflection" if reflect else "rotation")
    if translation:
        shift = torch.zeros_like(x[0, 0])
        shift[:3] = torch.tensor([3.0, -2.0, 5.0])
        _assert_equal(_all(network, x + shift * mask[..., None], mask), out, tolerance, "translation")
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(4))
    _assert_equal(_all(network, x[:, order], mask[:, order]), out, tolerance, "permutation")


def assert_padding_and_batch_do_not_matter(network: Predictor, n_features: int, tolerance: float = 1e-8) -> None:
    """A sample gets the same alone, with more padding, and whatever stands in the padding or in other samples."""
    x, _, mask, _ = make_batch(n_features)
    out = _all(network, x, mask)
    wider = torch.cat([x, torch.zeros_like(x[:, :3])], dim=1)
    wider_mask = torch.cat([mask, torch.zeros_like(mask[:, :3])], dim=1)
    _assert_equal(_all(network, wider, wider_mask), out, tolerance, "more padding")
    dirty = torch.where(mask[..., None], x, torch.full_like(x, 7.0))
    _assert_equal(_all(network, dirty, mask), out, tolerance, "values in the padding")
    for i in range(len(x)):
        _assert_equal(_all(network, x[i : i + 1], mask[i : i + 1]), out[i : i + 1], tolerance, f"sample {i} alone")
    others = x.clone()
    others[1:] *= 2.0
    _assert_equal(_all(network, others, mask)[:1], out[:1], tolerance, "other samples in the batch")


def assert_gradients(network: nn.Module, n_features: int) -> None:
    """Autograd agrees with a central difference, reaches every channel and parameter, and is finite everywhere."""
    x, _, mask, _ = make_batch(n_features)
    x.requires_grad_()
    weight = torch.linspace(0.5, 1.5, _all(network, x, mask).shape[1], dtype=x.dtype)
    network.zero_grad(set_to_none=True)
    (_all(network, x, mask) * weight).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all(), "the padding has a gradient"
    assert (x.grad[mask] != 0).any(dim=0).all(), "a channel has no gradient"
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name} has a gradient that is not finite"
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype) * mask[..., None]
    with torch.no_grad():
        ahead, behind = ((_all(network, x + h * direction, mask) * weight).sum() for h in (1e-5, -1e-5))
    torch.testing.assert_close((x.grad * direction).sum(), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)
    same = x.detach().clone()
    first, second = mask[2].nonzero().squeeze(1)[:2]
    same[2, second] = same[2, first]
    same.requires_grad_()
    _all(network, same, mask).sum().backward()
    assert torch.isfinite(same.grad).all(), "two points in one place have no finite gradient"


def _all(network: Predictor, x: Tensor, mask: Tensor) -> Tensor:
    """(B, 2 P + C) everything that comes out."""
    values, logits = network(x, mask)
    return torch.cat([values.flatten(1), logits], dim=1)


def _assert_equal(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1.0)
    assert error < tolerance, f"{what}: relative error {error:.3g}, expected below {tolerance:g}"
