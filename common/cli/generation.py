"""What the verb `generate` of both commands shares: its options, and samples made part by part, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from common.cli.app import CommonOptions
from common.cli.options import argument, option
from common.errors import InputError

if TYPE_CHECKING:
    from common.rewards.conditions import Find

logger = logging.getLogger(__name__)

# What may differ when a generation is resumed: none of it changes a sample.
FREE_ON_RESUME = {"num_samples", "batch_size", "device", "output_dir", "workers", "allow_partial", "pictures", "config",
                  "overwrite"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(CommonOptions):
    """Options of `generate` in both domains."""

    model: str = argument("name of a shipped model, a model folder, or a run directory")
    num_samples: int = option(16, "number of samples")
    target: list[str] = option(
        [], "what samples are asked for, may be repeated: gap=4.5 for a model with that control input"
    )
    strength: float = option(1.0, "how strongly control inputs act: 0 is the base, above 1 more than was trained")
    steps: int | None = option(None, "network evaluations a sample (default: the model's recommendation)")
    solver: str | None = option(None, "ancestral, ddim, dpm2 or sde-dpm2 (default: the model's recommendation)")
    eta: float | None = option(None, "noise scale of the solver, 0 (deterministic) to 1")
    seed: int = option(0, "seed; the same seed gives the same samples, whatever the batch size")
    batch_size: int = option(128, "samples at a time")
    device: str = option("auto", "auto, cpu, cuda or mps")
    precision: Literal["float32", "bf16", "auto"] = option("float32", "arithmetic of the network")
    output_dir: str = option("", "run directory (default: runs/MODEL-seedSEED)")
    resume: bool = option(False, "go on with the samples of an interrupted run")
    overwrite: bool = option(False, "replace an existing run directory")
    allow_partial: bool = option(False, "exit with 0 when interrupted with fewer samples than asked")
    workers: int | None = option(None, "processes for the checks (default: one a core)")

    def check(self) -> None:
        """Raise `InputError` for numbers out of range."""
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"got --{name.replace('_', '-')} {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise InputError(f"got --seed {self.seed}, expected a number from 0 on")


def control_targets(texts: Sequence[str], find: Find) -> dict[str, float]:
    """Name of a control -> what is asked for, from `--target`; a class is its index.

    Raises:
        InputError: a text that does not ask for one value.
    """
    from common.rewards.conditions import parse
    from common.rewards.goals import Category, Target

    targets: dict[str, float] = {}
    for condition in parse(texts, find) if texts else ():
        goal = condition.goal
        if isinstance(goal, Target):
            targets[condition.quantity.name] = goal.value
        elif isinstance(goal, Category) and goal.index is not None:
            targets[condition.quantity.name] = goal.index
        else:
            name, labels = condition.quantity.name, condition.quantity.categories
            expected = f"{name}=NAME with one of {', '.join(labels)}" if labels else f"a value such as {name}=..."
            raise InputError(f"got --target '{condition.text}', expected {expected}")
    return targets


class SampleSet(Protocol):
    """Samples of a domain, as this module needs them."""

    def __len__(self) -> int: ...


Samples = TypeVar("Samples", bound=SampleSet)


def sample_in_parts(
    folder: Path,
    num_samples: int,
    part_size: int,
    *,
    make: Callable[[int, int, Callable[[int], None]], Samples],
    save: Callable[[Samples, Path], None],
    load: Callable[[Path], Samples],
) -> list[Samples]:
    """All samples as parts, each on disk as soon as it is made; fewer of them after Ctrl-C.

    Args:
        folder: part k, with the samples k * part_size, ..., lies there as `k.npz`; what is there is not made again.
        num_samples: of all parts.
        part_size: samples a part.
        make: (start, count, progress) -> samples start, ..., start + count - 1.
        save, load: a part to and from disk; a part is used as it was loaded, so that a resumed run has the same.
    """
    folder.mkdir(exist_ok=True)
    parts: list[Samples] = []
    try:
        for start in range(0, num_samples, part_size):
            count = min(part_size, num_samples - start)
            path = folder / f"{start // part_size:06d}.npz"
            part = load(path) if path.exists() else None
            if part is None or len(part) < count:
                save(make(start, count, _progress(start, num_samples)), path)
                part = load(path)
            parts.append(part)
    except KeyboardInterrupt:
        logger.info("interrupted; %d samples are kept", sum(map(len, parts)))
    return parts


def _progress(start: int, total: int) -> Callable[[int], None]:
    began = time.monotonic()

    def report(done: int) -> None:
        rate = done / max(time.monotonic() - began, 1e-9)
        logger.info("%d/%d samples, %.1f a second", start + done, total, rate)

    return report
