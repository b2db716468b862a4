"""What every network of 3D point sets must satisfy; each test file of a network calls these.

The interface: `network(x (B, N, 3 + F), t (B,), mask (B, N) bool, context (B, C) or None) -> (B, N, 3 + F)`, with
coordinates first. A `Denoiser` fits through a function that builds its `State`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Network = Callable[..., Tensor]
Batch = tuple[Tensor, Tensor, Tensor, Tensor | None]

# A lone atom, a pair, and molecules of several sizes.
SIZES = (5, 1, 9, 2, 7)


def make_batch(
    n_features: int,
    n_context: int = 0,
    sizes: Sequence[int] = SIZES,
    n_slots: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Random x (zero and centred over the real atoms), t, mask and context; real atoms stand in random slots."""
    generator = torch.Generator().manual_seed(seed)
    n_slots = n_slots or max(sizes) + 2
    mask = torch.zeros(len(sizes), n_slots, dtype=torch.bool)
    for row, size in zip(mask, sizes, strict=True):
        row[torch.randperm(n_slots, generator=generator)[:size]] = True
    real = mask[..., None].to(dtype)
    x = torch.randn(len(sizes), n_slots, 3 + n_features, generator=generator, dtype=dtype) * real
    x[..., :3] -= x[..., :3].sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True) * real
    t = torch.rand(len(sizes), generator=generator, dtype=dtype)
    context = torch.randn(len(sizes), n_context, generator=generator, dtype=dtype) if n_context else None
    return x, t, mask, context


def random_rotation(seed: int, reflect: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    """(3, 3) orthogonal matrix, of determinant 1, or -1 if `reflect`."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    wanted = -1.0 if reflect else 1.0
    return (q * (wanted * torch.linalg.det(q).sign())).to(dtype)


def assert_equivariant(
    network: Network,
    n_features: int,
    n_context: int = 0,
    *,
    translation: bool = True,
    centred: bool = True,
    permutation: bool = True,
    tolerance: float = 1e-8,
) -> None:
    """Rotation, reflection, translation and permutation of the input do the same to the output (float64 network).

    translation: a shift of the real atoms' coordinates changes nothing (a network that needs centred input, or
    centres it, may leave this out). centred: the output's coordinates have mean zero over the real atoms.
    permutation: False for a network that knows an atom's place among the real ones: then only the padding moves.
    """
    x, t, mask, context = make_batch(n_features, n_context)
    out = network(x, t, mask, context)
    assert out.shape == x.shape
    assert out[..., :3].abs().max() > 1e-6, "the output's coordinates are zero: nothing is tested"
    if centred:
        _assert_equal(out[..., :3].sum(dim=1), torch.zeros(len(x), 3, dtype=x.dtype), tolerance, "centring")

    for seed, reflect in ((1, False), (2, False), (3, True)):
        rotation = random_rotation(seed, reflect, x.dtype)
        moved = torch.cat([x[..., :3] @ rotation.T, x[..., 3:]], dim=-1)
        expected = torch.cat([out[..., :3] @ rotation.T, out[..., 3:]], dim=-1)
        _assert_equal(network(moved, t, mask, context), expected, tolerance, "reflection" if reflect else "rotation")
    if translation:
        shift = torch.tensor([3.0, -2.0, 5.0], dtype=x.dtype) * mask[..., None]
        moved = torch.cat([x[..., :3] + shift, x[..., 3:]], dim=-1)
        _assert_equal(network(moved, t, mask, context), out, tolerance, "translation")
    for seed in (4, 5):
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed)).expand(len(x), -1)
        if not permutation:
            # Slots sorted by whether they are padding, in a random direction: the real atoms keep their sequence.
            order = (mask.int() * (1 if seed % 2 else -1)).argsort(dim=1, stable=True)
        x_moved, mask_moved = x.gather(1, order.unsqueeze(-1).expand_as(x)), mask.gather(1, order)
        expected = out.gather(1, order.unsqueeze(-1).expand_as(out))
        _assert_equal(network(x_moved, t, mask_moved, context), expected, tolerance, "permutation of the slots")


def assert_padding_invariant(network: Network, n_features: int, n_context: int = 0, tolerance: float = 1e-8) -> None:
    """More padding, and other values in it, change nothing; the output is zero there."""
    x, t, mask, context = make_batch(n_features, n_context)
    out = network(x, t, mask, context)
    assert (out[~mask] == 0).all(), "the output is not zero on padding"
    extra = 4
    wider = torch.cat([x, x.new_full((len(x), extra, x.shape[2]), 7.0)], dim=1)
    wider_mask = torch.cat([mask, mask.new_zeros(len(x), extra)], dim=1)
    _assert_equal(network(wider, t, wider_mask, context)[:, : x.shape[1]], out, tolerance, "more padding")
    filled = torch.where(mask[..., None], x, torch.full_like(x, -50.0))
    _assert_equal(network(filled, t, mask, context), out, tolerance, "values in the padding")


def assert_batch_independent(network: Network, n_features: int, n_context: int = 0, tolerance: float = 1e-8) -> None:
    """A molecule's output is the same alone, in the batch, and beside other molecules."""
    x, t, mask, context = make_batch(n_features, n_context)
    out = network(x, t, mask, context)
    for i in range(len(x)):
        rows = slice(i, i + 1)
        alone = network(x[rows], t[rows], mask[rows], None if context is None else context[rows])
        _assert_equal(alone, out[rows], tolerance, f"molecule {i} alone")
    others = x.clone()
    others[1:] *= 3.0
    _assert_equal(network(others, t, mask, context)[:1], out[:1], tolerance, "other molecules in the batch")


def assert_depends_on_inputs(network: Network, n_features: int, n_context: int = 0) -> None:
    """Time, features and context all change the output."""
    x, t, mask, context = make_batch(n_features, n_context)
    out = network(x, t, mask, context)
    later = network(x, t * 0.5, mask, context)
    assert not torch.allclose(later, out, rtol=1e-6), "the time changes nothing"
    features = torch.cat([x[..., :3], x[..., 3:] * 0.5], dim=-1)
    assert not torch.allclose(network(features, t, mask, context), out, rtol=1e-6), "features change nothing"
    if context is not None:
        assert not torch.allclose(network(x, t, mask, context + 1), out, rtol=1e-6), "context changes nothing"


def assert_gradients_finite(network: nn.Module, n_features: int, n_context: int = 0) -> None:
    """Gradients of parameters and input are finite, and there are some, also for coincident atoms and t = 0, 1."""
    x, t, mask, context = make_batch(n_features, n_context)
    two = mask[2].nonzero().squeeze(1)[:2]
    x[2, two[1]] = x[2, two[0]]
    t[0], t[1] = 0.0, 1.0
    x.requires_grad_()
    network.zero_grad(set_to_none=True)
    network(x, t, mask, context).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all(), "the padding has a gradient"
    assert (x.grad[mask] != 0).any()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name} has a gradient that is not finite"
    network.zero_grad(set_to_none=True)


def assert_bf16_close(network: nn.Module, n_features: int, n_context: int = 0, tolerance: float = 0.03) -> None:
    """Under bfloat16 autocast a float32 network gives a finite output, close to its float32 output, in its dtype.

    tolerance: the norm of the difference over that of the output.
    """
    x, t, mask, context = make_batch(n_features, n_context, dtype=torch.float32)
    with torch.no_grad():
        expected = network(x, t, mask, context)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = network(x, t, mask, context)
    assert torch.isfinite(out).all()
    error = (out.float() - expected).norm() / expected.norm()
    assert error < tolerance, f"bfloat16 differs by {error:.3g} of the output's norm"
    assert error > 0, "bfloat16 gives the float32 result exactly: autocast does not reach the network"


def _assert_equal(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1.0)
    assert error < tolerance, f"{what}: relative error {error:.3g}, expected below {tolerance:g}"
