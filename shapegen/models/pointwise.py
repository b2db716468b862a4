"""`PointwiseMLP`: every point moves by itself, given a latent of the whole shape (arXiv 2103.01458).

The reference that other shape networks are measured against. A PointNet-like encoder gives q(z | x_0), a normalising
flow the prior p(z), and a small perceptron, gated by z and the time, denoises each point apart from all others; the
three are trained together (`common.algorithms.latent_pretraining`). Sizes are the published ones: 3.9 million
parameters.

Ours: the time is seen through Fourier features, and the class through a branch that is zero at first, both as in
`SetTransformer`; the prior knows the class, too. The encoder has layer norms where the paper has batch norms, so that a
shape's loss does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion.embedding import time_features
from shapegen.models.flow import CouplingFlow


class PointwiseMLP(nn.Module):
    """The reference shape network: (x_t, t, mask, context, latent) -> raw output of the shape of x_t.

    Args:
        n_context: channels of an optional per-shape context; zeros are "no condition".
        n_latent: channels of the latent z, even.
        widths: channels of a point, layer by layer.
        encoder_widths: the same in the encoder, before it takes the maximum over the points.
        flow_depth: couplings of the prior.
        flow_width: hidden channels of a coupling.
        cond_width: channels of what time and context say together.
        kl_weight: of KL(q(z | x_0) || p(z)), a sum over L channels, beside the denoising loss, a mean over points.
    """

    # What `State.condition` must hold for this network, beside the context.
    conditions = ("latent",)
    control_site = "embed_global"
    # Inputs, outputs and gates, and what is no denoiser: Muon leaves them to AdamW.
    edge_modules = ("embed_global", "embed_context", "first", "last", "encoder", "prior")

    def __init__(
        self,
        *,
        n_context: int = 0,
        n_latent: int = 256,
        widths: Sequence[int] = (128, 256, 512, 256, 128),
        encoder_widths: Sequence[int] = (128, 128, 256, 512),
        flow_depth: int = 14,
        flow_width: int = 256,
        cond_width: int = 64,
        kl_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, value in (("widths", widths), ("encoder_widths", encoder_widths)):
            if not value or min(value) < 1:
                raise ValueError(f"got {name} {list(value)}, expected at least one positive number")
        if not kl_weight > 0:
            raise ValueError(f"got kl_weight {kl_weight}, expected a positive number: else the prior learns nothing")
        self.n_context = n_context
        self.n_latent = n_latent
        self.kl_weight = kl_weight
        self.n_time = 64
        self.embed_global = nn.Sequential(
            nn.Linear(self.n_time, cond_width), nn.SiLU(), nn.Linear(cond_width, cond_width)
        )
        # Zero at first, and without bias: a condition starts as no condition, and zeros stay none.
        self.embed_context = nn.Linear(n_context, cond_width, bias=False) if n_context else nn.Identity()
        known = cond_width + n_latent
        self.first = _ConcatSquash(3, widths[0], known)
        self.layers = nn.ModuleList(_ConcatSquash(n_in, n_out, known) for n_in, n_out in pairwise(widths))
        self.last = _ConcatSquash(widths[-1], 3, known)
        self.encoder = _Encoder(encoder_widths, n_latent)
        self.prior = CouplingFlow(n_latent, flow_depth, flow_width, n_context)
        if n_context:
            nn.init.zeros_(self.embed_context.weight)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """Raw output (B, N, 3) for noisy points x (B, N, 3) at times t (B,); zero on padding.

        Args:
            x: noisy points.
            t: times in [0, 1].
            mask: (B, N) bool, True = real.
            context: (B, n_context), or None for no condition.
            latent: (B, n_latent), from `encode` or `draw_latent`.

        Raises:
            ValueError: no latent.
        """
        if latent is None:
            raise ValueError(f"got no condition 'latent', expected (B, {self.n_latent}): encode a shape, or draw one")
        cond = self.embed_global(time_features(t, self.n_time).to(x.dtype))
        if self.n_context and context is not None:
            cond = cond + self.embed_context(context)
        known = torch.cat([F.silu(cond), latent.to(cond.dtype)], dim=-1).unsqueeze(1)
        h = F.leaky_relu(self.first(x, known))
        for layer in self.layers:
            h = F.leaky_relu(layer(h, known))
        return (x + self.last(h, known).to(x.dtype)) * mask.unsqueeze(-1)

    def encode(self, x0: Tensor, mask: Tensor, noise: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A latent (B, n_latent) from q(z | x_0), and its log q(z | x_0) - log p(z) (B,), whose mean is the KL.

        The entropy of q is exact and log p is taken at the drawn z (arXiv 2103.01458, eq. 13).

        Args:
            x0: clean points (B, N, 3).
            mask: (B, N) bool, True = real.
            noise: standard Gaussian (B, n_latent).
            context: (B, n_context) that the prior is told, or None for no condition.
        """
        mean, log_variance = (value.to(x0.dtype) for value in self.encoder(x0, mask))
        latent = mean + torch.exp(0.5 * log_variance) * noise
        # A density is a sum over many couplings, which rounding to bf16 would drown.
        with torch.autocast(x0.device.type, enabled=False):
            base, log_det = self.prior.to_base(latent, context)
        return latent, 0.5 * (base.square() - log_variance - 1).sum(dim=-1) - log_det

    def draw_latent(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents (B, n_latent) of the prior, from standard Gaussian noise (B, n_latent)."""
        return self.prior.from_base(noise, context)


class _ConcatSquash(nn.Module):
    """A linear layer on each point (B, N, n_in), gated and shifted by what is known of its shape (B, 1, n_known)."""

    edge_modules = ("gate", "shift")

    def __init__(self, n_in: int, n_out: int, n_known: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.gate = nn.Linear(n_known, n_out)
        self.shift = nn.Linear(n_known, n_out, bias=False)

    def forward(self, h: Tensor, known: Tensor) -> Tensor:
        return self.linear(h) * torch.sigmoid(self.gate(known)) + self.shift(known)


class _Encoder(nn.Module):
    """Points (B, N, 3) -> mean and log variance (B, n_latent) of q(z | x_0): a PointNet (arXiv 1612.00593)."""

    def __init__(self, widths: Sequence[int], n_latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((3, *widths)):
            layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU()]
        # The last layer's output meets the maximum as it is.
        self.points = nn.Sequential(*layers[:-2])
        self.mean = _head(widths[-1], n_latent)
        self.log_variance = _head(widths[-1], n_latent)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # The largest value of each channel: any number of points, in any order.
        h = self.points(x).masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)
        return self.mean(h), self.log_variance(h)


def _head(n_in: int, n_out: int) -> nn.Sequential:
    """What the encoder says of the whole shape."""
    return nn.Sequential(nn.Linear(n_in, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, n_out))
