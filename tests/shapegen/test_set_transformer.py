"""The contract of the default shape network."""

import pytest
import torch

from shapegen.models.set_transformer import SetTransformer, _Near

TINY = {"width": 64, "point_width": 32, "n_latents": 6, "n_blocks": 2, "cond_width": 16}


@pytest.fixture(params=[False, True], ids=["", "near"])
def make(request):
    """A network of each kind, by number of context channels and type, whose every part has a say."""

    def make(n_context: int = 0, dtype: torch.dtype = torch.float64) -> SetTransformer:
        torch.manual_seed(0)
        network = SetTransformer(**TINY, n_context=n_context, near=request.param)
        # At initialisation time and context are faint, and neighbours silent; trained weights are neither.
        for name, module in network.named_modules():
            if hasattr(module, "modulation"):
                torch.nn.init.normal_(module.modulation.weight, std=0.1)
            if name.startswith("near_") and name.endswith(("out", "reach")) and isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.1)
        return network.to(dtype)

    return make


def batch(n_context: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(11)[None] < torch.tensor([11, 4, 1])[:, None]
    x = torch.randn(3, 11, 3, generator=generator, dtype=dtype) * mask[..., None]
    t = torch.rand(3, generator=generator, dtype=dtype)
    context = torch.randn(3, n_context, generator=generator, dtype=dtype) if n_context else None
    return x, t, mask, context


@pytest.mark.parametrize("n_context", [0, 3])
def test_points_may_come_in_any_order(make, n_context):
    network, (x, t, mask, context) = make(n_context), batch(n_context)
    out = network(x, t, mask, context)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(x[:, order], t, mask[:, order], context), out[:, order])


def test_padding_changes_nothing(make):
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    assert (out[~mask] == 0).all()
    wide = torch.cat([x, torch.full((3, 5, 3), 7.0, dtype=x.dtype)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(network(wide, t, wide_mask)[:, :11], out)


def test_the_number_of_points_plays_no_part(make):
    """Every point said three times gives every answer three times."""
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    repeated = network(x.repeat_interleave(3, dim=1), t, mask.repeat_interleave(3, dim=1))
    torch.testing.assert_close(repeated, out.repeat_interleave(3, dim=1))


def test_shapes_of_a_batch_do_not_mix(make):
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1], mask[i : i + 1]), out[i : i + 1])


def test_points_hear_of_each_other_and_of_time(make):
    network, (x, t, mask, _) = make(), batch()
    out = network(x, t, mask)
    moved = x.clone()
    moved[0, 3] += 0.5
    assert not torch.allclose(network(moved, t, mask)[0, 0], out[0, 0])
    assert not torch.allclose(network(x, t / 2, mask), out)


def test_a_condition_starts_as_no_condition(make):
    network, (x, t, mask, context) = make(3), batch(3)
    none = network(x, t, mask)
    torch.testing.assert_close(network(x, t, mask, context), none, rtol=0, atol=0)
    torch.nn.init.normal_(network.embed_context.weight)
    assert not torch.allclose(network(x, t, mask, context), none)
    torch.testing.assert_close(network(x, t, mask, torch.zeros_like(context)), none, rtol=0, atol=0)


def test_gradients_reach_everything(make):
    network, (x, t, mask, context) = make(3), batch(3)
    network(x, t, mask, context).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_bf16_is_close(make):
    network, (x, t, mask, _) = make(dtype=torch.float32), batch(dtype=torch.float32)
    exact = network(x, t, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, t, mask)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.03 * exact.norm()


def test_it_compiles_to_the_same_function(make):
    network, (x, t, mask, _) = make(), batch()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, mask), network(x, t, mask))


def test_what_is_near_begins_as_nothing():
    """So that a trained network without it can go on with it."""
    torch.manual_seed(0)
    far = SetTransformer(**TINY).double()
    near = SetTransformer(**TINY, near=True).double()
    missing = near.load_state_dict(far.state_dict(), strict=False).missing_keys
    assert missing
    assert all(name.startswith("near_") for name in missing)
    x, t, mask, _ = batch()
    torch.testing.assert_close(near(x, t, mask), far(x, t, mask), rtol=0, atol=0)


def test_neighbours_are_weighed_by_their_distance():
    """Against the definition with an N x N array: what is seen of a point's neighbourhood is its mean and spread."""
    torch.manual_seed(0)
    layer = _Near(64, 16).double()
    torch.nn.init.zeros_(layer.features.weight)
    seen = []
    layer.out.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x, _, mask, _ = batch()
    layer(torch.zeros(3, 11, 64, dtype=x.dtype), x, torch.zeros(3, 16, dtype=x.dtype), mask)
    for head, width in enumerate([0.12, 0.5]):
        apart = (x[:, None, :, :] - x[:, :, None, :]) / width
        weights = (-apart.square().sum(-1) / 2).masked_fill(~mask[:, None, :], -torch.inf).softmax(-1)
        mean = (weights[..., None] * apart).sum(2)
        spread = (weights * apart.square().sum(-1)).sum(2)
        found = seen[0].unflatten(-1, (2, 32))[:, :, head]
        torch.testing.assert_close(found[..., 28:31][mask], mean[mask])
        torch.testing.assert_close(found[..., 31][mask], spread[mask])


def test_unusable_widths_are_refused():
    with pytest.raises(ValueError, match="got width 100, expected a multiple of 32"):
        SetTransformer(width=100)
