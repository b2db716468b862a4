"""Control inputs for a trained denoiser: a zero-initialised branch and low-rank adapters around a frozen base.

As in CTRL's code (arXiv 2406.12120): what is asked for enters as an embedding that is added where the network's time
embedding is, zero at first, with a NULL row for "not asked"; low-rank adapters (LoRA, arXiv 2106.09685) let the frozen
layers answer. At step 0 the controlled denoiser equals its base bit for bit, for W + 0 = W and h + 0 = h.

Our choice: a sample that asks for nothing is given to the base itself, adapters off, so it stays equal to it for ever.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from common.diffusion.denoiser import Denoiser, DenoiserFunction, Parameterisation
from common.diffusion.process import Process
from common.diffusion.state import State
from common.errors import InputError
from common.named import build, nearest


@dataclass(frozen=True)
class Control:
    """Something that samples can be asked for, by `State.condition[name]`.

    Attributes:
        name: of the condition.
        classes: number of classes; 0 for a continuous value.
        mean, std: of a continuous value in the data; it is standardised by them.
    """

    name: str
    classes: int = 0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.classes < 0 or self.classes == 1 or not self.std > 0:
            raise InputError(
                f"control '{self.name}': got {self.classes} classes and std {self.std}, "
                "expected 0 (continuous) or at least 2, and above 0"
            )

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
        return values >= 0 if self.classes else ~torch.isnan(values)


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
            z = torch.where(asked, (values - self.control.mean) / self.control.std, torch.zeros_like(values))
            z = z.to(self.null.dtype)[:, None]
            # A quarter of a turn at 4 std from the mean for the lowest frequency: it tells all values apart.
            angles = z * (math.pi / 8) * z.new_tensor(self.frequencies)
            embedded = self.embed(torch.cat([z, angles.sin(), angles.cos()], dim=-1))
        return torch.where(asked[:, None], embedded, self.null)


class ControlledDenoiser(nn.Module):
    """A denoiser with control inputs, whose base stays as it is: (state_t, t) -> x0_hat.

    Args:
        base: trained; it is copied, and the copy is frozen.
        controls: what samples can be asked for.
        rank: of the adapters; every linear layer gets one whose widths are both at least that. 0 for none.
        alpha: the adapters' scale is alpha / rank; None for alpha = rank.
        site: dotted name of the submodule of the network to whose output (B, W), (B, N, W), or (number of real points,
            W) the control's embedding is added; None asks the network for its `control_site`.

    Raises:
        InputError: no such site, or controls of one name.
    """

    def __init__(
        self,
        base: Denoiser,
        controls: Sequence[Control],
        rank: int = 8,
        alpha: float | None = None,
        site: str | None = None,
    ) -> None:
        super().__init__()
        self.base = copy.deepcopy(base).requires_grad_(False)
        self.controls = tuple(controls)
        if not controls or len({control.name for control in controls}) < len(controls) or rank < 0:
            raise InputError(
                f"got controls {[control.name for control in controls]} and rank {rank}, "
                "expected at least one control, each of a name of its own, and at least 0"
            )
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.site = _find_site(self.base.network, site)
        width = _width(self.base.network.get_submodule(self.site))
        reference = next(self.base.network.parameters())
        self.branch = nn.ModuleList(_Embedding(control, width) for control in controls).to(reference)
        self._adapters = _adapt(self.base.network, rank, self.alpha)

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
        }

    def uncontrolled(self, state: State, t: Tensor) -> Tensor:
        """x0_hat (B, N, D) of the frozen base: the reference of a fine-tuning run."""
        return self.base(state, t)

    def forward(self, state: State, t: Tensor) -> Tensor:
        """x0_hat (B, N, D); samples that ask for nothing get the base's, exactly."""
        asked = torch.stack([control.asked(state) for control in self.controls]).any(dim=0)
        if not asked.any():
            return self.base(state, t)
        if asked.all():
            return self._controlled(state, t)
        some, none = asked.nonzero()[:, 0], (~asked).nonzero()[:, 0]
        parts = torch.cat([self._controlled(state.index(some), t[some]), self.base(state.index(none), t[none])])
        return parts[torch.cat([some, none]).argsort()]

    def with_strength(self, strength: float) -> DenoiserFunction:
        """The denoiser base + strength (controlled - base): 0 is the base, 1 this, above 1 more of it.

        It costs two evaluations, but for strengths 0 and 1.
        """
        if strength == 1.0:
            return self
        if strength == 0.0:
            return self.uncontrolled

        def denoiser(state: State, t: Tensor) -> Tensor:
            base = self.base(state, t)
            return base + strength * (self(state, t) - base)

        return denoiser

    def _controlled(self, state: State, t: Tensor) -> Tensor:
        embedding = torch.stack([embed(state) for embed in self.branch]).sum(dim=0)
        with self._active(_adder(embedding, state.mask)):
            return self.base(state, t)

    @contextmanager
    def _active(self, hook: Callable[[nn.Module, Any, Tensor], Tensor]) -> Iterator[None]:
        """Adapters on, and the embedding added at its site, for as long as one evaluation takes."""
        handle = self.base.network.get_submodule(self.site).register_forward_hook(hook)
        for adapter in self._adapters:
            adapter.active = True
        try:
            yield
        finally:
            handle.remove()
            for adapter in self._adapters:
                adapter.active = False


def build_controlled(base: Denoiser, settings: Mapping[str, Any]) -> ControlledDenoiser:
    """A controlled denoiser around `base` from `ControlledDenoiser.settings`; `InputError` for unusable ones."""
    settings = dict(settings)
    controls = [build(Control, control, "control") for control in settings.pop("controls", [])]
    return build(ControlledDenoiser, {**settings, "base": base, "controls": controls}, "controlled denoiser")


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
