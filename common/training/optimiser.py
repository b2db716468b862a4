"""Optimiser and learning-rate schedule by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from common.errors import InputError
from common.training.muon import BatchedMuon


@dataclass(frozen=True)
class OptimiserConfig:
    """What updates the weights.

    Attributes:
        name: `adamw` (arXiv 1711.05101) or `muon` (matrices by orthogonalised momentum, the rest by AdamW).
        learning_rate: of AdamW, after warm-up.
        muon_learning_rate: of Muon's matrices; each update has about unit spectral norm.
        weight_decay: decoupled.
        warmup_steps: linear ramp from zero.
        decay_fraction: share of the run, at its end, over which the rate falls linearly to zero; 1 starts at once.
            A constant rate with a late decay lets a run be prolonged from any checkpoint before the decay.
        gradient_clip: norm above which gradients are scaled down; 0 for none.
        momentum: share of the last direction that is kept; 0.0 where two networks chase each other. None: 0.9 of
            AdamW, 0.95 of Muon.
        companion_factor: learning rates of what is trained beside the denoiser (a value function, an auxiliary
            denoiser), over those of the denoiser (two time scales, arXiv 1706.08500).
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_fraction: float = 0.3
    gradient_clip: float = 1.0
    momentum: float | None = None
    companion_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise InputError(f"got optimiser '{self.name}', expected one of {', '.join(OPTIMISERS)}")
        for name in ("learning_rate", "muon_learning_rate", "companion_factor"):
            if not getattr(self, name) > 0:
                raise InputError(f"got optimiser {name} {getattr(self, name)}, expected more than 0")
        for name in ("weight_decay", "warmup_steps", "decay_fraction", "gradient_clip"):
            if not getattr(self, name) >= 0:
                raise InputError(f"got optimiser {name} {getattr(self, name)}, expected at least 0")
        if self.decay_fraction > 1:
            raise InputError(
                f"got optimiser decay_fraction {self.decay_fraction}, expected a share of the steps, 0 to 1"
            )
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise InputError(f"got optimiser momentum {self.momentum}, expected 0 up to, but not, 1")

    def for_companions(self) -> OptimiserConfig:
        """These settings for what is trained beside the denoiser."""
        return replace(
            self,
            learning_rate=self.companion_factor * self.learning_rate,
            muon_learning_rate=self.companion_factor * self.muon_learning_rate,
        )

    def factor(self, step: int, max_steps: int) -> float:
        """Learning rate at `step` of `max_steps`, relative to its full value."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (max_steps - step) / max(1.0, self.decay_fraction * max_steps)
        return warm * min(1.0, max(0.0, left))


def _adamw(module: nn.Module, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    return [_adamw_for(list(module.parameters()), config)]


def _muon(module: nn.Module, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network; what reads inputs or writes outputs stays with AdamW.

    A module lists the latter in `edge_modules`, because Muon's equalised updates harm them (Jordan et al. 2024).
    """
    edges = {
        id(parameter)
        for submodule in module.modules()
        for name in getattr(submodule, "edge_modules", ())
        for parameter in getattr(submodule, name).parameters()
    }
    matrices = [p for p in module.parameters() if p.ndim == 2 and min(p.shape) > 1 and id(p) not in edges]
    inside = {id(p) for p in matrices}
    rest = [p for p in module.parameters() if id(p) not in inside]
    muon = BatchedMuon(
        matrices,
        lr=config.muon_learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95 if config.momentum is None else config.momentum,
        nesterov=True,
    )
    return [muon, _adamw_for(rest, config)]


def _adamw_for(parameters: list[nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    # Norm gains, biases and other vectors are not decayed.
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    momentum = 0.9 if config.momentum is None else config.momentum
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(momentum, 0.99), fused=True)


OPTIMISERS = {"adamw": _adamw, "muon": _muon}


def build_optimisers(module: nn.Module, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of `config` over all trainable parameters of `module`."""
    return OPTIMISERS[config.name](module, config)
