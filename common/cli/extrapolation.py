"""What the verb `extrapolate` of both commands shares: a model moved away from a weaker one, in its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb
from common.cli.options import argument, option
from common.errors import InputError

if TYPE_CHECKING:
    from common.training.pretrain import TrainableModel

logger = logging.getLogger(__name__)

# Trainings from nothing end about sqrt(2) apart, a short one from given weights a tenth of their norm away.
_FAR = 0.5


@dataclass(frozen=True, kw_only=True)
class ExtrapolationOptions(CommonOptions):
    """Options of `extrapolate` in both domains."""

    base: str = argument("the model to move: a shipped model, a model folder, or a run directory")
    weaker: str = option(
        "", "what it is moved away from: a model trained from its weights, on what it gets wrong (train --where)"
    )
    scale: float = option(
        0.25, "how far, in units of the way from the weaker model; from -1 to 0 towards it", at_least=-1
    )
    name: str = option("", "name of the model (default: NAME-extrapolated)")
    output_dir: str = option("", "run directory (default: runs/NAME)")
    overwrite: bool = option(False, "replace an existing run directory")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        if not self.weaker:
            raise InputError("nothing to move away from; give --weaker MODEL, trained from the weights of the base")


def extrapolation_verb(program: str, load: Callable[[], Callable[[str], TrainableModel]]) -> Verb:
    """The verb of a domain; `load` gives its function name or folder -> model when the verb runs (it imports torch)."""
    return Verb(
        "extrapolate",
        "move a model away from a weaker one, in its weights",
        ExtrapolationOptions,
        lambda options: run_extrapolation(options, program, load()),
    )


def run_extrapolation(
    options: ExtrapolationOptions, program: str, load: Callable[[str], TrainableModel]
) -> dict[str, Any]:
    """Move the weights and write the model.

    Args:
        options: checked.
        program: the command, for what is printed.
        load: name or folder -> model.

    Raises:
        InputError: the models have other states or networks; or a run directory that cannot be used.
    """
    from common.cli.run_directory import RunDirectory
    from common.diffusion.extrapolation import extrapolate, relative_distance
    from common.diffusion.model_file import check_states, load_weights, weights_digest

    model, weaker = load(options.base), load(options.weaker)
    check_states(model.description, weaker.description, options.weaker, "take one that was trained from its weights")
    own, theirs = model.denoiser.state_dict(), weaker.denoiser.state_dict()
    moved = extrapolate(own, theirs, options.scale)
    distance = relative_distance(own, theirs)
    if distance > _FAR:
        logger.warning(
            "the weights of %s are %.2f of their norm away: it was not trained from those of %s, so what lies beyond "
            "is hardly a model",
            options.weaker, distance, options.base,
        )  # fmt: skip
    facts = {"base_hash": weights_digest(model.denoiser), "weaker_hash": weights_digest(weaker.denoiser)}
    load_weights(model.denoiser, moved, options.base)
    name = options.name or f"{model.description['name']}-extrapolated"
    described = {key: value for key, value in model.description.items() if key not in ("quality", "licence")}
    origin = {"model": options.base, "weaker": options.weaker, "scale": options.scale}
    model.description = {**described, "name": name, "extrapolation": origin}
    path = options.output_dir or f"runs/{name}"
    with RunDirectory.begin(path, "extrapolate", options) as directory:
        directory.record(options, distance=distance, **facts)
        model.save(directory / "model")
    if not options.json:
        print(f"{name}: {options.scale:g} of the way from {options.weaker} on, which is {distance:.3f} of its weights")
        print(f"  model       {directory / 'model'}")
        print(f"  generate    {program} generate {path}")
    return {"output_dir": str(path), "name": name, "distance": distance}
