"""The contract of the default shape network."""

import pytest
import torch

from shapegen.models.set_transformer import SetTransformer


def make(n_context: int = 0, dtype: torch.dtype = torch.float64) -> SetTransformer:
    torch.manual_seed(0)
    network = SetTransformer(n_context=n_context, width=64, point_width=32, n_latents=6, n_blocks=2, cond_width=16)
    # At initialisation time and context are faint; trained weights are not.
    for module in network.modules():
        if hasattr(module, "modulation"):
            torch.nn.init.normal_(module.modulation.weight, std=0.1)
    return network.to(dtype)


def batch(n_context: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(11)[None] < torch.tensor([11, 4, 1])[:, None]
    x = torch.randn(3, 11, 3, generator=generator, dtype=dtype) * mask[..., None]
    t = torch.rand(3, generator=generator, dtype=dtype)
    context = torch.randn(3, n_context, generator=generator, dtype=dtype) if n_context else None
    return x, t, mask, context


@pytest.mark.parametrize("n_context", [0, 3])
def test_points_may_come_in_any_order(n_context):
    network, (x, t, mask, context) = make(n_context), batch(n_context)
    out = network(x, t, mask, context)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(x[:, order], t, mask[:, order], context), out[:, order])


def test_padding_changes_nothing():
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    assert (out[~mask] == 0).all()
    wide = torch.cat([x, torch.full((3, 5, 3), 7.0, dtype=x.dtype)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(network(wide, t, wide_mask)[:, :11], out)


def test_the_number_of_points_plays_no_part():
    """Every point said three times gives every answer three times."""
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    repeated = network(x.repeat_interleave(3, dim=1), t, mask.repeat_interleave(3, dim=1))
    torch.testing.assert_close(repeated, out.repeat_interleave(3, dim=1))


def test_shapes_of_a_batch_do_not_mix():
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1], mask[i : i + 1]), out[i : i + 1])


def test_points_hear_of_each_other_and_of_time():
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    moved = x.clone()
    moved[0, 3] += 0.5
    assert not torch.allclose(network(moved, t, mask)[0, 0], out[0, 0])
    assert not torch.allclose(network(x, t / 2, mask), out)


def test_a_condition_starts_as_no_condition():
    network, (x, t, mask, context) = make(3), batch(3)
    none = network(x, t, mask)
    torch.testing.assert_close(network(x, t, mask, context), none, rtol=0, atol=0)
    torch.nn.init.normal_(network.embed_context.weight)
    assert not torch.allclose(network(x, t, mask, context), none)
    torch.testing.assert_close(network(x, t, mask, torch.zeros_like(context)), none, rtol=0, atol=0)


def test_gradients_reach_everything():
    network, (x, t, mask, context) = make(3), batch(3)
    network(x, t, mask, context).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_bf16_is_close():
    network, (x, t, mask, _) = make(dtype=torch.float32), batch(dtype=torch.float32)
    exact = network(x, t, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, t, mask)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.03 * exact.norm()


def test_it_compiles_to_the_same_function():
    network, (x, t, mask, _) = make(), batch()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, mask), network(x, t, mask))


def test_unusable_widths_are_refused():
    with pytest.raises(ValueError, match="got width 100, expected a multiple of 32"):
        SetTransformer(width=100)
