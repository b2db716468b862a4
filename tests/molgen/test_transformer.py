"""The contract of every network, for the equivariant transformer."""

import pytest
import torch
from contracts.denoiser import (
    assert_batch_independent,
    assert_bf16_close,
    assert_depends_on_inputs,
    assert_equivariant,
    assert_gradients_finite,
    assert_padding_invariant,
    make_batch,
)

from molgen.models.transformer import EquivariantTransformer


def make(n_context: int = 0, dtype: torch.dtype = torch.float64, ordered: bool = False) -> EquivariantTransformer:
    torch.manual_seed(0)
    network = EquivariantTransformer(
        n_features=4, n_context=n_context, width=32, pair_width=8, n_layers=3, n_heads=4, n_vectors=4, n_radial=8,
        ordered=ordered,
    )  # fmt: skip
    # At initialisation time and context are faint; trained weights are not.
    for layer in network.layers:
        torch.nn.init.normal_(layer.modulation.weight, std=0.1)
    return network.to(dtype)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("n_context", [0, 2])
def test_contract(n_context, ordered):
    network = make(n_context, ordered=ordered)
    assert_equivariant(network, 4, n_context, permutation=not ordered)
    assert_padding_invariant(network, 4, n_context)
    assert_batch_independent(network, 4, n_context)
    assert_depends_on_inputs(network, 4, n_context)
    assert_gradients_finite(network, 4, n_context)


def test_bf16_is_close():
    assert_bf16_close(make(dtype=torch.float32), 4)


def test_a_network_that_sees_directions_fails_the_contract():
    class Broken(EquivariantTransformer):
        def forward(self, x, t, mask, context=None):
            out = super().forward(x, t, mask, context)
            return out + 1e-3 * mask.unsqueeze(-1) * x[..., :1] * torch.eye(7, dtype=x.dtype)[0]

    network = Broken(n_features=4, width=16, pair_width=8, n_layers=1, n_heads=2, n_vectors=2).double()
    with pytest.raises(AssertionError):
        assert_equivariant(network, 4)


def test_one_atom_is_no_special_case():
    x, t, mask, _ = make_batch(4, sizes=(1, 2))
    assert torch.isfinite(make()(x, t, mask)).all()


def test_it_compiles_to_the_same_function():
    """The graph is captured whole (no Python between operations); the capture itself runs eagerly here."""
    network = make()
    x, t, mask, _ = make_batch(4)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, mask), network(x, t, mask))


def test_an_ordered_network_tells_places_apart():
    x, t, mask, _ = make_batch(4)
    alike = torch.zeros_like(x)
    first, last = make(ordered=True)(alike, t, mask)[2][mask[2]][[0, -1]]
    assert not torch.allclose(first, last)
    with pytest.raises(AssertionError, match="permutation"):
        assert_equivariant(make(ordered=True), 4)
