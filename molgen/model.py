"""`MoleculeModel`: a trained generator, whole: network, process, codec, atom counts, recommended sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from common.diffusion import Denoiser, Process, SampleNoise, Sampler, sample_seeds, size_mask
from common.diffusion.model_file import build_denoiser, load_weights, read_description, read_weights, save_model
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
        uniform = np.array(
            [
                np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, _SIZE_STREAM))).random()
                for index in range(start, start + count)
            ]
        )
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

    denoiser: Denoiser
    codec: MoleculeCodec
    size_law: SizeLaw
    sampler: Sampler
    description: Mapping[str, Any]

    @classmethod
    def create(cls, description: Mapping[str, Any]) -> MoleculeModel:
        """An untrained model from a description as `model.json` holds it."""
        denoiser = build_denoiser(description, NETWORKS, MOLECULE_PARAMETERISATIONS)
        return cls(
            denoiser=denoiser,
            codec=build(MoleculeCodec, description["codec"], "codec"),
            size_law=SizeLaw(tuple(description["size_law"]["sizes"]), tuple(description["size_law"]["weights"])),
            sampler=_recommended(denoiser.process, description["sampler"]),
            description=description,
        )

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu") -> MoleculeModel:
        """The model in a folder, or in the `model` folder of a run.

        Raises:
            InputError: there is no model, or one that does not fit.
        """
        directory = model_directory(Path(directory))
        description = read_description(directory)
        if description.get("domain") != "molgen":
            raise InputError(f"{directory} is a model of {description.get('domain')!r}, expected one of 'molgen'")
        model = cls.create(description)
        load_weights(model.denoiser, read_weights(directory), str(directory))
        model.denoiser.eval().requires_grad_(False).to(device)
        return model

    def save(self, directory: str | Path) -> None:
        """Write the model folder."""
        sampler = {key: getattr(self.sampler, key) for key in ("steps", "solver", "eta", "exponent", "final_noise")}
        description = {
            **self.description,
            "domain": "molgen",
            "codec": asdict(self.codec),
            "size_law": asdict(self.size_law),
            "sampler": sampler,
        }
        save_model(Path(directory), self.denoiser.state_dict(), description)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def sample(
        self,
        count: int,
        *,
        num_atoms: int | tuple[int, int] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        eta: float | None = None,
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
            num_atoms: a number of atoms (hydrogens included), a range (low, high), or None for the data's law.
            steps: network evaluations a molecule; None for the model's recommendation.
            solver: a key of `common.diffusion.SOLVERS`; None for the model's recommendation.
            eta: noise scale of the solver in [0, 1]; None for the solver's own.
            seed: of the run.
            start: index of the first sample.
            batch_size: molecules at a time.
            precision: `float32`, or `bf16` (faster; then another batch size may change a molecule).
            progress: called with the number of molecules done after each batch.

        Raises:
            InputError: a size that the data never showed by far, or unusable options.
        """
        sampler = self._sampler(steps, solver, eta)
        sizes = self._law(num_atoms).draw(seed, start, count)
        seeds = sample_seeds(seed, start, count)
        # Similar sizes together: less padding. The order of the result is that of the indices.
        order = np.argsort(sizes, kind="stable")
        parts, done = [], 0
        for first in range(0, count, batch_size):
            batch = order[first : first + batch_size]
            mask = size_mask(torch.from_numpy(sizes[batch])).to(self.device)
            with self._precision(precision):
                state = sampler.sample(
                    self.denoiser, mask, self.codec.n_channels, SampleNoise([seeds[i] for i in batch])
                )
            parts.append(self.codec.decode(state))
            done += len(batch)
            if progress is not None:
                progress(done)
        if not parts:
            return MoleculeSet.from_molecules([])
        return MoleculeSet.concatenate(parts).select(np.argsort(order, kind="stable"))

    def generate(self, count: int, **options: Any) -> list[Chem.Mol | None]:
        """`sample`, then bonds by RDKit: molecules with a 3D conformer in Angstrom; None where no bonds fit."""
        return [found.mol for found in perceive(self.sample(count, **options))]

    def _law(self, num_atoms: int | tuple[int, int] | None) -> SizeLaw:
        if num_atoms is None:
            return self.size_law
        low, high = (num_atoms, num_atoms) if isinstance(num_atoms, int) else num_atoms
        largest = max(self.size_law.sizes)
        if not 1 <= low <= high:
            raise InputError(f"got {low} to {high} atoms, expected 1 <= low <= high")
        if high > largest:
            raise InputError(
                f"got up to {high} atoms, expected at most {largest}: the model was never shown larger molecules"
            )
        return self.size_law.restrict(low, high)

    def _sampler(self, steps: int | None, solver: str | None, eta: float | None) -> Sampler:
        try:
            return replace(
                self.sampler,
                steps=self.sampler.steps if steps is None else steps,
                solver=self.sampler.solver if solver is None else solver,
                eta=self.sampler.eta if eta is None else eta,
            )
        except ValueError as error:
            raise InputError(str(error)) from error

    def _precision(self, precision: str) -> Any:
        if precision == "float32":
            return nullcontext()
        if precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        raise InputError(f"got precision '{precision}', expected 'float32' or 'bf16'")


def _recommended(process: Process, settings: Mapping[str, Any]) -> Sampler:
    try:
        return build(Sampler, {**settings, "process": process}, "sampler")
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"sampler: {error}") from error


def model_directory(path: Path) -> Path:
    """The model folder that a path means: itself, or the `model` folder of a run directory."""
    inner = path / "model"
    return inner if inner.is_dir() else path
