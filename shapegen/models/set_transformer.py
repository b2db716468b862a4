"""`SetTransformer`: a point cloud of any size thinks through a fixed set of latents.

Each block reads the points into the latents (cross-attention), lets the latents exchange what they know
(self-attention), and writes back to each point (cross-attention), so that the cost grows with N x L instead of N^2.
The reading and writing follow the idea of recurrent interface networks (arXiv 2212.11972) and of resolution-invariant
point diffusion (arXiv 2404.03566); sizes, conditioning and the parting of widths are ours.

Points never see each other except through the latents, and attention is a mean over them: the network is equivariant
under permutation, and saying every point twice changes nothing. So it can be trained on few points and asked for many.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion.embedding import time_features

_HEAD = 32


class SetTransformer(nn.Module):
    """The default shape network: (x_t, t, mask, context) -> raw output of the shape of x_t.

    Args:
        n_context: channels of an optional per-shape context; zeros are "no condition".
        width: channels of a latent.
        point_width: channels of a point.
        n_latents: latents.
        n_blocks: blocks of read, think, write.
        n_thinking: self-attention layers of the latents in a block.
        n_frequencies: octaves of the Fourier features of a coordinate.
        cond_width: channels of what time and context say together.
    """

    # Where a control's embedding is added (`common.diffusion.control`).
    control_site = "embed_global"
    # Which is given what is known of each point (`common.guidance.NoisyPredictor`).
    readout_site = "out"
    # Inputs, outputs and gates: Muon leaves them to AdamW.
    edge_modules = ("embed_point", "embed_global", "embed_context", "out")

    frequencies: Tensor

    def __init__(
        self,
        *,
        n_context: int = 0,
        width: int = 192,
        point_width: int = 128,
        n_latents: int = 32,
        n_blocks: int = 4,
        n_thinking: int = 1,
        n_frequencies: int = 4,
        cond_width: int = 128,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("point_width", point_width)):
            if value % _HEAD:
                raise ValueError(f"got {name} {value}, expected a multiple of {_HEAD}, the width of a head")
        self.n_context = n_context
        self.n_time = 64
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(n_frequencies), persistent=False)
        self.embed_point = nn.Linear(3 + 6 * n_frequencies, point_width)
        self.embed_global = nn.Sequential(
            nn.Linear(self.n_time, cond_width), nn.SiLU(), nn.Linear(cond_width, cond_width)
        )
        # Zero at first, and without bias: a condition starts as no condition, and zeros stay none.
        self.embed_context = nn.Linear(n_context, cond_width, bias=False) if n_context else nn.Identity()
        self.latents = nn.Parameter(torch.randn(n_latents, width))
        self.blocks = nn.ModuleList(_Block(width, point_width, n_thinking, cond_width) for _ in range(n_blocks))
        self.norm_out = nn.LayerNorm(point_width)
        self.out = nn.Linear(point_width, 3)
        if n_context:
            nn.init.zeros_(self.embed_context.weight)  # type: ignore[arg-type]
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Raw output (B, N, 3) for noisy points x (B, N, 3) at times t (B,); zero on padding.

        Args:
            x: noisy points.
            t: times in [0, 1].
            mask: (B, N) bool, True = real.
            context: (B, n_context), or None for no condition.
        """
        cond = self.embed_global(time_features(t, self.n_time).to(x.dtype))
        if self.n_context and context is not None:
            cond = cond + self.embed_context(context)
        cond = F.silu(cond)
        angles = (x.unsqueeze(-1) * self.frequencies).flatten(2)
        p = self.embed_point(torch.cat([x, angles.sin(), angles.cos()], dim=-1))
        z = self.latents.expand(len(x), -1, -1)
        readable = mask[:, None, None, :]
        for block in self.blocks:
            p, z = block(p, z, cond, readable)
        return self.out(self.norm_out(p)).to(x.dtype) * mask.unsqueeze(-1)


class _Block(nn.Module):
    """Read, think, write."""

    def __init__(self, width: int, point_width: int, n_thinking: int, cond_width: int) -> None:
        super().__init__()
        self.read = _Attention(width, point_width, point_width, cond_width)
        self.think = nn.ModuleList(
            nn.ModuleList([_Attention(width, width, width, cond_width), _FeedForward(width, 4, cond_width)])
            for _ in range(n_thinking)
        )
        self.write = _Attention(point_width, width, point_width, cond_width)
        self.point_mlp = _FeedForward(point_width, 2, cond_width)

    def forward(self, p: Tensor, z: Tensor, cond: Tensor, readable: Tensor) -> tuple[Tensor, Tensor]:
        z = z + self.read(z, p, cond, readable)
        for attention, feed_forward in self.think:  # type: ignore[misc]
            z = z + attention(z, z, cond)
            z = z + feed_forward(z, cond)
        p = p + self.write(p, z, cond)
        return p + self.point_mlp(p, cond), z


class _Attention(nn.Module):
    """Attention of queries (B, Q, width) to a source (B, K, source_width), under a condition."""

    edge_modules = ("modulation",)

    def __init__(self, width: int, source_width: int, inner: int, cond_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_source = nn.LayerNorm(source_width)
        self.modulation = _modulation(cond_width, width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(source_width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, query: Tensor, source: Tensor, cond: Tensor, readable: Tensor | None = None) -> Tensor:
        scale, shift, gate = self.modulation(cond).unsqueeze(1).chunk(3, dim=-1)
        q = _heads(self.query(self.norm(query) * (1 + scale) + shift))
        k, v = self.key_value(self.norm_source(source)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(q, _heads(k), _heads(v), attn_mask=readable)
        return gate * self.out(attended.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    """A two-layer perceptron on each element, under a condition."""

    edge_modules = ("modulation",)

    def __init__(self, width: int, factor: int, cond_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _modulation(cond_width, width)
        self.inner = nn.Linear(width, factor * width)
        self.out = nn.Linear(factor * width, width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(cond).unsqueeze(1).chunk(3, dim=-1)
        return gate * self.out(F.silu(self.inner(self.norm(x) * (1 + scale) + shift)))


def _modulation(cond_width: int, width: int) -> nn.Linear:
    """cond -> (scale, shift, gate) of width channels each; at first (0, 0, 1) whatever the condition."""
    linear = nn.Linear(cond_width, 3 * width)
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias.zero_()
        linear.bias[2 * width :] = 1
    return linear


def _heads(x: Tensor) -> Tensor:
    """(B, N, H * 32) -> (B, H, N, 32)."""
    return x.unflatten(-1, (-1, _HEAD)).transpose(1, 2)
