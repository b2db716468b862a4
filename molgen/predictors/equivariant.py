"""`E3Network`: an E(3)-equivariant network on e3nn with scalar, vector and tensor outputs.

Atoms carry scalars, vectors and rank-2 tensors (arXiv 1802.08219); a message is the tensor product of a neighbour's
features with the spherical harmonics of the direction to it, weighted by a network of the distance and of both atoms'
scalars. The dipole moment is a vector, sum_i q_i r_i + d_i, whose length is predicted; the polarisability is a tensor,
sum_i a_i 1 + sym(w_i r_i^T) + b_i, whose trace is (both forms as in arXiv 2102.03150, section 4.3; ours adds b_i).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion import Centered
from common.errors import InputError
from common.predictors.readout import Readout
from molgen.predictors.parts import KINDS, TYPICAL_SIZE, Composition, radial_functions, safe_norm

_CENTERED = Centered(3)
_SPHERICAL = "1x0e + 1x1o + 1x2e"


class E3Network(nn.Module):
    """(x (B, N, 3 + T) Angstrom and types, mask (B, N)) -> (mean and spread (B, P, 2), logits (B, C)), all invariant.

    Args:
        n_types: T, type channels of an atom; one-hot, or any mixture.
        kinds: of each of the P properties: `scalar`, `norm` (of a vector) or `trace` (of a tensor).
        n_classes: C.
        scalars, vectors, tensors: channels of an atom of each rank.
        n_layers: message layers.
        n_radial: radial functions of a distance.
        max_distance: no message reaches farther, Angstrom.
        radial_width: width of the network of the distance.
        normalization_factor: the divisor of sums over neighbours.
    """

    # Inputs and outputs: Muon leaves them to AdamW.
    edge_modules = ("embedding", "readout", "vector_out", "tensor_out")

    centres: Tensor
    to_cartesian: Tensor

    def __init__(
        self,
        *,
        n_types: int,
        kinds: Sequence[str],
        n_classes: int = 0,
        scalars: int = 64,
        vectors: int = 16,
        tensors: int = 8,
        n_layers: int = 3,
        n_radial: int = 16,
        max_distance: float = 5.0,
        radial_width: int = 48,
        normalization_factor: float = 8.0,
    ) -> None:
        from e3nn import o3

        super().__init__()
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise InputError(f"got kind '{unknown[0]}', expected one of {', '.join(KINDS)}")
        self.kinds, self.scalars, self.max_distance = tuple(kinds), scalars, max_distance
        self.register_buffer("centres", torch.linspace(0, max_distance, n_radial), persistent=False)
        self.embedding = nn.Linear(n_types, scalars)
        irreps = f"{scalars}x0e + {vectors}x1o + {tensors}x2e"
        sizes = [f"{scalars}x0e", *[irreps] * n_layers]
        self.layers = nn.ModuleList(
            _Layer(before, after, scalars, n_radial, radial_width, math.sqrt(normalization_factor))
            for before, after in pairwise(sizes)
        )
        self.readout = Readout(scalars, len(kinds), n_classes, TYPICAL_SIZE)
        self.composition = Composition(n_types, len(kinds))
        # q_i and d_i; a_i, w_i and b_i. What no property needs is not there.
        n_norms, n_traces = kinds.count("norm"), kinds.count("trace")
        self.vector_out = o3.Linear(irreps, f"{n_norms}x0e + {n_norms}x1o") if n_norms else nn.Identity()
        self.tensor_out = (
            o3.Linear(irreps, f"{n_traces}x0e + {n_traces}x1o + {n_traces}x2e") if n_traces else nn.Identity()
        )
        with torch.no_grad():
            # Sums over all atoms start as large as the other outputs.
            for parameter in (*self.vector_out.parameters(), *self.tensor_out.parameters()):
                parameter.mul_(0.1)
        self.register_buffer("to_cartesian", _rank_2_basis(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; means are standardised, spreads raw."""
        x = _CENTERED.project(x, mask)
        h = self._atoms(x, mask)
        values, logits = self.readout(h[..., : self.scalars], mask)
        found = {"norm": iter(self._norms(h, x).unbind(1)), "trace": iter(self._traces(h, x).unbind(1))}
        means = [next(found[kind]) if kind in found else values[:, k, 0] for k, kind in enumerate(self.kinds)]
        if means:
            values = torch.stack([torch.stack(means, dim=1), values[..., 1]], dim=-1)
        return self.composition(values, x[..., 3:]), logits

    def vectors(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, V, 3) the vectors of the `norm` properties, standardised. Training knows their lengths only, so all may
        be reversed."""
        x = _CENTERED.project(x, mask)
        return self._vectors(self._atoms(x, mask), x)

    def tensors(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, 3, 3) the symmetric tensors of the `trace` properties, standardised. Training knows their traces
        only: the rest is a guess."""
        x = _CENTERED.project(x, mask)
        return self._tensors(self._atoms(x, mask), x)

    def _atoms(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, N, irreps) after all messages; zero on padding."""
        from e3nn import o3

        slots = mask.reshape(-1).nonzero().squeeze(1)
        atoms = x.flatten(0, 1).index_select(0, slots)
        row, column = _neighbours(mask, slots)
        difference = atoms[column, :3] - atoms[row, :3]
        distance = safe_norm(difference)
        near = (distance < self.max_distance).nonzero().squeeze(1)
        row, column, difference, distance = row[near], column[near], difference[near], distance[near]
        # Smoothly to zero at the cut-off, so that no prediction jumps when a neighbour leaves.
        envelope = (0.5 * (1 + torch.cos(math.pi * distance / self.max_distance))).unsqueeze(-1)
        direction = o3.spherical_harmonics(
            _SPHERICAL, difference / distance.unsqueeze(-1), normalize=False, normalization="component"
        )
        radial = radial_functions(distance, self.centres)
        h = self.embedding(atoms[:, 3:])
        for layer in self.layers:
            h = layer(h, row, column, direction, radial, envelope)
        return h.new_zeros(mask.numel(), h.shape[1]).index_copy(0, slots, h).unflatten(0, mask.shape)

    def _norms(self, h: Tensor, x: Tensor) -> Tensor:
        return safe_norm(self._vectors(h, x)) if "norm" in self.kinds else x.new_zeros(len(x), 0)

    def _traces(self, h: Tensor, x: Tensor) -> Tensor:
        if "trace" not in self.kinds:
            return x.new_zeros(len(x), 0)
        return self._tensors(h, x).diagonal(dim1=-2, dim2=-1).mean(dim=-1)

    def _vectors(self, h: Tensor, x: Tensor) -> Tensor:
        n = self.kinds.count("norm")
        charges, dipoles = self.vector_out(h).split([n, 3 * n], dim=-1)
        # Coordinates are centred, so a mean charge adds nothing; e3nn orders vectors as x, y, z.
        moments = charges.unsqueeze(-1) * x[..., None, :3] + dipoles.unflatten(-1, (n, 3))
        return moments.sum(dim=1)

    def _tensors(self, h: Tensor, x: Tensor) -> Tensor:
        n = self.kinds.count("trace")
        isotropic, vectors, rest = self.tensor_out(h).split([n, 3 * n, 5 * n], dim=-1)
        outer = vectors.unflatten(-1, (n, 3)).unsqueeze(-1) * x[..., None, None, :3]
        eye = torch.eye(3, dtype=x.dtype, device=x.device)
        traceless = torch.einsum("bnsk,kij->bnsij", rest.unflatten(-1, (n, 5)), self.to_cartesian.to(x.dtype))
        both = isotropic[..., None, None] * eye + 0.5 * (outer + outer.transpose(-1, -2)) + traceless
        return both.sum(dim=1)


class _Layer(nn.Module):
    """h_i' = gate(linear(h_i) + linear(sum_j product(linear(h_j), Y(r_ij); weights(d_ij, h_i, h_j))))."""

    edge_modules = ("radial_in",)

    def __init__(self, before: str, after: str, scalars: int, n_radial: int, radial_width: int, divisor: float) -> None:
        from e3nn import nn as e3nn_nn
        from e3nn import o3

        super().__init__()
        self.divisor, self.scalars = divisor, scalars
        higher = o3.Irreps([entry for entry in o3.Irreps(after) if entry.ir.l > 0])
        n_gates = sum(entry.mul for entry in higher)
        self.gate = e3nn_nn.Gate(f"{scalars}x0e", [F.silu], f"{n_gates}x0e", [torch.sigmoid], higher)
        product, paths = _products(o3.Irreps(before), o3.Irreps(_SPHERICAL), o3.Irreps(after))
        self.product = o3.TensorProduct(
            before, _SPHERICAL, product, paths, shared_weights=False, internal_weights=False
        )
        self.before = o3.Linear(before, before)
        self.after = o3.Linear(product.simplify(), self.gate.irreps_in)
        self.own = o3.Linear(before, self.gate.irreps_in)
        self.skip = o3.Irreps(before) == self.gate.irreps_out
        self.pair = nn.Linear(scalars, 2 * radial_width)
        self.radial_in = nn.Linear(n_radial, radial_width)
        self.radial_out = nn.Linear(radial_width, int(self.product.weight_numel))  # type: ignore[arg-type]

    def forward(
        self, h: Tensor, row: Tensor, column: Tensor, direction: Tensor, radial: Tensor, envelope: Tensor
    ) -> Tensor:
        of_row, of_column = self.pair(h[:, : self.scalars]).chunk(2, dim=-1)
        hidden = F.silu(self.radial_in(radial) + of_row[row] + of_column[column])
        message = self.product(self.before(h)[column], direction, self.radial_out(hidden) * envelope)
        gathered = message.new_zeros(len(h), message.shape[1]).index_add(0, row, message) / self.divisor
        updated = self.gate(self.own(h) + self.after(gathered))
        return h + updated if self.skip else updated


def _products(first: Any, second: Any, allowed: Any) -> tuple[Any, list[tuple[int, int, int, str, bool]]]:
    """Irreps and instructions of a channel-wise product of `first` with `second`, for e3nn's `TensorProduct`."""
    from e3nn import o3

    found, paths = [], []
    for i, (channels, left) in enumerate(first):
        for j, (_, right) in enumerate(second):
            for result in left * right:
                if result in allowed:
                    found.append((channels, result))
                    paths.append((i, j, len(found) - 1, "uvu", True))
    irreps, order, _ = o3.Irreps(found).sort()  # type: ignore[union-attr]
    return irreps, [(i, j, order[k], mode, train) for i, j, k, mode, train in paths]


def _neighbours(mask: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) and (E,): all ordered pairs of distinct real atoms of one molecule, as places among the real atoms."""
    place = mask.new_full(mask.shape, 0, dtype=torch.int64).flatten()
    place[slots] = torch.arange(len(slots), device=mask.device)
    distinct = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    batch, i, j = (mask[:, :, None] & mask[:, None] & distinct).nonzero(as_tuple=True)
    return place[batch * mask.shape[1] + i], place[batch * mask.shape[1] + j]


def _rank_2_basis() -> Tensor:
    """(5, 3, 3) symmetric traceless matrices that e3nn's l = 2 components stand for."""
    from e3nn import o3

    return math.sqrt(5.0) * o3.wigner_3j(2, 1, 1, dtype=torch.float32)
