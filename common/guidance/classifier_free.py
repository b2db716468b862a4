"""`ClassifierFree`: guidance by a model that knows the condition and its absence (arXiv 2207.12598, eq. 6).

    x0_hat = null + scale (conditional - null)

Scale 0 is the model without its condition, 1 the conditional model, above 1 more of the condition than the model has
learnt (the paper's w is scale - 1). In p_t(x_t) p_t(c | x_t)^scale the classifier is the model's own.

Known bias: for scales other than 1 the chain has no exact law; it contracts to where the condition is surest.

Cost: two evaluations a step, but for scales 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.diffusion import DenoiserFunction, State
from common.diffusion.control import ControlledDenoiser
from common.errors import InputError
from common.guidance.tilt import require_scale

Null = Callable[[State], State]


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance.

    Attributes:
        null: states -> the same with nothing asked; see `null_of`.
        scale: as above.
    """

    null: Null
    scale: float = 1.0

    # Nothing is asked then, where the model as it is asks for all.
    acts_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def __call__(self, denoiser: DenoiserFunction) -> DenoiserFunction:
        """The guided denoiser."""
        if self.scale == 1:
            return denoiser

        def guided(state: State, t: Tensor) -> Tensor:
            without = denoiser(self.null(state), t)
            return without if self.scale == 0 else without + self.scale * (denoiser(state, t) - without)

        return guided


def null_of(denoiser: DenoiserFunction, *names: str) -> Null:
    """How nothing is asked of a model.

    Args:
        denoiser: a `ControlledDenoiser`, of which no control is asked then; or one whose network takes a `context`, of
            which zeros mean "no condition".
        names: of controls; only these are left out. None for all.

    Raises:
        InputError: a control that the model does not have.
    """
    if not isinstance(denoiser, ControlledDenoiser):
        if names:
            raise InputError(f"got controls {', '.join(names)}, but this model has none")
        return _without_context
    known = [control.name for control in denoiser.controls]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"got controls {', '.join(unknown)}, expected some of {', '.join(known)}")
    dropped = set(names or known)

    def without_controls(state: State) -> State:
        return state.replace(condition={name: v for name, v in state.condition.items() if name not in dropped})

    return without_controls


def _without_context(state: State) -> State:
    context = state.condition.get("context")
    if context is None:
        raise InputError("classifier-free guidance needs a model with a condition, and a condition that is asked for")
    return state.replace(condition={**state.condition, "context": torch.zeros_like(context)})
