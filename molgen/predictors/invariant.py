"""`InvariantEGNN`: EGNN without its coordinate updates, read out as properties.

The message layers are those of EDM's network (`molgen.models.egnn`), which EDM's judge of properties uses too
(arXiv 2203.17003, section 5.2; arXiv 2102.09844). Ours sees distances through radial functions, and reads sums and
means over atoms, so that both extensive and intensive properties are within reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.predictors.readout import Readout
from molgen.models.egnn import MessageLayer
from molgen.models.egnn_edges import PackedEdges
from molgen.predictors.parts import TYPICAL_SIZE, Composition, radial_functions, safe_norm


class InvariantEGNN(nn.Module):
    """(x (B, N, 3 + T) Angstrom and types, mask (B, N)) -> (mean and spread (B, P, 2), logits (B, C)), all invariant.

    On the CPU the batch is packed, and differentiable once (`molgen.models.egnn_edges`); on other devices the same
    function runs on padded pairs.

    Args:
        n_types: T, type channels of an atom; one-hot, or any mixture.
        kinds: of each of the P properties, see `molgen.predictors.parts.KINDS`; this network treats all alike.
        n_classes: C.
        hidden_nf: width of the hidden layers.
        n_layers: message layers.
        attention: gate each message by a learned number between 0 and 1.
        n_radial: radial functions of a distance, an even number.
        max_distance: where they end, Angstrom.
        normalization_factor: the divisor of sums over neighbours.
    """

    # Inputs and outputs: Muon leaves them to AdamW.
    edge_modules = ("embedding", "readout")

    centres: Tensor

    def __init__(
        self,
        *,
        n_types: int,
        kinds: Sequence[str],
        n_classes: int = 0,
        hidden_nf: int = 96,
        n_layers: int = 4,
        attention: bool = True,
        n_radial: int = 16,
        max_distance: float = 6.0,
        normalization_factor: float = 8.0,
    ) -> None:
        super().__init__()
        if n_radial < 2 or n_radial % 2:
            raise InputError(f"got n_radial {n_radial}, expected an even number above 0")
        self.n_radial, self.normalization_factor = n_radial, normalization_factor
        self.register_buffer("centres", torch.linspace(0, max_distance, n_radial), persistent=False)
        self.embedding = nn.Linear(n_types, hidden_nf)
        layers = [MessageLayer(hidden_nf, n_radial, attention) for _ in range(n_layers)]
        self.layers = cast(Sequence[MessageLayer], nn.ModuleList(layers))
        self.readout = Readout(hidden_nf, len(kinds), n_classes, TYPICAL_SIZE)
        self.composition = Composition(n_types, len(kinds))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; means are standardised, spreads raw."""
        x = x.masked_fill(~mask[..., None], 0)
        packed = x.device.type == "cpu" and not torch.compiler.is_compiling()
        h = self._packed(x, mask) if packed else self._dense(x, mask)
        values, logits = self.readout(h, mask)
        return self.composition(values, x[..., 3:]), logits

    def _packed(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, N, H) atoms after all messages; zero on padding."""
        edges = PackedEdges.from_mask(mask, self.n_radial)
        atoms = x.flatten(0, 1).index_select(0, edges.slots)
        position = atoms[:, :3]
        difference = position.index_select(0, edges.row) - position.index_select(0, edges.column)
        radial = radial_functions(safe_norm(difference), self.centres)
        near, far = (half.contiguous() for half in radial.chunk(2, dim=-1))
        h = self.embedding(atoms[:, 3:]).to(position.dtype)
        for layer in self.layers:
            h = layer.update(h, layer.sum_packed(h, near, far, edges) / self.normalization_factor)
        padded = h.new_zeros(mask.numel(), h.shape[1])
        return padded.index_copy(0, edges.slots, h).unflatten(0, mask.shape)

    def _dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """As `_packed`, on all pairs."""
        position, real = x[..., :3], mask[..., None].to(x.dtype)
        distinct = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        pairs = (mask[:, :, None] & mask[:, None] & distinct).to(x.dtype)
        radial = radial_functions(safe_norm(position[:, :, None] - position[:, None]), self.centres)
        h = self.embedding(x[..., 3:]).to(x.dtype)
        for layer in self.layers:
            h = layer.update(h, layer.sum_dense(h, radial, pairs) / self.normalization_factor)
        return h * real
