"""`MoleculeCodec`: molecules as numbers <-> `State`, the place of feature scaling.

Feature scaling is decisive: a one-hot scaled by 0.25 is settled late in the reverse process, after the
coordinates (arXiv 2203.17003, table 10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.diffusion import Centered, State, size_mask
from common.errors import InputError
from molgen.chemistry.elements import symbol
from molgen.chemistry.order import bonded_order
from molgen.data.molecules import MoleculeSet

ORDERS = ("given", "bonded")


@dataclass(frozen=True)
class MoleculeCodec:
    """Channels of a molecule's state: 3 coordinates, one-hot atom types, and, as an option, the atomic number.

    Attributes:
        elements: atomic numbers in the order of the one-hot channels.
        coordinate_scale: Angstrom -> state units; the state's coordinates should have about unit variance.
        type_scale: value of the hot channel.
        number_scale: factor of the atomic-number channel (EDM: 0.1); 0 leaves the channel out.
        order: `given`, or `bonded` for networks that know the place of an atom (`molgen.chemistry.order`).
    """

    elements: tuple[int, ...]
    coordinate_scale: float = 1.0
    type_scale: float = 0.25
    number_scale: float = 0.0
    order: str = "given"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise InputError(f"got order '{self.order}', expected one of {', '.join(ORDERS)}")
        object.__setattr__(self, "elements", tuple(int(z) for z in self.elements))
        if len(set(self.elements)) != len(self.elements) or not self.elements:
            raise InputError(f"got elements {self.elements}, expected different atomic numbers, at least one")

    @property
    def n_features(self) -> int:
        """Channels beside the 3 coordinates."""
        return len(self.elements) + (self.number_scale > 0)

    @property
    def n_channels(self) -> int:
        """All channels."""
        return 3 + self.n_features

    def type_indices(self, numbers: np.ndarray) -> np.ndarray:
        """(A,) one-hot index of each atomic number; an `InputError` names an element that the codec lacks."""
        table = np.full(256, -1, dtype=np.int64)
        table[list(self.elements)] = np.arange(len(self.elements))
        indices = table[numbers]
        if (indices < 0).any():
            unknown = sorted({symbol(int(z)) for z in np.unique(numbers[indices < 0])})
            known = " ".join(symbol(z) for z in self.elements)
            raise InputError(f"got element {', '.join(unknown)}, expected {known}: leave these molecules out")
        return indices

    def arrange(self, molecules: MoleculeSet) -> MoleculeSet:
        """The molecules with their atoms in this codec's order: once a set, because it takes time."""
        return molecules if self.order == "given" else molecules.reorder(bonded_order(molecules))

    def encode(self, molecules: MoleculeSet, n_points: int | None = None) -> State:
        """State of all (arranged) molecules, padded to n_points (or the largest), centre of mass at the origin."""
        sizes = torch.from_numpy(molecules.num_atoms)
        mask = size_mask(sizes, n_points)
        types = torch.from_numpy(self.type_indices(molecules.numbers))
        flat = torch.zeros(len(types), self.n_channels)
        flat[:, :3] = torch.from_numpy(molecules.positions)
        flat[torch.arange(len(types)), 3 + types] = self.type_scale
        if self.number_scale > 0:
            flat[:, -1] = torch.from_numpy(molecules.numbers.astype(np.float32)) * self.number_scale
        x = torch.zeros(*mask.shape, self.n_channels)
        x[mask] = flat
        x[..., :3] *= self.coordinate_scale
        return State(Centered(3).project(x, mask), mask)

    def decode(self, state: State) -> MoleculeSet:
        """Molecules of a clean state: the largest type channel wins, coordinates in Angstrom."""
        state = state.to("cpu")
        flat = state.x[state.mask].float()
        types = flat[:, 3 : 3 + len(self.elements)].argmax(dim=1)
        return MoleculeSet(
            numbers=np.array(self.elements, dtype=np.uint8)[types.numpy()],
            positions=(flat[:, :3] / self.coordinate_scale).numpy(),
            offsets=np.concatenate([[0], np.cumsum(state.sizes.numpy())]),
        )
