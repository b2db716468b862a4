"""The EDM network written plainly from its equations: the yardstick for `molgen.models.egnn`.

Every pair of slots of the padded batch is an edge, its input is concatenated, and masks remove what is not real.
This is how the field's implementations compute it, so it is both the oracle of the tests and the floor of the
benchmark. Parameters carry EDM's names, so a published state dict loads as it is.

Source: Hoogeboom, Satorras, Vignac, Welling, "Equivariant Diffusion for Molecule Generation in 3D",
arXiv 2203.17003, equations 12 and 13 and appendix B; Satorras, Hoogeboom, Welling, arXiv 2102.09844.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class _Message(nn.Module):
    """m_ij = phi_e(h_i, h_j, d_ij^2, a_ij); h_i' = h_i + phi_h(h_i, sum_j e_ij m_ij), e_ij = phi_inf(m_ij)."""

    def __init__(self, hidden: int, edge_features: int, attention: bool):
        super().__init__()
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden + edge_features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.node_mlp = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.att_mlp = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid()) if attention else None

    def forward(self, h: Tensor, edge_input: Tensor, aggregate) -> Tensor:
        message = self.edge_mlp(edge_input)
        if self.att_mlp is not None:
            message = message * self.att_mlp(message)
        return h + self.node_mlp(torch.cat([h, aggregate(message)], dim=-1))


class _Update(nn.Module):
    """x_i' = x_i + sum_j (x_i - x_j) / (d_ij + 1) * phi_x(h_i, h_j, d_ij^2, a_ij)."""

    def __init__(self, hidden: int, edge_features: int):
        super().__init__()
        self.coord_mlp = nn.Sequential(
            nn.Linear(2 * hidden + edge_features, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1, bias=False),
        )
        nn.init.xavier_uniform_(self.coord_mlp[-1].weight, gain=0.001)


class _Block(nn.Module):
    def __init__(self, hidden: int, edge_features: int, attention: bool, inv_sublayers: int):
        super().__init__()
        for k in range(inv_sublayers):
            self.add_module(f"gcl_{k}", _Message(hidden, edge_features, attention))
        self.gcl_equiv = _Update(hidden, edge_features)


class ReferenceEGNN(nn.Module):
    """The network of EDM on a padded batch, with the arguments and the interface of `molgen.models.egnn.EGNN`."""

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
        self.n_features, self.n_layers, self.inv_sublayers = n_features, n_layers, inv_sublayers
        self.tanh, self.coords_range, self.norm_constant = tanh, coords_range, norm_constant
        self.normalization_factor, self.aggregation_method = normalization_factor, aggregation_method
        self.condition_time, self.sin_embedding = condition_time, sin_embedding
        n_frequencies = int(math.log(2000.0, 4)) + 1
        self.register_buffer("frequencies", 2 * math.pi * 4.0 ** torch.arange(n_frequencies) / 15.0, persistent=False)
        edge_features = 4 * n_frequencies if sin_embedding else 2
        width = n_features + condition_time + n_context
        self.embedding = nn.Linear(width, hidden_nf)
        self.embedding_out = nn.Linear(hidden_nf, width)
        for i in range(n_layers):
            self.add_module(f"e_block_{i}", _Block(hidden_nf, edge_features, attention, inv_sublayers))

    def _embed(self, squared: Tensor) -> Tensor:
        if not self.sin_embedding:
            return squared
        angle = torch.sqrt(squared + 1e-8) * self.frequencies.to(squared.dtype)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).detach()

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """See `molgen.models.egnn.EGNN.forward`."""
        batch, n_slots, _ = x.shape
        real = mask.to(x.dtype)[..., None]  # (B, N, 1)
        edge_real = real[:, :, None] * real[:, None] * (1 - torch.eye(n_slots, dtype=x.dtype))[None, ..., None]

        def aggregate(values: Tensor) -> Tensor:
            total = (values * edge_real).sum(dim=2)
            if self.aggregation_method == "mean":
                return total / real.sum(dim=1, keepdim=True).clamp(min=1)
            return total / self.normalization_factor

        position, h = x[..., :3] * real, x[..., 3:] * real
        start = position
        if self.condition_time:
            h = torch.cat([h, t.to(x.dtype)[:, None, None].expand(batch, n_slots, 1)], dim=-1)
        if context is not None:
            context = context if context.dim() == 3 else context[:, None].expand(-1, n_slots, -1)
            h = torch.cat([h, context], dim=-1)

        def differences(position: Tensor) -> tuple[Tensor, Tensor]:
            difference = position[:, :, None] - position[:, None]
            return difference, (difference**2).sum(dim=-1, keepdim=True)

        initial = self._embed(differences(position)[1])
        h = self.embedding(h)
        for i in range(self.n_layers):
            block = getattr(self, f"e_block_{i}")
            difference, squared = differences(position)
            direction = difference / (torch.sqrt(squared + 1e-8) + self.norm_constant)
            edge_attributes = torch.cat([self._embed(squared), initial], dim=-1)

            def edge_input(h: Tensor, attributes: Tensor) -> Tensor:
                rows = h[:, :, None].expand(-1, -1, n_slots, -1)
                columns = h[:, None].expand(-1, n_slots, -1, -1)
                return torch.cat([rows, columns, attributes], dim=-1)

            for k in range(self.inv_sublayers):
                layer = getattr(block, f"gcl_{k}")
                h = layer(h, edge_input(h, edge_attributes), aggregate) * real
            step = block.gcl_equiv.coord_mlp(edge_input(h, edge_attributes))
            if self.tanh:
                step = torch.tanh(step) * self.coords_range
            position = (position + aggregate(direction * step)) * real
        features = (self.embedding_out(h) * real)[..., : self.n_features]
        velocity = (position - start) * real
        velocity = velocity - velocity.sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1) * real
        return torch.cat([velocity, features], dim=-1)
