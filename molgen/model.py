"""`MoleculeModel`: a trained generator, whole: network, process, codec, atom counts, recommended sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from common.diffusion import Denoiser, Sampler, build_sampler, sample_uniforms
from common.diffusion.control import Control, ControlledDenoiser, asked_for, controls_of, with_strength
from common.diffusion.generation import StateSampler, generate_states
from common.diffusion.model_file import build_denoiser, load_weights, read_model, save_model
from common.errors import InputError
from common.named import build
from molgen.chemistry.perception import perceive
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet
from molgen.models import MOLECULE_PARAMETERISATIONS, NETWORKS

# The stream of a sample's atom count is apart from that of its noise.
_SIZE_STREAM = 1


@dataclass(frozen=True)
class SizeLaw:
    """How many atoms a molecule gets.

    Attributes:
        sizes: (S,) numbers of atoms.
        weights: (S,) their relative frequencies.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, molecules: MoleculeSet) -> SizeLaw:
        """The frequencies of a data set."""
        sizes, counts = np.unique(molecules.num_atoms, return_counts=True)
        return cls(tuple(sizes.tolist()), tuple(counts.tolist()))

    def restrict(self, low: int, high: int) -> SizeLaw:
        """This law given low <= size <= high; uniform over that range where the data has no such size."""
        kept = [(s, w) for s, w in zip(self.sizes, self.weights, strict=True) if low <= s <= high]
        if not kept:
            kept = [(size, 1.0) for size in range(low, high + 1)]
        return SizeLaw(tuple(s for s, _ in kept), tuple(w for _, w in kept))

    def draw(self, seed: int, start: int, count: int) -> np.ndarray:
        """(count,) sizes of the samples start, start + 1, ... of a run with `seed`, each from its own stream."""
        cumulative = np.cumsum(self.weights) / np.sum(self.weights)
        uniform = sample_uniforms(seed, start, count, _SIZE_STREAM)
        return np.array(self.sizes)[np.searchsorted(cumulative, uniform, side="right").clip(max=len(self.sizes) - 1)]


@dataclass
class MoleculeModel:
    """A generator of molecules.

    Attributes:
        denoiser: the network with its process.
        codec: molecules <-> states.
        size_law: the training data's atom counts.
        sampler: the recommended one.
        description: everything else that `model.json` holds (name, data, licence, measured quality, ...).
    """

    denoiser: Denoiser | ControlledDenoiser
    codec: MoleculeCodec
    size_law: SizeLaw
    sampler: Sampler
    description: Mapping[str, Any]

    @classmethod
    def create(cls, description: Mapping[str, Any]) -> MoleculeModel:
        """An untrained model from a description as `model.json` holds it; `InputError` if that cannot be."""
        denoiser = build_denoiser(description, NETWORKS, MOLECULE_PARAMETERISATIONS)
        codec = build(MoleculeCodec, description["codec"], "codec")
        scale = getattr(denoiser.parameterisation, "type_scale", codec.type_scale)
        if scale != codec.type_scale:
            raise InputError(
                f"got type_scale {scale:g} of the parameterisation and {codec.type_scale:g} of the codec; "
                "expected one for both"
            )
        return cls(
            denoiser=denoiser,
            codec=codec,
            size_law=SizeLaw(tuple(description["size_law"]["sizes"]), tuple(description["size_law"]["weights"])),
            sampler=build_sampler(denoiser.process, description["sampler"]),
            description=description,
        )

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu") -> MoleculeModel:
        """The model in a folder, or in the `model` folder of a run.

        Raises:
            InputError: there is no model, or one that does not fit.
        """
        description, weights = read_model(Path(directory), "molgen")
        model = cls.create(description)
        load_weights(model.denoiser, weights, str(directory))
        model.denoiser.eval().requires_grad_(False).to(device)
        return model

    def save(self, directory: str | Path) -> None:
        """Write the model folder."""
        description = {
            **self.description,
            "domain": "molgen",
            "codec": asdict(self.codec),
            "size_law": asdict(self.size_law),
            "sampler": self.sampler.settings(),
        }
        save_model(Path(directory), self.denoiser.state_dict(), description)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def controls(self) -> tuple[Control, ...]:
        """What molecules can be asked for; nothing for a model without control inputs."""
        return controls_of(self.denoiser)

    def sample(
        self,
        count: int,
        *,
        num_atoms: int | tuple[int, int] | np.ndarray | None = None,
        targets: Mapping[str, float | np.ndarray] | None = None,
        strength: float = 1.0,
        steps: int | None = None,
        solver: str | None = None,
        eta: float | None = None,
        exponent: float | None = None,
        sampler: StateSampler | None = None,
        seed: int = 0,
        start: int = 0,
        batch_size: int = 128,
        precision: str = "float32",
        progress: Callable[[int], None] | None = None,
    ) -> MoleculeSet:
        """Samples `start` ... `start + count - 1` of the run with `seed`, in that order.

        A sample depends on (seed, its index) alone, up to float rounding: neither on `count` nor on `batch_size`.

        Args:
            count: number of molecules.
            num_atoms: a number of atoms (hydrogens included), a range (low, high), (count,) a number for each molecule,
                or None for the data's law.
            targets: name of a control -> what is asked of all molecules, or (count,) of each, in the control's unit.
            strength: of the controls: 0 is the base, above 1 more than was trained.
            steps: network evaluations a molecule; None for the model's recommendation.
            solver: a key of `common.diffusion.SOLVERS`; None for the model's recommendation.
            eta: noise scale of the solver in [0, 1]; None for the solver's own.
            exponent: of the times, see `Sampler`; None for the model's recommendation.
            sampler: what draws the states instead, such as a `common.guidance.GuidedSampler`; then steps, solver,
                eta and exponent are its own.
            seed: of the run.
            start: index of the first sample.
            batch_size: molecules at a time.
            precision: `float32`, or `bf16` (faster; then another batch size may change a molecule).
            progress: called with the number of molecules done after each batch.

        Raises:
            InputError: a size that the data never showed by far, a target without a control, or unusable options.
        """
        sizes = self._sizes(num_atoms, seed, start, count)
        batches = generate_states(
            with_strength(self.denoiser, strength), sampler or self.sampler.adjusted(steps, solver, eta, exponent),
            sizes, self.codec.n_channels, device=self.device, seed=seed, start=start, batch_size=batch_size,
            precision=precision, condition=asked_for(self.controls, targets or {}, count), progress=progress,
        )  # fmt: skip
        places, parts = [], []
        for batch, state in batches:
            places.append(batch)
            parts.append(self.codec.decode(state))
        if not parts:
            return MoleculeSet.from_molecules([])
        return MoleculeSet.concatenate(parts).select(np.argsort(np.concatenate(places), kind="stable"))

    def generate(self, count: int, **options: Any) -> list[Chem.Mol | None]:
        """`sample`, then bonds by RDKit: molecules with a 3D conformer in Angstrom; None where no bonds fit."""
        return [found.mol for found in perceive(self.sample(count, **options))]

    def _sizes(
        self, num_atoms: int | tuple[int, int] | np.ndarray | None, seed: int, start: int, count: int
    ) -> np.ndarray:
        """(count,) atoms of the samples start, start + 1, ..."""
        if num_atoms is None:
            return self.size_law.draw(seed, start, count)
        if isinstance(num_atoms, np.ndarray):
            low, high = int(num_atoms.min()), int(num_atoms.max())
        else:
            low, high = (num_atoms, num_atoms) if isinstance(num_atoms, int) else num_atoms
        largest = max(self.size_law.sizes)
        if not 1 <= low <= high:
            raise InputError(f"got {low} to {high} atoms, expected 1 <= low <= high")
        if high > largest:
            raise InputError(
                f"got up to {high} atoms, expected at most {largest}: the model was never shown larger molecules"
            )
        if isinstance(num_atoms, np.ndarray):
            return num_atoms
        return self.size_law.restrict(low, high).draw(seed, start, count)
