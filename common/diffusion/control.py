"""Control inputs for a trained denoiser: a zero-initialised branch and low-rank adapters around a frozen base.

As in CTRL's code (arXiv 2406.12120): what is asked for enters as an embedding that is added where the network's time
embedding is, zero at first, with a NULL row for "not asked"; low-rank adapters (LoRA, arXiv 2106.09685) let the frozen
layers answer. At step 0 the controlled denoiser equals its base bit for bit, for W + 0 = W and h + 0 = h.

Our choices: a sample that asks for nothing is given to the base itself, adapters off, so it stays equal to it for
ever; and so is every sample at times below `active_from`. There a chain is nearly done: it decides nothing any more,
while the densities of its steps are so sharp that they would fill the gradient with noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from common.diffusion.denoiser import Denoiser, DenoiserFunction, Parameterisation
from common.diffusion.process import Process
from common.diffusion.state import State
from common.errors import InputError
from common.named import build, nearest

# Of a predictor of y: mean (B,) and std (B,) of a continuous y, or logits (B, C) of a class.
Predicted = tuple[Tensor, Tensor] | Tensor


# Of the data's geometric mean; predictions of a positive quantity that are smaller, or negative, count as this.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Control:
    """Something that samples can be asked for, by `State.condition[name]`.

    Attributes:
        name: of the condition.
        classes: number of classes; 0 for a continuous value.
        mean, std: of a continuous value in the data; it is standardised by them.
        log: of a positive value: it is its logarithm that is standardised, and that `log_prob` is about. For what
            ranges over orders of magnitude, such as volumes: half and double are equally far off.
    """

    name: str
    classes: int = 0
    mean: float = 0.0
    std: float = 1.0
    log: bool = False

    def __post_init__(self) -> None:
        if self.classes < 0 or self.classes == 1 or not self.std > 0:
            raise InputError(
                f"control '{self.name}': got {self.classes} classes and std {self.std}, "
                "expected 0 (continuous) or at least 2, and above 0"
            )

    @classmethod
    def of_values(cls, name: str, values: Tensor, log: bool = False) -> Control:
        """A continuous one, standardised by the values (M,) that data have of it.

        Raises:
            InputError: `log`, and a value is not positive; or all are the same.
        """
        if values.min() == values.max():
            raise InputError(
                f"control '{name}': all of its {len(values)} known values are {float(values[0]):g}, so that there is "
                "nothing to learn; give data that differ in it"
            )
        if log and not (values > 0).all():
            raise InputError(
                f"control '{name}': got a tolerance in per cent, but its data have values from {float(values.min()):g} "
                "on, of which a share says nothing; give a number"
            )
        values = values.log() if log else values
        return cls(name, mean=float(values.mean()), std=float(values.std()), log=log)

    def standardised(self, values: Tensor) -> Tensor:
        """Continuous values of any shape on a scale on which those of the data have mean 0 and standard deviation 1."""
        return ((values.log() if self.log else values) - self.mean) / self.std

    def nothing(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """(count,) values that ask for nothing: NaN, or -1 for classes."""
        if self.classes:
            return torch.full((count,), -1, dtype=torch.long, device=device)
        return torch.full((count,), torch.nan, device=device)

    def asked(self, state: State) -> Tensor:
        """(B,) bool: which samples ask for it."""
        values = state.condition.get(self.name)
        if values is None:
            return torch.zeros(len(state), dtype=torch.bool, device=state.x.device)
        if self.classes and (values >= self.classes).any():
            raise InputError(f"control '{self.name}': got class {int(values.max())}, expected below {self.classes}")
        if self.log and (values <= 0).any():
            raise InputError(f"control '{self.name}': got {float(values[values <= 0][0]):g}, expected more than 0")
        return values >= 0 if self.classes else ~torch.isnan(values)

    def log_prob(self, state: State, predicted: Predicted, scale: float = 1.0, tolerance: float = 0.0) -> Tensor:
        """(B,) log p(y | x) for y in the state's condition, or log p(log y | x) under `log`; 0 where nothing is asked.

        Args:
            state: B states.
            predicted: of them; mean and std of y itself.
            scale: calibration: factor of the std, or temperature of the logits.
            tolerance: of a continuous y: a std that is added, in squares, to the predictor's; under `log` a share of y.
        """
        asked = self.asked(state)
        self._check(predicted)
        if not asked.any():
            return (predicted if isinstance(predicted, Tensor) else predicted[0]).new_zeros(len(state))
        wanted = state.condition[self.name]
        if isinstance(predicted, Tensor):
            all_classes = (predicted / scale).log_softmax(dim=-1)
            found = all_classes.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
        else:
            mean, std = self._normal(predicted, scale, tolerance)
            wanted = wanted.to(mean.dtype)
            # A blank stands in for what is not asked, so that no NaN enters the gradient.
            target = torch.where(asked, wanted.log() if self.log else wanted, mean.detach())
            found = torch.distributions.Normal(mean, std, validate_args=False).log_prob(target)
        return torch.where(asked, found, torch.zeros_like(found))

    def draw(
        self,
        predicted: Predicted,
        generator: torch.Generator,
        scale: float = 1.0,
        tolerance: float = 0.0,
        power: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """What samples might have been asked for: y (B,) drawn from p(y | x)^power, normalised, and log densities (B,).

        Densities are of log y under `log`. Where a prediction is not finite y asks for nothing, at an infinite one.

        Args:
            predicted: of B states, and scale, tolerance: see `log_prob`.
            generator: on the CPU.
            power: sharpens the law above 1.
        """
        self._check(predicted)
        if isinstance(predicted, Tensor):
            usable = torch.isfinite(predicted).all(dim=-1)
            logits = torch.where(usable[:, None], predicted, torch.zeros_like(predicted)) * power / scale
            law = logits.log_softmax(dim=-1)
            y = torch.multinomial(law.exp().cpu(), 1, generator=generator)[:, 0].to(law.device)
            log_density = law.gather(1, y[:, None])[:, 0]
        else:
            mean, std = self._normal(predicted, scale, tolerance)
            std = std / math.sqrt(power)
            y = mean + std * torch.randn(len(mean), generator=generator, dtype=mean.dtype).to(mean.device)
            log_density = torch.distributions.Normal(mean, std, validate_args=False).log_prob(y)
            y = y.exp() if self.log else y
            usable = torch.isfinite(y) & torch.isfinite(log_density)
        nothing = self.nothing(len(y), y.device).to(y.dtype)
        return torch.where(usable, y, nothing), torch.where(usable, log_density, torch.full_like(log_density, math.inf))

    def _check(self, predicted: Predicted) -> None:
        if isinstance(predicted, Tensor) != bool(self.classes):
            given, kind = ("logits", "continuous") if isinstance(predicted, Tensor) else ("mean and std", "a class")
            raise InputError(f"control '{self.name}' is {kind}, but its predictor gives {given}")

    def _normal(self, predicted: tuple[Tensor, Tensor], scale: float, tolerance: float) -> tuple[Tensor, Tensor]:
        """Mean and std (B,) of y, or of log y under `log`; see `log_prob`."""
        mean, std = predicted[0], predicted[1] * scale
        if self.log:
            # To first order; a prediction that is not positive is no more than very small.
            mean = mean.clamp(min=_LEAST_SHARE * math.exp(self.mean))
            mean, std, tolerance = mean.log(), std / mean, math.log1p(tolerance)
        if tolerance:
            std = torch.hypot(std, torch.as_tensor(tolerance).to(std))
        return mean, std


class LowRank(nn.Module):
    """W -> W + (alpha / rank) B A for a weight W (out, in), while `active`; B starts at zero (arXiv 2106.09685)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self.scale = alpha / rank
        self.active = False
        self.down = nn.Parameter(torch.randn(rank, n_in, dtype=weight.dtype, device=weight.device) / math.sqrt(n_in))
        self.up = nn.Parameter(torch.zeros(n_out, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return weight + self.scale * (self.up @ self.down) if self.active else weight


class _Embedding(nn.Module):
    """One control -> (B, width), zero at first; its NULL row is learnt, for where other controls are asked."""

    def __init__(self, control: Control, width: int, hidden: int = 64, n_frequencies: int = 6) -> None:
        super().__init__()
        self.control = control
        self.null = nn.Parameter(torch.zeros(width))
        self.frequencies = [2.0**k for k in range(n_frequencies)]
        if control.classes:
            self.embed: nn.Module = nn.Embedding(control.classes, width)
            nn.init.zeros_(self.embed.weight)  # type: ignore[arg-type]
        else:
            last = nn.Linear(hidden, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.embed = nn.Sequential(nn.Linear(1 + 2 * n_frequencies, hidden), nn.SiLU(), last)

    def forward(self, state: State) -> Tensor:
        asked = self.control.asked(state)
        values = state.condition.get(self.control.name)
        if values is None:
            return self.null.expand(len(state), -1)
        if self.control.classes:
            embedded = self.embed(values.clamp(min=0))
        else:
            z = torch.where(asked, self.control.standardised(values), torch.zeros_like(values))
            z = z.to(self.null.dtype)[:, None]
            # A quarter of a turn at 4 std from the mean for the lowest frequency: it tells all values apart.
            angles = z * (math.pi / 8) * z.new_tensor(self.frequencies)
            embedded = self.embed(torch.cat([z, angles.sin(), angles.cos()], dim=-1))
        return torch.where(asked[:, None], embedded, self.null)


class ControlledDenoiser(nn.Module):
    """A denoiser with control inputs, whose base stays as it is: (state_t, t) -> x0_hat.

    Without controls it is the base with adapters, which act on every sample.

    Args:
        base: trained; it is copied, and the copy is frozen.
        controls: what samples can be asked for.
        rank: of the adapters; every linear layer gets one whose widths are both at least that. 0 for none.
        active_from: time from which, towards noise, control and adapters act.
        alpha: the adapters' scale is alpha / rank; None for alpha = rank.
        site: dotted name of the submodule of the network to whose output (B, W), (B, N, W), or (number of real points,
            W) the control's embedding is added; None asks the network for its `control_site`.

    Raises:
        InputError: no such site, controls of one name, or a rank that no layer is wide enough for.
    """

    def __init__(
        self,
        base: Denoiser,
        controls: Sequence[Control],
        rank: int = 8,
        alpha: float | None = None,
        site: str | None = None,
        active_from: float = 0.0,
    ) -> None:
        super().__init__()
        self.base = copy.deepcopy(base).requires_grad_(False)
        self.controls = tuple(controls)
        names = [control.name for control in controls]
        if len(set(names)) < len(names):
            raise InputError(f"got the controls {', '.join(names)}, expected each of them once")
        if rank < 0 or not (names or rank):
            raise InputError(f"got rank {rank} and {len(names)} controls, expected a rank above 0, or controls")
        if not 0 <= active_from < 1:
            raise InputError(f"got active_from {active_from}, expected a time from 0 to below 1, which is noise")
        self.active_from = active_from
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.site = _find_site(self.base.network, site) if controls else None
        reference = next(self.base.network.parameters())
        self.branch = nn.ModuleList()
        if self.site is not None:
            width = _width(self.base.network.get_submodule(self.site))
            self.branch.extend(_Embedding(control, width).to(reference) for control in controls)
        self.adapters = _adapt(self.base.network, rank, self.alpha)
        if rank and not self.adapters:
            widths = [min(m.weight.shape) for m in self.base.network.modules() if isinstance(m, nn.Linear)]
            raise InputError(f"got rank {rank}, expected at most {max(widths, default=0)}, as wide as a layer is")

    @property
    def process(self) -> Process:
        """See `Denoiser`."""
        return self.base.process

    @property
    def parameterisation(self) -> Parameterisation:
        """See `Denoiser`."""
        return self.base.parameterisation

    @property
    def network(self) -> nn.Module:
        """See `Denoiser`: the base's network, adapters off."""
        return self.base.network

    def settings(self) -> dict[str, Any]:
        """What `build_controlled` needs to make this again around the same base."""
        return {
            "controls": [asdict(control) for control in self.controls],
            "rank": self.rank,
            "alpha": self.alpha,
            "site": self.site,
            "active_from": self.active_from,
        }

    def uncontrolled(self, state: State, t: Tensor) -> Tensor:
        """x0_hat (B, N, D) of the frozen base: the reference of a fine-tuning run."""
        return self.base(state, t)

    def forward(self, state: State, t: Tensor) -> Tensor:
        """x0_hat (B, N, D); samples that ask for nothing, or are past `active_from`, get the base's, exactly."""
        asked = t >= self.active_from
        if self.controls:
            asked = asked & torch.stack([control.asked(state) for control in self.controls]).any(dim=0)
        if not asked.any():
            return self.base(state, t)
        if asked.all():
            return self._controlled(state, t)
        some, none = asked.nonzero()[:, 0], (~asked).nonzero()[:, 0]
        parts = torch.cat([self._controlled(state.index(some), t[some]), self.base(state.index(none), t[none])])
        return parts[torch.cat([some, none]).argsort()]

    def with_strength(self, strength: float) -> DenoiserFunction:
        """The denoiser base + strength (controlled - base): 0 is the base, 1 this, above 1 more of it.

        It costs two evaluations, but for strengths 0 and 1: see `evaluations_with`.
        """
        if strength == 1.0:
            return self
        if strength == 0.0:
            return self.uncontrolled
        return _Strengthened(self, strength)

    def _controlled(self, state: State, t: Tensor) -> Tensor:
        with self._active(state):
            return self.base(state, t)

    @contextmanager
    def _active(self, state: State) -> Iterator[None]:
        """Adapters on, and the embedding added at its site, for as long as one evaluation takes."""
        handle = None
        if self.site is not None:
            embedding = torch.stack([embed(state) for embed in self.branch]).sum(dim=0)
            hook = _adder(embedding, state.mask)
            handle = self.base.network.get_submodule(self.site).register_forward_hook(hook)
        for adapter in self.adapters:
            adapter.active = True
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
            for adapter in self.adapters:
                adapter.active = False


def build_controlled(base: Denoiser, settings: Mapping[str, Any]) -> ControlledDenoiser:
    """A controlled denoiser around `base` from `ControlledDenoiser.settings`; `InputError` for unusable ones."""
    settings = dict(settings)
    controls = [build(Control, control, "control") for control in settings.pop("controls", [])]
    return build(ControlledDenoiser, {**settings, "base": base, "controls": controls}, "controlled denoiser")


def without_adapters(denoiser: Denoiser | ControlledDenoiser) -> Denoiser:
    """A copy of the denoiser as it was before it got control inputs, or of one that has none."""
    plain = copy.deepcopy(denoiser.base if isinstance(denoiser, ControlledDenoiser) else denoiser)
    for module in list(plain.network.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    return plain


def _adapt(network: nn.Module, rank: int, alpha: float) -> list[LowRank]:
    """Adapters on all linear layers that are wide enough, found by type alone, so that any network will do."""
    adapters = []
    for module in list(network.modules()):
        if isinstance(module, nn.Linear) and 0 < rank <= min(module.weight.shape):
            adapter = LowRank(module.weight, rank, alpha)
            parametrize.register_parametrization(module, "weight", adapter)
            adapters.append(adapter)
    return adapters


def _adder(embedding: Tensor, mask: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A forward hook that adds the embedding (B, W) of each sample to (B, W), (B, N, W) or (real points, W)."""

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        added = embedding.to(output.dtype)
        if output.ndim == 3:
            return output + added[:, None]
        if len(output) == len(added):
            return output + added
        return output + added.repeat_interleave(mask.sum(dim=1), dim=0)

    return add


def _find_site(network: nn.Module, site: str | None) -> str:
    site = getattr(network, "control_site", None) if site is None else site
    names = [name for name, module in network.named_modules() if name and _width_or_none(module) is not None]
    if site is None or site not in names:
        raise InputError(
            f"got control site {site!r}{nearest(str(site), names)}; expected a submodule of {type(network).__name__} "
            f"that ends in a linear layer, as its time embedding does: {', '.join(names[:12])}"
        )
    return site


def _width(module: nn.Module) -> int:
    width = _width_or_none(module)
    if width is None:
        raise InputError(f"{type(module).__name__} does not end in a linear layer")
    return width


def _width_or_none(module: nn.Module) -> int | None:
    """The width of what a linear layer, or a sequence with one in it, gives."""
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if isinstance(module, nn.Linear | nn.Sequential) and linear else None


def controls_of(denoiser: nn.Module) -> tuple[Control, ...]:
    """What samples of a denoiser can be asked for; nothing for one without control inputs."""
    return denoiser.controls if isinstance(denoiser, ControlledDenoiser) else ()


@dataclass(frozen=True)
class _Strengthened:
    """See `ControlledDenoiser.with_strength`."""

    denoiser: ControlledDenoiser
    strength: float

    @property
    def evaluations_each(self) -> int:
        """Of the network, for each sample that it sees: see `Counted`."""
        return evaluations_with(self.strength)

    def __call__(self, state: State, t: Tensor) -> Tensor:
        base = self.denoiser.base(state, t)
        return base + self.strength * (self.denoiser(state, t) - base)


def evaluations_with(strength: float) -> int:
    """Network evaluations of a controlled denoiser at a strength."""
    return 1 if strength in (0.0, 1.0) else 2


def with_strength(denoiser: Denoiser | ControlledDenoiser, strength: float) -> DenoiserFunction:
    """See `ControlledDenoiser.with_strength`; an `InputError` for a denoiser without control inputs."""
    if isinstance(denoiser, ControlledDenoiser):
        return denoiser.with_strength(strength)
    if strength != 1.0:
        raise InputError(f"got strength {strength}, but this model has no control inputs; leave it out")
    return denoiser


def asked_for(
    controls: Sequence[Control], targets: Mapping[str, float | np.ndarray], count: int
) -> dict[str, Tensor]:  # fmt: skip
    """Conditions (count,) for samples that are asked for `targets`; nothing for controls left out.

    Args:
        controls: of the model.
        targets: name -> a value for all samples, or (count,) one for each.
        count: of samples.

    Raises:
        InputError: a target for which there is no control, or no such class of one.
    """
    known = {control.name: control for control in controls}
    for name in targets:
        if name not in known:
            names = f"its control inputs are {', '.join(known)}" if known else "it has no control inputs"
            raise InputError(f"the model cannot be asked for '{name}'{nearest(name, known)}: {names}")
    asked = {name: control.nothing(count) for name, control in known.items()}
    for name, value in targets.items():
        values, classes = torch.as_tensor(value), known[name].classes
        if classes and not ((values == values.round()) & (values >= 0) & (values < classes)).all():
            raise InputError(f"got {name}={value}, expected a class, a whole number from 0 to {classes - 1}")
        asked[name].copy_(values)
    return asked
