"""`EGNN`: the E(3)-equivariant network of EDM, the same function computed with less work.

Hoogeboom, Satorras, Vignac, Welling, "Equivariant Diffusion for Molecule Generation in 3D", arXiv 2203.17003:
equations 12 and 13 and appendix B. Hyper-parameters carry the names of that project's command line; its published
checkpoints load through `molgen.models.edm_checkpoint`.

Differences in what comes out: a NaN stays a NaN (the original resets the whole batch's velocity to zero), and
`aggregation_method="mean"` divides by the molecule's own number of atoms, not by the width of the padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from molgen.models.egnn_edges import EdgeScalars, GatedMessages, PackedEdges

# Keeps the square root of a zero distance differentiable, as in the original.
_EPSILON = 1e-8


class EdgeNetwork(nn.Module):
    """z_ij = W2 silu(W1 [h_i, h_j, f_ij] + b1) + b2, from features f (F an edge); the caller activates z."""

    def __init__(self, hidden_nf: int, n_edge_features: int):
        super().__init__()
        self.first = nn.Linear(2 * hidden_nf + n_edge_features, hidden_nf)
        self.second = nn.Linear(hidden_nf, hidden_nf)

    def node_products(self, h: Tensor) -> Tensor:
        """(..., 2, H): the shares W1_i h + b1 and W1_j h of the first layer that depend on one atom only."""
        width = h.shape[-1]
        weight, bias = self.first.weight, self.first.bias
        both = torch.cat([weight[:, :width], weight[:, width : 2 * width]])
        return F.linear(h, both, torch.cat([bias, torch.zeros_like(bias)])).unflatten(-1, (2, width))

    def feature_weight(self) -> Tensor:
        """(F, H): the share of the first layer that multiplies the edge's features."""
        return self.first.weight[:, 2 * self.second.in_features :].t().contiguous()

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        """h (B, N, H), features (B, N, N, F) -> (B, N, N, H): all pairs, on any device."""
        products = self.node_products(h)
        hidden = products[:, :, None, 0] + products[:, None, :, 1]
        for k, row in enumerate(self.feature_weight()):
            hidden = hidden + features[..., k, None] * row
        return self.second(F.silu(hidden))


class MessageLayer(nn.Module):
    """h_i' = h_i + phi_h(h_i, sum_j e_ij m_ij), m_ij = phi_e(h_i, h_j, f_ij), e_ij = sigmoid(w . m_ij + b)."""

    def __init__(self, hidden_nf: int, n_edge_features: int, attention: bool):
        super().__init__()
        self.edge = EdgeNetwork(hidden_nf, n_edge_features)
        self.gate = nn.Linear(hidden_nf, 1) if attention else None
        self.node_first = nn.Linear(2 * hidden_nf, hidden_nf)
        self.node_second = nn.Linear(hidden_nf, hidden_nf)

    def update(self, h: Tensor, aggregated: Tensor) -> Tensor:
        """h' from h and the aggregated messages, both (..., H)."""
        joined = torch.cat([h, aggregated.to(h.dtype)], dim=-1)
        return h + self.node_second(F.silu(self.node_first(joined)))

    def sum_packed(self, h: Tensor, distance: Tensor, initial: Tensor, edges: PackedEdges) -> Tensor:
        """(n, H) sums of the messages; h (n, H), features distance and initial (E, F / 2)."""
        sums, _, _ = GatedMessages.apply(
            self.edge.node_products(h).flatten(0, 1),
            distance,
            initial,
            self.edge.feature_weight(),
            self.edge.second.weight,
            self.edge.second.bias,
            None if self.gate is None else self.gate.weight[0],
            None if self.gate is None else self.gate.bias,
            edges,
            _product_dtype(h),
            torch.is_grad_enabled(),
        )
        return sums

    def sum_dense(self, h: Tensor, features: Tensor, pairs: Tensor) -> Tensor:
        """(B, N, H) sums of the messages; h (B, N, H), features (B, N, N, F), pairs (B, N, N) 1 = an edge."""
        message = F.silu(self.edge(h, features))
        gate = pairs[..., None]
        if self.gate is not None:
            gate = gate * torch.sigmoid(self.gate(message))
        return (message * gate).sum(dim=2)


class CoordinateUpdate(nn.Module):
    """phi_x(h_i, h_j, f_ij): how far atom i moves along the direction from j."""

    def __init__(self, hidden_nf: int, n_edge_features: int):
        super().__init__()
        self.edge = EdgeNetwork(hidden_nf, n_edge_features)
        self.scale = nn.Linear(hidden_nf, 1, bias=False)
        nn.init.xavier_uniform_(self.scale.weight, gain=0.001)

    def packed(self, h: Tensor, distance: Tensor, initial: Tensor, edges: PackedEdges) -> Tensor:
        """(E,) from h (n, H), features distance and initial (E, F / 2)."""
        phi, _ = EdgeScalars.apply(
            self.edge.node_products(h).flatten(0, 1),
            distance,
            initial,
            self.edge.feature_weight(),
            self.edge.second.weight,
            self.edge.second.bias,
            self.scale.weight[0],
            edges,
            _product_dtype(h),
            torch.is_grad_enabled(),
        )
        return phi

    def dense(self, h: Tensor, features: Tensor) -> Tensor:
        """(B, N, N) from h (B, N, H) and features (B, N, N, F)."""
        return self.scale(F.silu(self.edge(h, features))).squeeze(-1).to(features.dtype)


class Block(nn.Module):
    """`inv_sublayers` message layers, then one update of the coordinates."""

    def __init__(self, hidden_nf: int, n_edge_features: int, attention: bool, inv_sublayers: int):
        super().__init__()
        layers = [MessageLayer(hidden_nf, n_edge_features, attention) for _ in range(inv_sublayers)]
        self.messages = cast(Sequence[MessageLayer], nn.ModuleList(layers))
        self.update = CoordinateUpdate(hidden_nf, n_edge_features)


class DistanceSinusoids(nn.Module):
    """Squared distances (..., 1) -> sines and cosines (..., 12) of the distance; no gradient flows through them."""

    frequencies: Tensor

    def __init__(self, longest: float = 15.0, shortest: float = 15.0 / 2000.0, factor: int = 4):
        super().__init__()
        n_frequencies = int(math.log(longest / shortest, factor)) + 1
        self.n_features = 2 * n_frequencies
        frequencies = 2 * math.pi * float(factor) ** torch.arange(n_frequencies) / longest
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, squared: Tensor) -> Tensor:
        angle = torch.sqrt(squared.detach() + _EPSILON) * self.frequencies.to(squared.dtype)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class EGNN(nn.Module):
    """EDM's network: noisy coordinates and features in, velocity and features out.

    On the CPU the batch is packed: padding and self edges cost nothing, and the edge networks run piece by piece
    (`molgen.models.egnn_edges`; differentiable once). On other devices, and inside `torch.compile`, the same
    function runs on the padded (B, N, N) pairs, in ordinary differentiable operations.

    Args:
        n_features: features of an atom besides its coordinates (one-hot types, and the charge if it is used).
        n_context: width of the conditioning input.
        hidden_nf: width H of the hidden layers.
        n_layers: number of blocks.
        attention: gate each message by a learned number between 0 and 1.
        tanh: bound each edge's share of the coordinate update to +-`coords_range`.
        norm_constant: c in the direction (x_i - x_j) / (d_ij + c); 0 gives unit vectors.
        inv_sublayers: message layers in a block.
        sin_embedding: describe distances by sines and cosines in place of their squares.
        normalization_factor: the divisor of sums over neighbours.
        aggregation_method: "sum" or "mean" over neighbours.
        coords_range: see `tanh`; the same in every block, in the unit of the coordinates.
        condition_time: give the network the diffusion time.
    """

    # Where a control's embedding is added (`common.diffusion.control`).
    control_site = "embedding"
    # Which is given what is known of each atom (`common.guidance.NoisyPredictor`).
    readout_site = "embedding_out"

    def __init__(
        self,
        *,
        n_features: int,
        n_context: int = 0,
        hidden_nf: int = 256,
        n_layers: int = 9,
        attention: bool = True,
        tanh: bool = True,
        norm_constant: float = 1.0,
        inv_sublayers: int = 1,
        sin_embedding: bool = False,
        normalization_factor: float = 1.0,
        aggregation_method: str = "sum",
        coords_range: float = 15.0,
        condition_time: bool = True,
    ):
        super().__init__()
        if n_features < 1:
            raise InputError(f"n_features is {n_features}, expected at least 1: an atom needs a type")
        if aggregation_method not in ("sum", "mean"):
            raise InputError(f"aggregation_method is '{aggregation_method}', expected 'sum' or 'mean'")
        self.n_features, self.n_context = n_features, n_context
        self.tanh, self.coords_range, self.norm_constant = tanh, coords_range, norm_constant
        self.normalization_factor, self.aggregation_method = normalization_factor, aggregation_method
        self.condition_time = condition_time
        self.sinusoids = DistanceSinusoids() if sin_embedding else None
        self.n_edge_features = 2 if self.sinusoids is None else 2 * self.sinusoids.n_features
        # The output has the input's width: EDM predicts the time and context columns, too, and drops them.
        width = n_features + condition_time + n_context
        self.embedding = nn.Linear(width, hidden_nf)
        self.embedding_out = nn.Linear(hidden_nf, width)
        blocks = [Block(hidden_nf, self.n_edge_features, attention, inv_sublayers) for _ in range(n_layers)]
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Velocity and features of a noisy batch.

        Args:
            x: (B, N, 3 + n_features) coordinates (in the process's scaled unit), then features.
            t: (B,) diffusion time in [0, 1].
            mask: (B, N) bool, True = real atom. What `x` holds elsewhere does not matter.
            context: (B, n_context) or (B, N, n_context); None if `n_context` is 0.

        Returns:
            (B, N, 3 + n_features): velocity (final minus initial coordinates, mean over the real atoms removed),
            then features; zero on padding.

        Raises:
            InputError: a shape or a dtype is not the one above.
        """
        self._check(x, t, mask, context)
        x = x.masked_fill(~mask[..., None], 0)
        inputs = [x[..., 3:]]
        if self.condition_time:
            inputs.append(t.to(x.dtype)[:, None, None].expand(-1, x.shape[1], 1))
        if context is not None:
            per_atom = context if context.dim() == 3 else context[:, None].expand(-1, x.shape[1], -1)
            inputs.append(per_atom.to(x.dtype).masked_fill(~mask[..., None], 0))
        h = torch.cat(inputs, dim=-1)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            velocity, features = self._packed(x[..., :3], h, mask)
        else:
            velocity, features = self._dense(x[..., :3], h, mask)
        return torch.cat([velocity, features[..., : self.n_features]], dim=-1)

    def _packed(self, position: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        edges = PackedEdges.from_mask(mask, self.n_edge_features)
        start = position = position.flatten(0, 1).index_select(0, edges.slots)
        # The residual stream keeps the geometry's precision under autocast.
        h = self.embedding(h.flatten(0, 1).index_select(0, edges.slots)).to(position.dtype)
        sizes = edges.sizes.to(position.dtype).clamp(min=1)[:, None]
        divisor = sizes[edges.molecule] if self.aggregation_method == "mean" else self.normalization_factor
        initial = None
        for block in self.blocks:
            difference = position.index_select(0, edges.row) - position.index_select(0, edges.column)
            squared = (difference**2).sum(dim=-1, keepdim=True)
            distance = self._distance_features(squared)
            initial = distance if initial is None else initial
            for layer in block.messages:
                h = layer.update(h, layer.sum_packed(h, distance, initial, edges) / divisor)
            step = self._step(block.update.packed(h, distance, initial, edges)[:, None], difference, squared)
            position = position + torch.zeros_like(position).index_add(0, edges.row, step) / divisor
        velocity = position - start
        mean = torch.zeros_like(sizes).expand(-1, 3).index_add(0, edges.molecule, velocity) / sizes
        velocity = velocity - mean.index_select(0, edges.molecule)
        return self._unpack(velocity, edges, mask), self._unpack(self.embedding_out(h), edges, mask)

    def _dense(self, position: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        real = mask.to(position.dtype)[..., None]
        distinct = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        pairs = (mask[:, :, None] & mask[:, None] & distinct).to(position.dtype)
        start = position
        h = self.embedding(h).to(position.dtype)
        sizes = real.sum(dim=1, keepdim=True).clamp(min=1)
        divisor = sizes if self.aggregation_method == "mean" else self.normalization_factor
        initial = None
        for block in self.blocks:
            difference = position[:, :, None] - position[:, None]
            squared = (difference**2).sum(dim=-1, keepdim=True)
            distance = self._distance_features(squared)
            initial = distance if initial is None else initial
            features = torch.cat([distance, initial], dim=-1)
            for layer in block.messages:
                h = layer.update(h, layer.sum_dense(h, features, pairs) / divisor)
            phi = block.update.dense(h, features) * pairs
            position = position + self._step(phi[..., None], difference, squared).sum(dim=2) / divisor
        velocity = (position - start) * real
        velocity = (velocity - velocity.sum(dim=1, keepdim=True) / sizes) * real
        return velocity, self.embedding_out(h).to(position.dtype) * real

    def _distance_features(self, squared: Tensor) -> Tensor:
        return squared if self.sinusoids is None else self.sinusoids(squared)

    def _step(self, phi: Tensor, difference: Tensor, squared: Tensor) -> Tensor:
        """Each edge's share (..., 3) of the coordinate update; phi and squared (..., 1)."""
        if self.tanh:
            phi = torch.tanh(phi) * self.coords_range
        return difference * (phi / (torch.sqrt(squared + _EPSILON) + self.norm_constant))

    @staticmethod
    def _unpack(values: Tensor, edges: PackedEdges, mask: Tensor) -> Tensor:
        padded = values.new_zeros(mask.numel(), values.shape[1], dtype=torch.promote_types(values.dtype, torch.float32))
        return padded.index_copy(0, edges.slots, values.to(padded.dtype)).unflatten(0, mask.shape)

    def _check(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[2] != 3 + self.n_features:
            raise InputError(f"x has shape {tuple(x.shape)}, expected (B, N, {3 + self.n_features})")
        if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
            raise InputError(
                f"mask is {mask.dtype} of shape {tuple(mask.shape)}, expected torch.bool of {tuple(x.shape[:2])}"
            )
        if t.shape != x.shape[:1]:
            raise InputError(f"t has shape {tuple(t.shape)}, expected ({x.shape[0]},), one time a molecule")
        if context is None:
            if self.n_context:
                raise InputError(f"context is missing, this network needs {self.n_context} values a molecule")
            return
        expected = {(x.shape[0], self.n_context), (*x.shape[:2], self.n_context)}
        if not self.n_context or tuple(context.shape) not in expected:
            raise InputError(f"context has shape {tuple(context.shape)}, expected (B, {self.n_context})")


def _product_dtype(h: Tensor) -> torch.dtype:
    """The dtype of the matrix products over edges: autocast's, where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else h.dtype
