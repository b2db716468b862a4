"""The edge networks of EGNN on the CPU: no padding, no self edges, one pass over cache-sized pieces.

An edge network is two layers, z = W2 silu(W1 [h_i, h_j, f_ij] + b1) + b2. The first is linear in its parts, so it is
a sum of 2 + F rows, P h_i + b1, Q h_j and F rows of W1 weighted by the edge's features: one weighted `embedding_bag`
over a table of N node products instead of a matrix product over E edges. Sums over neighbours and their transposes
are embedding bags as well, with the attention gates as weights. What remains is the product with W2.

Both functions below walk over pieces of whole molecules that fit in the cache, keep only z of the second layer for
the backward pass, and recompute the rest. They are differentiable once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Edges to a piece: its float32 hidden rows (256 wide) are 2 MB, so the few buffers of a piece stay in the cache.
PIECE_EDGES = 2048


class Piece(NamedTuple):
    """A run of whole molecules: edges [edge_start, edge_stop), atoms [node_start, node_stop)."""

    edge_start: int
    edge_stop: int
    node_start: int
    node_stop: int


@dataclass(frozen=True)
class PackedEdges:
    """All ordered pairs of distinct real atoms of the same molecule, sorted by molecule, row, column.

    Attributes:
        slots: (n,) int64, index of each real atom in the flattened (B * N,) batch.
        molecule: (n,) int64, the molecule of each atom.
        sizes: (B,) int64, real atoms of each molecule.
        row, column: (E,) int64, the two atoms (0..n-1) of each edge; the edge carries a message to its row.
        table_rows: (E, 2 + F) int64, `2 * row, 2 * column + 1, 2n, 2n + 1, ...`: the rows that make up an edge's
            first layer, in a table of 2n node products and F rows of weights.
        starts: (n,) int64, the first edge of each atom's row.
        gather: (2E,) int64, for each atom its own edges, then the reversed ones, as positions inside their piece.
        pieces: the pieces in order; together they cover all edges and atoms.
        count: 0, 1, ... up to the edges of the largest piece.
    """

    slots: Tensor
    molecule: Tensor
    sizes: Tensor
    row: Tensor
    column: Tensor
    table_rows: Tensor
    starts: Tensor
    gather: Tensor
    pieces: tuple[Piece, ...]
    count: Tensor

    @property
    def n_nodes(self) -> int:
        return self.slots.shape[0]

    @property
    def n_edges(self) -> int:
        return self.row.shape[0]

    @classmethod
    def from_mask(cls, mask: Tensor, n_features: int, piece_edges: int = PIECE_EDGES) -> PackedEdges:
        """The edges, with F = `n_features`, of a padded batch; `mask` (B, N) bool, True = real, anywhere in the row."""
        slots = mask.reshape(-1).nonzero().squeeze(1)
        sizes = mask.sum(dim=1)
        molecule = slots // mask.shape[1]
        first_node = sizes.cumsum(0) - sizes
        local = torch.arange(len(slots)) - first_node[molecule]
        degree = sizes[molecule] - 1
        starts = degree.cumsum(0) - degree

        row = torch.repeat_interleave(degree)
        rank = torch.arange(len(row)) - starts[row]
        # The k-th edge of atom i leads to its k-th other atom: i itself is left out.
        local_row = local[row]
        local_column = rank + (rank >= local_row)
        column = first_node[molecule[row]] + local_column
        reversed_edge = starts[column] + local_row - (local_row > local_column).long()

        pieces = _cut(sizes, piece_edges)
        piece_start = torch.zeros(len(row), dtype=torch.int64)
        for piece in pieces:
            piece_start[piece.edge_start : piece.edge_stop] = piece.edge_start
        edge = torch.arange(len(row))
        gather = torch.empty(2 * len(row), dtype=torch.int64)
        gather[edge + starts[row]] = edge - piece_start
        gather[edge + starts[row] + degree[row]] = reversed_edge - piece_start
        feature_rows = torch.arange(2 * len(slots), 2 * len(slots) + n_features).expand(len(row), -1)
        table_rows = torch.cat([2 * row[:, None], 2 * column[:, None] + 1, feature_rows], dim=1)
        count = torch.arange(max((piece.edge_stop - piece.edge_start for piece in pieces), default=0))
        return cls(slots, molecule, sizes, row, column, table_rows, starts, gather, pieces, count)

    @functools.cached_property
    def row_and_last(self) -> Tensor:
        """(E, 2) int64: an edge's row, and n: rows of an (n + 1, H) table."""
        return torch.stack([self.row, torch.full_like(self.row, self.n_nodes)], dim=1)


def _cut(sizes: Tensor, piece_edges: int) -> tuple[Piece, ...]:
    """Greedy runs of molecules of at most `piece_edges` edges (a larger molecule is a piece of its own)."""
    pieces = []
    edge_start = node_start = edge = node = 0
    for size in sizes.tolist():
        n_edges = size * (size - 1)
        if edge > edge_start and edge + n_edges - edge_start > piece_edges:
            pieces.append(Piece(edge_start, edge, node_start, node))
            edge_start, node_start = edge, node
        edge, node = edge + n_edges, node + size
    if node > node_start:
        pieces.append(Piece(edge_start, edge, node_start, node))
    return tuple(pieces)


def _bag(table: Tensor, index: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """out[b] = sum of weights[k] * table[index[k]] over the bag's k; 2-D `index` is one bag a row."""
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


class _Layers:
    """What both functions share: the piecewise first layer, the second layer and their derivatives."""

    def __init__(
        self,
        edges: PackedEdges,
        nodes: Tensor,
        distance: Tensor,
        initial: Tensor,
        feature_weight: Tensor,
        dtype: torch.dtype,
    ):
        self.edges, self.feature_weight, self.dtype = edges, feature_weight, dtype
        self.table = torch.cat([nodes.to(distance.dtype), feature_weight])
        self.weights = torch.cat([distance.new_ones(edges.n_edges, 2), distance, initial], dim=1)

    def first(self, piece: Piece) -> Tensor:
        """W1 [h_i, h_j, f_ij] + b1 of a piece, in the precision of the geometry."""
        rows = slice(piece.edge_start, piece.edge_stop)
        return _bag(self.table, self.edges.table_rows[rows], weights=self.weights[rows])

    def start_backward(self, second_weight: Tensor, needed: tuple[bool, bool]) -> None:
        """Make the accumulators; `needed` tells whether the two halves of the features want a gradient."""
        hidden = len(second_weight)
        full = self.table.new_zeros
        self.second_weight = second_weight.to(self.dtype)
        self.grad_nodes = self.table.new_empty(2 * self.edges.n_nodes, hidden)
        self.grad_feature_weight = full(self.feature_weight.shape)
        width = len(self.feature_weight) // 2
        self.features = self.weights[:, 2:].t().contiguous()
        self.grad_features = [full(width, self.edges.n_edges) if need else None for need in needed]
        self.grad_second_weight = full(hidden, hidden)
        self.grad_second_bias = full(hidden)

    def backward(self, piece: Piece, grad_z: Tensor) -> None:
        """Pass the gradient of the second pre-activation (piece edges, H) through both layers."""
        first = self.first(piece)
        activated = F.silu(first).to(self.dtype)
        self.grad_second_weight.add_(grad_z.t() @ activated)
        self.grad_second_bias.add_(grad_z.sum(dim=0))
        grad_activated = torch.mm(grad_z, self.second_weight, out=activated).to(first.dtype)
        grad_first = torch.ops.aten.silu_backward.grad_input(grad_activated, first, grad_input=grad_activated)

        edges, nodes = slice(piece.edge_start, piece.edge_stop), slice(piece.node_start, piece.node_stop)
        starts = self.edges.starts[nodes]
        degree = torch.diff(starts, append=starts.new_tensor([piece.edge_stop]))
        # Bags 2i and 2i + 1: the edges whose row is i, then those whose column is i; as many of both.
        offsets = torch.stack([2 * starts, 2 * starts + degree], dim=1).reshape(-1) - 2 * piece.edge_start
        gather = self.edges.gather[2 * piece.edge_start : 2 * piece.edge_stop]
        self.grad_nodes[2 * piece.node_start : 2 * piece.node_stop] = _bag(grad_first, gather, offsets)

        # Wide products: BLAS takes six times as long for a tall one of width F.
        self.grad_feature_weight.addmm_(self.features[:, edges], grad_first)
        for half, weight in zip(self.grad_features, self.feature_weight.chunk(2), strict=True):
            if half is not None:
                half[:, edges] = torch.mm(weight, grad_first.t())

    def gradients(self, nodes: Tensor) -> tuple[Tensor | None, ...]:
        """Of nodes, distance, initial, feature_weight, second_weight and second_bias."""
        return (
            self.grad_nodes.to(nodes.dtype),
            *(None if half is None else half.t() for half in self.grad_features),
            self.grad_feature_weight,
            self.grad_second_weight,
            self.grad_second_bias,
        )


class GatedMessages(Function):
    """Sum over neighbours of e_ij m_ij, with m_ij = silu(z_ij) and e_ij = sigmoid(w . m_ij + b) (1 without w).

    Inputs: nodes (2n, H): rows 2i and 2i + 1 are P h_i + b1 and Q h_i; distance and initial (E, F / 2), the two
    halves of the features; feature_weight (F, H); second_weight (H, H), second_bias (H); gate_weight (H), gate_bias
    (1) or None; edges; dtype of the products; keep = store z for the backward pass. Outputs: (n, H) sums, and z and
    e, which are no results.
    """

    @staticmethod
    def forward(
        nodes,
        distance,
        initial,
        feature_weight,
        second_weight,
        second_bias,
        gate_weight,
        gate_bias,
        edges,
        dtype,
        keep,
    ):
        with torch.autocast("cpu", enabled=False):
            layers = _Layers(edges, nodes, distance, initial, feature_weight, dtype)
            weight, bias = second_weight.to(dtype).t(), second_bias.to(dtype)
            z = _storage(edges, len(second_bias), dtype, keep)
            sums = torch.zeros(edges.n_nodes, len(second_bias), dtype=dtype)
            gate = distance.new_ones(edges.n_edges)
            for piece in edges.pieces:
                e0, e1, n0, n1 = piece
                activated = F.silu(layers.first(piece), inplace=True).to(dtype)
                z_piece = torch.addmm(bias, activated, weight, out=z[e0:e1] if keep else z[: e1 - e0])
                message = torch.ops.aten.silu.out(z_piece, out=activated)
                if gate_weight is not None:
                    logit = torch.mv(message, gate_weight.to(dtype)).to(gate.dtype)
                    gate[e0:e1] = torch.sigmoid(logit + gate_bias)
                starts = edges.starts[n0:n1] - e0
                sums[n0:n1] = _bag(message, edges.count[: e1 - e0], starts, gate[e0:e1].to(dtype))
            return sums, z, gate

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, edges, dtype, _ = inputs
        _, z, gate = output
        ctx.mark_non_differentiable(z, gate)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, z, gate)
        ctx.edges, ctx.dtype = edges, dtype

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sums, _grad_z, _grad_gate):
        if grad_sums is None:
            return (None,) * 11
        nodes, distance, initial, feature_weight, second_weight, _, gate_weight, _, z, gate = ctx.saved_tensors
        edges, dtype = ctx.edges, ctx.dtype
        with torch.autocast("cpu", enabled=False):
            layers = _Layers(edges, nodes, distance, initial, feature_weight, dtype)
            layers.start_backward(second_weight, ctx.needs_input_grad[1:3])
            grad_sums = grad_sums.to(dtype)
            gated = gate_weight is not None
            if gated:
                # grad of m_ij = e_ij * grad of the sum at i + (grad of the gate's logit) * w: a bag of two rows.
                table = torch.cat([grad_sums, gate_weight.to(dtype)[None]])
                grad_gate_weight, grad_gate_bias = torch.zeros_like(gate_weight), gate.new_zeros(1)
            for piece in edges.pieces:
                rows = slice(piece.edge_start, piece.edge_stop)
                z_piece = z[rows]
                grad_message = grad_sums.index_select(0, edges.row[rows])
                if gated:
                    message = F.silu(z_piece)
                    e = gate[rows]
                    grad_e = grad_message.mul_(message).sum(dim=1, dtype=e.dtype)
                    grad_logit = grad_e * e * (1 - e)
                    weights = torch.stack([e, grad_logit], dim=1).to(dtype)
                    grad_message = _bag(table, edges.row_and_last[rows], weights=weights)
                    grad_gate_weight += torch.mv(message.t(), grad_logit.to(dtype))
                    grad_gate_bias += grad_logit.sum()
                grad_z = torch.ops.aten.silu_backward.grad_input(grad_message, z_piece, grad_input=grad_message)
                layers.backward(piece, grad_z)
        gate_gradients = (grad_gate_weight, grad_gate_bias) if gated else (None, None)
        return (*layers.gradients(nodes), *gate_gradients, None, None, None)


class EdgeScalars(Function):
    """phi_ij = w . silu(z_ij): one number an edge.

    Inputs as `GatedMessages`, with out_weight (H) in the gate's place. Outputs: (E,) phi, and z, which is no result.
    """

    @staticmethod
    def forward(nodes, distance, initial, feature_weight, second_weight, second_bias, out_weight, edges, dtype, keep):
        with torch.autocast("cpu", enabled=False):
            layers = _Layers(edges, nodes, distance, initial, feature_weight, dtype)
            weight, bias = second_weight.to(dtype).t(), second_bias.to(dtype)
            z = _storage(edges, len(second_bias), dtype, keep)
            phi = distance.new_empty(edges.n_edges)
            for piece in edges.pieces:
                e0, e1, *_ = piece
                activated = F.silu(layers.first(piece), inplace=True).to(dtype)
                z_piece = torch.addmm(bias, activated, weight, out=z[e0:e1] if keep else z[: e1 - e0])
                phi[e0:e1] = torch.mv(torch.ops.aten.silu.out(z_piece, out=activated), out_weight.to(dtype))
            return phi, z

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, edges, dtype, _ = inputs
        _, z = output
        ctx.mark_non_differentiable(z)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, z)
        ctx.edges, ctx.dtype = edges, dtype

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_phi, _grad_z):
        if grad_phi is None:
            return (None,) * 10
        nodes, distance, initial, feature_weight, second_weight, _, out_weight, z = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            layers = _Layers(ctx.edges, nodes, distance, initial, feature_weight, ctx.dtype)
            layers.start_backward(second_weight, ctx.needs_input_grad[1:3])
            grad_phi, weight = grad_phi.to(ctx.dtype), out_weight.to(ctx.dtype)
            grad_out_weight = torch.zeros_like(out_weight)
            for piece in ctx.edges.pieces:
                rows = slice(piece.edge_start, piece.edge_stop)
                activated = F.silu(z[rows])
                grad_out_weight += torch.mv(activated.t(), grad_phi[rows])
                grad_activated = torch.mul(grad_phi[rows, None], weight, out=activated)
                grad_z = torch.ops.aten.silu_backward.grad_input(grad_activated, z[rows], grad_input=grad_activated)
                layers.backward(piece, grad_z)
        return (*layers.gradients(nodes), grad_out_weight, None, None, None)


def _storage(edges: PackedEdges, hidden: int, dtype: torch.dtype, keep: bool) -> Tensor:
    """Room for z: of all edges where a backward pass will want it, of one piece otherwise."""
    return torch.empty(edges.n_edges if keep else len(edges.count), hidden, dtype=dtype)
