"""`ShapeModel`: a trained generator of point clouds, whole: network, process, codec, classes, recommended sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from common.diffusion import Denoiser, Sampler, build_sampler, sample_normals, sample_uniforms
from common.diffusion.control import Control, ControlledDenoiser, asked_for, controls_of, with_strength
from common.diffusion.generation import StateSampler, generate_states
from common.diffusion.model_file import build_denoiser, load_weights, read_model, save_model
from common.errors import InputError
from common.named import build, nearest
from shapegen.data.codec import ShapeCodec
from shapegen.data.shapes import ShapeSet
from shapegen.models import NETWORKS, PointwiseMLP

# The streams of a sample's class and latent are apart from that of its noise.
_CLASS_STREAM, _LATENT_STREAM = 1, 2
MAX_POINTS = 1_000_000


@dataclass
class ShapeModel:
    """A generator of shapes.

    Attributes:
        denoiser: the network with its process.
        codec: shapes <-> states; it knows the names of the classes.
        class_law: (C,) relative frequency of each class in the training data; empty for a model without classes.
        sampler: the recommended one.
        description: everything else that `model.json` holds (name, data, licence, measured quality, ...).
    """

    denoiser: Denoiser | ControlledDenoiser
    codec: ShapeCodec
    class_law: tuple[float, ...]
    sampler: Sampler
    description: Mapping[str, Any]

    @classmethod
    def create(cls, description: Mapping[str, Any]) -> ShapeModel:
        """An untrained model from a description as `model.json` holds it."""
        denoiser = build_denoiser(description, NETWORKS)
        return cls(
            denoiser=denoiser,
            codec=build(ShapeCodec, description["codec"], "codec"),
            class_law=tuple(description["class_law"]),
            sampler=build_sampler(denoiser.process, description["sampler"]),
            description=description,
        )

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu") -> ShapeModel:
        """The model in a folder, or in the `model` folder of a run.

        Raises:
            InputError: there is no model, or one that does not fit.
        """
        description, weights = read_model(Path(directory), "shapegen")
        model = cls.create(description)
        load_weights(model.denoiser, weights, str(directory))
        model.denoiser.eval().requires_grad_(False).to(device)
        return model

    def save(self, directory: str | Path) -> None:
        """Write the model folder."""
        description = {
            **self.description,
            "domain": "shapegen",
            "codec": asdict(self.codec),
            "class_law": list(self.class_law),
            "sampler": self.sampler.settings(),
        }
        save_model(Path(directory), self.denoiser.state_dict(), description)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that can be asked for; none for a model without classes."""
        return self.codec.class_names if self.class_law else ()

    @property
    def controls(self) -> tuple[Control, ...]:
        """What shapes can be asked for beside their class; nothing for a model without control inputs."""
        return controls_of(self.denoiser)

    def sample(
        self,
        count: int,
        *,
        points: int = 2048,
        class_name: str | None = None,
        targets: Mapping[str, float] | None = None,
        strength: float = 1.0,
        steps: int | None = None,
        solver: str | None = None,
        eta: float | None = None,
        exponent: float | None = None,
        sampler: StateSampler | None = None,
        seed: int = 0,
        start: int = 0,
        batch_size: int = 32,
        precision: str = "float32",
        progress: Callable[[int], None] | None = None,
    ) -> ShapeSet:
        """Samples `start` ... `start + count - 1` of the run with `seed`, in that order.

        A sample depends on (seed, its index) alone, up to float rounding: neither on `count` nor on `batch_size`.

        Args:
            count: number of shapes.
            points: points a shape; any number, also beyond that of training.
            class_name: the class of all of them; None draws each from the classes of the training data.
            targets: name of a control -> what is asked of all shapes, in the control's unit.
            strength: of the controls: 0 is the base, above 1 more than was trained.
            steps: network evaluations a shape; None for the model's recommendation.
            solver: a key of `common.diffusion.SOLVERS`; None for the model's recommendation.
            eta: noise scale of the solver in [0, 1]; None for the solver's own.
            exponent: of the times, see `Sampler`; None for the model's recommendation.
            sampler: what draws the states instead, such as a `common.guidance.GuidedSampler`; then steps, solver,
                eta and exponent are its own.
            seed: of the run.
            start: index of the first sample.
            batch_size: shapes at a time.
            precision: `float32`, or `bf16` (faster; then another batch size may change a shape).
            progress: called with the number of shapes done after each batch.

        Raises:
            InputError: an unknown class, a target without a control, or unusable options.
        """
        if not 1 <= points <= MAX_POINTS:
            raise InputError(f"got {points} points, expected 1 to {MAX_POINTS}")
        index = self.classes(class_name, seed, start, count)
        condition = {**self.condition(index, seed, start), **asked_for(self.controls, targets or {}, count)}
        batches = generate_states(
            with_strength(self.denoiser, strength), sampler or self.sampler.adjusted(steps, solver, eta, exponent),
            np.full(count, points), self.codec.n_channels, device=self.device, seed=seed, start=start,
            batch_size=batch_size, precision=precision, condition=condition, progress=progress,
        )  # fmt: skip
        found = np.empty((count, points, 3), np.float32)
        for places, state in batches:
            found[places] = self.codec.points_of(state.x)
        return ShapeSet(found, index, self.class_names or ("shape",), self.codec.unit)

    def generate(self, count: int, **options: Any) -> list[trimesh.PointCloud]:
        """`sample` as trimesh point clouds in the unit of the training data."""
        shapes = self.sample(count, **options)
        unit = None if shapes.unit == "unitless" else shapes.unit
        return [trimesh.PointCloud(points, metadata={"units": unit}) for points in shapes.points]

    @torch.no_grad()
    def condition(self, class_index: np.ndarray, seed: int = 0, start: int = 0) -> dict[str, torch.Tensor]:
        """What the samples `start`, ... of the run with `seed` are asked for: a row for each (M,) class index.

        `context` holds the class, for a model with classes; `latent` a draw from the prior, for a network with one.
        """
        rows: dict[str, torch.Tensor] = {}
        if self.class_law:
            rows["context"] = one_hot(class_index, len(self.class_law)).to(self.device)
        network = self.denoiser.network
        if isinstance(network, PointwiseMLP):
            noise = sample_normals(seed, start, len(class_index), _LATENT_STREAM, network.n_latent)
            rows["latent"] = network.draw_latent(torch.from_numpy(noise).to(self.device), rows.get("context"))
        return rows

    def classes(self, name: str | None, seed: int, start: int, count: int) -> np.ndarray:
        """(count,) class index of the samples start, ... of the run with `seed`: `name`, or drawn if that is None.

        Raises:
            InputError: no such class.
        """
        names = self.class_names
        if name is not None and name not in names:
            known = f"expected one of {', '.join(names)}" if names else "but this model has no classes"
            raise InputError(f"got class '{name}'{nearest(name, names)}, {known}")
        if name is not None:
            return np.full(count, names.index(name))
        if not names:
            return np.zeros(count, np.int64)
        cumulative = np.cumsum(self.class_law) / np.sum(self.class_law)
        uniform = sample_uniforms(seed, start, count, _CLASS_STREAM)
        return np.searchsorted(cumulative, uniform, side="right").clip(max=len(names) - 1)


def one_hot(index: np.ndarray, n_classes: int) -> torch.Tensor:
    """(M, n_classes) float32 condition of class indices (M,)."""
    return torch.nn.functional.one_hot(torch.from_numpy(index), n_classes).float()
