"""`EquivariantTransformer`: attention with an invariant and an equivariant stream, and thin pair features.

Three streams run through the layers:

- nodes h (B, N, d): wide, mixed by attention whose bias comes from the pairs;
- pairs e (B, N, N, c): thin, updated from both nodes and from the current geometry;
- coordinates X (B, N, 3, k): k equivariant vectors an atom, moved along differences with weights from the pairs.

Node work grows with N d^2, pair work with N^2 c^2: for molecules of 15 to 30 atoms and c = d / 6 both are alike,
where a message-passing network that runs an MLP of width d on every pair pays N^2 d^2.
Rotations and reflections act on the vector index of X alone, and translations are removed by centring, so the
network is E(3)-equivariant. It follows the idea of EGNN's coordinate update (arXiv 2102.09844) and of attention
with pair bias (AlphaFold 2's structure); the combination is ours.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion.embedding import time_features
from common.diffusion.space import Centered

_CENTERED = Centered(3)
# Keeps the square root of a zero distance differentiable.
_EPSILON = 1e-6
# Order-aware networks: channels of an atom's place, and the largest distance in the sequence that is told apart.
_N_PLACE = 32
_MAX_OFFSET = 24


class EquivariantTransformer(nn.Module):
    """The default molecule network: (x_t, t, mask) -> raw output of the same shape.

    Args:
        n_features: channels beside the 3 coordinates.
        n_context: channels of an optional per-molecule context.
        width: d, node channels.
        pair_width: c, pair channels.
        n_layers: layers.
        n_heads: attention heads.
        n_vectors: k, equivariant vectors an atom.
        n_radial: radial basis functions of the input distances.
        max_distance: where the radial basis ends, in units of the state's coordinates.
        ordered: let the network know each atom's place in the sequence (`molgen.chemistry.order`). It is then no
            longer equivariant under permutation, which nothing but the input's order needs.
    """

    # Where a control's embedding is added (`common.diffusion.control`).
    control_site = "embed_global"
    # Which is given what is known of each atom (`common.guidance.NoisyPredictor`).
    readout_site = "features_out"
    # What reads the channels beside the coordinates.
    features_in = "embed_node"
    # Inputs, outputs and gates: Muon leaves them to AdamW.
    edge_modules = (
        "embed_node",
        "embed_place",
        "embed_offset",
        "embed_global",
        "embed_pair",
        "features_out",
        "coordinates_out",
    )

    centres: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_context: int = 0,
        width: int = 192,
        pair_width: int = 32,
        n_layers: int = 6,
        n_heads: int = 8,
        n_vectors: int = 8,
        n_radial: int = 24,
        max_distance: float = 8.0,
        ordered: bool = False,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_context = n_context
        self.n_time = 64
        self.embed_node = nn.Linear(n_features, width)
        self.embed_place = nn.Linear(_N_PLACE, width, bias=False) if ordered else nn.Identity()
        self.embed_offset = nn.Embedding(2 * _MAX_OFFSET + 1, pair_width) if ordered else nn.Identity()
        self.ordered = ordered
        self.embed_global = nn.Sequential(
            nn.Linear(self.n_time + 1 + n_context, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.register_buffer("centres", torch.linspace(0, max_distance, n_radial), persistent=False)
        self.spread = max_distance / n_radial
        self.embed_pair = nn.Linear(n_radial, pair_width)
        self.embed_vectors = nn.Parameter(torch.ones(n_vectors) + 0.2 * torch.randn(n_vectors))
        self.layers = nn.ModuleList(_Layer(width, pair_width, n_heads, n_vectors, width) for _ in range(n_layers))
        self.norm_out = nn.LayerNorm(width)
        self.features_out = nn.Linear(width, n_features)
        self.coordinates_out = nn.Linear(n_vectors, 1, bias=False)
        nn.init.normal_(self.coordinates_out.weight, std=0.02)
        nn.init.normal_(self.features_out.weight, std=0.02)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Raw output (B, N, 3 + F) for noisy x (B, N, 3 + F) at times t (B,); zero on padding.

        Args:
            x: noisy state, zero on padding.
            t: times in [0, 1].
            mask: (B, N) bool, True = real.
            context: (B, n_context) or None for zeros.
        """
        size = mask.sum(dim=1, keepdim=True).to(x.dtype)
        known = [time_features(t, self.n_time).to(x.dtype), size.log() - 2.5]
        if self.n_context:
            known.append(x.new_zeros(len(x), self.n_context) if context is None else context)
        cond = self.embed_global(torch.cat(known, dim=-1))

        real = mask.unsqueeze(-1).to(x.dtype)
        coordinates = _CENTERED.project(x[..., :3], mask)
        distance = (_squared_distances(coordinates) + _EPSILON).sqrt()
        radial = torch.exp(-0.5 * ((distance.unsqueeze(-1) - self.centres) / self.spread) ** 2)
        h = self.embed_node(x[..., 3:])
        e = self.embed_pair(radial)
        if self.ordered:
            # The place among the real atoms, wherever the padding stands.
            place = mask.cumsum(dim=1) - 1
            h = h + self.embed_place(_place_features(place, x.dtype))
            offset = (place.unsqueeze(2) - place.unsqueeze(1)).clamp(-_MAX_OFFSET, _MAX_OFFSET)
            e = e + self.embed_offset(offset + _MAX_OFFSET).to(e.dtype)
        # (k, B, N, 3): k leads, so that what pairs of atoms do is a batched matrix product.
        vectors = self.embed_vectors[:, None, None, None] * coordinates
        pairs = mask[:, :, None] & mask[:, None, :]
        # Finite, so that a row without any real atom stays a number.
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill_(~mask, -1e4)[:, None, None, :]
        pair_real = pairs.to(x.dtype) / size[:, :, None]
        for layer in self.layers:
            h, e, vectors = layer(h, e, vectors, cond, bias, pair_real)

        features = self.features_out(self.norm_out(h)) * real
        displacement = torch.einsum("kbnx,k->bnx", vectors, self.coordinates_out.weight[0])
        return torch.cat([_CENTERED.project(displacement, mask).to(x.dtype), features.to(x.dtype)], dim=-1)

    def deepened(self, n_layers: int) -> dict[str, Tensor]:
        """Weights of such a network with at least as many layers that answers as this one does.

        The further layers are copies of others, spread evenly, that change nothing until they learn to.
        """
        deep = {name: value for name, value in self.state_dict().items() if not name.startswith("layers.")}
        sources = [((place + 1) * len(self.layers) - 1) // n_layers for place in range(n_layers)]
        for place, source in enumerate(sources):
            layer = cast(_Layer, self.layers[source])
            weights = layer.silenced() if source in sources[:place] else layer.state_dict()
            deep.update({f"layers.{place}.{name}": value for name, value in weights.items()})
        return deep


class _Layer(nn.Module):
    """Pairs from nodes and geometry, then attention, coordinates and a feed-forward block from the pairs."""

    edge_modules = ("modulation", "vector_gate", "vector_mix", "vector_norms")

    def __init__(self, width: int, pair_width: int, n_heads: int, n_vectors: int, cond_width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_vectors = n_vectors
        self.pair_width = pair_width
        hidden = 2 * pair_width
        self.hidden = hidden
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(cond_width, 6 * width)
        self.node_in = nn.Linear(width, 3 * width + 2 * hidden, bias=False)
        self.pair_in = nn.Linear(pair_width + n_vectors, hidden)
        self.pair_out = nn.Linear(hidden, pair_width + n_heads + n_vectors)
        self.attention_out = nn.Linear(width + pair_width, width)
        self.vector_gate = nn.Linear(width, n_vectors)
        self.vector_mix = nn.Linear(n_vectors, n_vectors, bias=False)
        self.vector_norms = nn.Linear(n_vectors, width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.zero_()
            # Gates start at one: residual branches are scaled by their own small initial weights instead.
            self.modulation.bias.view(6, width)[2::3] = 1
            for layer in (self.attention_out, self.mlp_out, self.pair_out, self.vector_mix):
                layer.weight.mul_(0.3)

    def forward(
        self, h: Tensor, e: Tensor, vectors: Tensor, cond: Tensor, bias: Tensor, pair_real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, n, width = h.shape
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = self.modulation(cond).unsqueeze(1).chunk(6, dim=-1)
        hn = self.norm_attention(h) * (1 + scale_a) + shift_a
        q, k, v, left, right = self.node_in(hn).split([width, width, width, self.hidden, self.hidden], dim=-1)

        squared = _squared_distances(vectors)  # (k, B, N, N)
        geometry = torch.log1p(squared).to(e.dtype).permute(1, 2, 3, 0)
        z = self.pair_in(torch.cat([e, geometry], dim=-1)) + left.unsqueeze(2) + right.unsqueeze(1)
        update, logits, push = self.pair_out(F.silu(z)).split([self.pair_width, self.n_heads, self.n_vectors], dim=-1)
        e = e + update

        heads = (batch, n, self.n_heads, width // self.n_heads)
        attended = F.scaled_dot_product_attention(
            q.view(heads).transpose(1, 2),
            k.view(heads).transpose(1, 2),
            v.view(heads).transpose(1, 2),
            attn_mask=(logits.permute(0, 3, 1, 2) + bias).to(q.dtype),
        )
        pooled = (pair_real.unsqueeze(2) @ update).squeeze(2)
        attended = attended.transpose(1, 2).reshape(batch, n, width)
        h = h + gate_a * self.attention_out(torch.cat([attended, pooled.to(attended.dtype)], dim=-1))

        with torch.autocast(h.device.type, enabled=False):
            vectors = self._move(
                vectors,
                squared,
                push.to(vectors.dtype) * pair_real.unsqueeze(-1),
                self.vector_gate(hn.to(vectors.dtype)),
            )
        norms = torch.log1p(vectors.square().sum(dim=-1)).permute(1, 2, 0)
        hn = self.norm_mlp(h + self.vector_norms(norms)) * (1 + scale_m) + shift_m
        h = h + gate_m * self.mlp_out(F.silu(self.mlp_in(hn)))
        return h, e, vectors

    def silenced(self) -> dict[str, Tensor]:
        """The weights, but for what the layer adds to the three streams: that is zero."""
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        for name, value in weights.items():
            if name.startswith(("attention_out", "mlp_out", "vector_mix")):
                value.zero_()
            elif name.startswith("pair_out"):
                update, _, push = value.split([self.pair_width, self.n_heads, self.n_vectors])
                update.zero_()
                push.zero_()
        return weights

    def _move(self, vectors: Tensor, squared: Tensor, push: Tensor, gate: Tensor) -> Tensor:
        """X_i + sum_j w_ij (X_i - X_j) / (1 + |X_i - X_j|) + g_i (mixture of atom i's vectors).

        In float32: the sum cancels, and what is left is the precision of the coordinates.
        """
        weight = push.permute(3, 0, 1, 2) / (1 + (squared + _EPSILON).sqrt())
        moved = weight.sum(dim=-1, keepdim=True) * vectors - weight @ vectors
        mixed = torch.einsum("kbnx,lk->lbnx", vectors, self.vector_mix.weight)
        return vectors + moved + gate.permute(2, 0, 1).unsqueeze(-1) * mixed


def _squared_distances(vectors: Tensor) -> Tensor:
    """(..., N, N) squared distances of points (..., N, 3), float32 even under autocast."""
    with torch.autocast(vectors.device.type, enabled=False):
        norm = vectors.square().sum(dim=-1)
        squared = norm.unsqueeze(-1) + norm.unsqueeze(-2) - 2 * vectors @ vectors.transpose(-1, -2)
    return squared.clamp(min=0)


def _place_features(place: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, N, _N_PLACE) sines and cosines of place (B, N), with wavelengths from 3 to 3000 atoms."""
    frequency = 2 * math.pi / 3 * torch.exp(-torch.linspace(0, math.log(1000.0), _N_PLACE // 2, device=place.device))
    angle = place.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)
