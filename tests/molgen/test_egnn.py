"""The fast EGNN against the plain formulation, and the contract of every network."""

import copy

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
from egnn_reference import ReferenceEGNN
from torch import nn

from common.errors import InputError
from molgen.models.edm_checkpoint import network_state
from molgen.models.egnn import EGNN
from molgen.models.egnn_edges import EdgeScalars, GatedMessages, PackedEdges

VARIANTS = {
    "edm": {},
    "plain": {"attention": False, "tanh": False},
    "sublayers": {"inv_sublayers": 2, "normalization_factor": 3.0, "norm_constant": 0.0},
    "sinusoids": {"sin_embedding": True, "coords_range": 8.0},
    "mean": {"aggregation_method": "mean"},
    "context": {"n_context": 2},
    "timeless": {"condition_time": False},
}


def edm_named(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return network_state({f"dynamics.egnn.{name}": value for name, value in state.items()})


def make_pair(variant: str, dtype: torch.dtype = torch.float64) -> tuple[ReferenceEGNN, EGNN]:
    """The reference and ours with the same weights; the coordinate updates are made large enough to matter."""
    torch.manual_seed(0)
    arguments = {"n_features": 4, "hidden_nf": 32, "n_layers": 3, **VARIANTS[variant]}
    reference = ReferenceEGNN(**arguments).to(dtype)
    for name, parameter in reference.named_parameters():
        if "coord_mlp.4" in name:
            parameter.data.mul_(200.0)
    network = EGNN(**arguments).to(dtype)
    network.load_state_dict(edm_named(reference.state_dict()))
    return reference, network


def n_context(variant: str) -> int:
    return VARIANTS[variant].get("n_context", 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_reference_with_gradients(variant):
    reference, network = make_pair(variant)
    x, t, mask, context = make_batch(4, n_context(variant))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [f(i, t, mask, context) for f, i in zip((reference, network), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(x)
    for out in outputs:
        (out * weights).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-8, atol=1e-8)
    expected = edm_named({name: p.grad for name, p in reference.named_parameters()})
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_float32_within_1e_5_at_full_depth():
    torch.manual_seed(0)
    reference = ReferenceEGNN(n_features=6, hidden_nf=64, n_layers=9)
    network = EGNN(n_features=6, hidden_nf=64, n_layers=9)
    network.load_state_dict(edm_named(reference.state_dict()))
    x, t, mask, _ = make_batch(6, sizes=(12, 18, 9), dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, mask), reference(x, t, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_dense_path_equals_packed_path(variant, monkeypatch):
    _, network = make_pair(variant)
    x, t, mask, context = make_batch(4, n_context(variant))
    packed = network(x, t, mask, context)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(network(x, t, mask, context), packed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_contract(variant, dense, monkeypatch):
    if dense:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    _, network = make_pair(variant)
    widths = {"n_features": 4, "n_context": n_context(variant)}
    assert_equivariant(network, **widths)
    assert_padding_invariant(network, **widths)
    assert_batch_independent(network, **widths)
    assert_gradients_finite(network, **widths)


def test_output_depends_on_all_inputs():
    assert_depends_on_inputs(make_pair("context")[1], n_features=4, n_context=2)


@pytest.mark.parametrize("variant", ["edm", "plain", "sublayers"])
def test_bf16_close(variant):
    torch.manual_seed(0)
    assert_bf16_close(EGNN(n_features=4, hidden_nf=64, n_layers=4, **VARIANTS[variant]), n_features=4)


def test_bf16_gradients_close():
    torch.manual_seed(0)
    network = EGNN(n_features=4, hidden_nf=64, n_layers=3)
    x, t, mask, _ = make_batch(4, dtype=torch.float32)

    def gradients(enabled: bool) -> torch.Tensor:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = network(x, t, mask)
        out.square().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in network.parameters())
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    exact = gradients(False)
    assert (gradients(True) - exact).norm() < 0.03 * exact.norm()


class NotEquivariant(nn.Module):
    """Correct, but for one constant direction added to the velocity of every second layer's scale."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x, t, mask, context=None):
        out = self.network(x, t, mask, context).clone()
        out[..., 0] += 1e-4 * x[..., 3] * mask
        return out


class LeaksPadding(NotEquivariant):
    def forward(self, x, t, mask, context=None):
        return self.network(x, t, mask, context) + 1e-4 * x.mean(dim=(1, 2), keepdim=True) * mask[..., None]


class LeaksBatch(NotEquivariant):
    def forward(self, x, t, mask, context=None):
        return self.network(x, t, mask, context) + 1e-4 * x[..., 3:].std() * mask[..., None]


@pytest.mark.parametrize(
    ("broken", "check", "arguments"),
    [
        (NotEquivariant, assert_equivariant, {"centred": False}),
        (LeaksPadding, assert_padding_invariant, {}),
        (LeaksBatch, assert_batch_independent, {}),
    ],
)
def test_contract_catches_a_broken_network(broken, check, arguments):
    _, network = make_pair("edm")
    with pytest.raises(AssertionError):
        check(broken(network), n_features=4, **arguments)
    check(network, n_features=4)


def test_pieces_do_not_change_the_result(monkeypatch):
    _, network = make_pair("edm")
    x, t, mask, _ = make_batch(4)
    whole = network(x, t, mask)
    original = PackedEdges.from_mask.__func__
    monkeypatch.setattr(PackedEdges, "from_mask", classmethod(lambda cls, mask, width: original(cls, mask, width, 8)))
    assert len(PackedEdges.from_mask(mask, 2).pieces) > 2
    torch.testing.assert_close(network(x, t, mask), whole, rtol=1e-12, atol=1e-12)


def test_packed_edges_are_the_pairs_of_the_mask():
    _, _, mask, _ = make_batch(4, seed=3)
    edges = PackedEdges.from_mask(mask, 2, piece_edges=20)
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool)
    expected = {(b * mask.shape[1] + i, b * mask.shape[1] + j) for b, i, j in pairs.nonzero().tolist()}
    found = list(zip(edges.slots[edges.row].tolist(), edges.slots[edges.column].tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected
    assert found == sorted(found)
    stops = [0] + [piece.edge_stop for piece in edges.pieces]
    assert [piece.edge_start for piece in edges.pieces] == stops[:-1]
    assert stops[-1] == edges.n_edges
    assert edges.pieces[-1].node_stop == edges.n_nodes


def test_empty_and_lone_molecules():
    _, network = make_pair("edm")
    x, t, mask, _ = make_batch(4, sizes=(1, 1))
    assert torch.equal(network(x, t, mask)[..., :3], torch.zeros(2, x.shape[1], 3, dtype=x.dtype))
    nothing = torch.zeros_like(mask)
    assert torch.equal(network(x, t, nothing), torch.zeros_like(x))


def edge_inputs(*widths: tuple[int, ...]) -> tuple[PackedEdges, list[torch.Tensor]]:
    """Edges of two small molecules in two pieces, and random inputs of the edge networks; H = 3, F = 2."""
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 0]], dtype=torch.bool)
    edges = PackedEdges.from_mask(mask, 2, piece_edges=4)
    feature = (edges.n_edges, 1)
    shapes = [(2 * edges.n_nodes, 3), feature, feature, (2, 3), (3, 3), (3,), *widths]
    return edges, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("gated", [True, False])
def test_gradcheck_of_messages(gated):
    edges, tensors = edge_inputs(*([(3,), (1,)] if gated else []))

    def sums(*tensors):
        gate = tensors[6:] if gated else (None, None)
        return GatedMessages.apply(*tensors[:6], *gate, edges, torch.float64, True)[0]

    assert torch.autograd.gradcheck(sums, tensors)


def test_gradcheck_of_edge_scalars():
    edges, tensors = edge_inputs((3,))
    assert torch.autograd.gradcheck(
        lambda *tensors: EdgeScalars.apply(*tensors, edges, torch.float64, True)[0], tensors
    )


def test_torch_func_gradient_of_the_input():
    _, network = make_pair("edm")
    x, t, mask, _ = make_batch(4)
    leaf = x.clone().requires_grad_()
    network(leaf, t, mask).square().sum().backward()
    gradient = torch.func.grad(lambda x: network(x, t, mask).square().sum())(x)
    torch.testing.assert_close(gradient, leaf.grad)


def test_context_per_atom_equals_context_per_molecule():
    _, network = make_pair("context")
    x, t, mask, context = make_batch(4, 2)
    per_atom = context[:, None].expand(-1, x.shape[1], -1)
    torch.testing.assert_close(network(x, t, mask, per_atom), network(x, t, mask, context))


def test_nan_is_not_hidden():
    _, network = make_pair("edm")
    x, t, mask, _ = make_batch(4)
    x[0, mask[0].nonzero()[0, 0], 0] = float("nan")
    out = network(x, t, mask)
    assert out[0][mask[0]].isnan().any()
    assert not out[1:].isnan().any()


@pytest.mark.slow
def test_compiles():
    _, network = make_pair("edm", torch.float32)
    x, t, mask, _ = make_batch(4, dtype=torch.float32)
    expected = network(x, t, mask)
    torch.testing.assert_close(torch.compile(copy.deepcopy(network))(x, t, mask), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t, m, c: (x[..., :5], t, m, c), "expected \\(B, N, 7\\)"),
        (lambda x, t, m, c: (x, t[:2], m, c), "one time a molecule"),
        (lambda x, t, m, c: (x, t, m.float(), c), "expected torch.bool"),
        (lambda x, t, m, c: (x, t, m[:, :3], c), "expected torch.bool"),
        (lambda x, t, m, c: (x, t, m, None), "context is missing"),
        (lambda x, t, m, c: (x, t, m, c[:, :1]), "expected \\(B, 2\\)"),
    ],
)
def test_wrong_input_is_named(change, message):
    _, network = make_pair("context")
    with pytest.raises(InputError, match=message):
        network(*change(*make_batch(4, 2)))


def test_wrong_hyper_parameters_are_named():
    with pytest.raises(InputError, match="'max'"):
        EGNN(n_features=4, aggregation_method="max")
    with pytest.raises(InputError, match="n_features"):
        EGNN(n_features=0)
