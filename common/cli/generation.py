"""What the verb `generate` of both commands shares: its options, and samples made part by part, resumable."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from common.atomic import write_json
from common.cli.guidance import GuidanceOptions
from common.cli.options import argument, option
from common.cli.run_directory import RunDirectory
from common.errors import IncompleteError, InputError

if TYPE_CHECKING:
    from torch import nn

    from common.cli.guidance import GuidedModel
    from common.cost import Cost
    from common.diffusion import DenoiserFunction, Sampler
    from common.diffusion.control import Control
    from common.guidance import GuidedSampler, NoisyLogWeight
    from common.rewards import Reward
    from common.rewards.conditions import Find

logger = logging.getLogger(__name__)

# What may differ when a generation is resumed: none of it changes a sample.
FREE_ON_RESUME = {"num_samples", "batch_size", "device", "output_dir", "workers", "allow_partial", "pictures", "config",
                  "overwrite"}  # fmt: skip

# Standard deviations from the mean at which a wanted value is worth a warning.
_FAR = 6.0


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(GuidanceOptions):
    """Options of `generate` in both domains."""

    model: str = argument("name of a shipped model, a model folder, or a run directory")
    num_samples: int = option(16, "number of samples", at_least=1)
    target: list[str] = option(
        [],
        "what samples are asked for, may be repeated: gap=4.5 for a model with that control input, or any reward "
        "with --guidance",
    )
    strength: float = option(1.0, "how strongly control inputs act: 0 is the base, above 1 more than was trained")
    steps: int | None = option(None, "network evaluations a sample (default: the model's recommendation)", at_least=1)
    solver: str | None = option(None, "ancestral, ddim, dpm2 or sde-dpm2 (default: the model's recommendation)")
    eta: float | None = option(None, "noise scale of the solver, 0 (deterministic) to 1")
    exponent: float | None = option(None, "above 1: more of the steps near the data (default: the model's)")
    seed: int = option(0, "seed; the same seed gives the same samples, whatever the batch size", at_least=0)
    batch_size: int = option(128, "samples at a time", at_least=1)
    device: str = option("auto", "auto, cpu, cuda or mps")
    precision: Literal["float32", "bf16", "auto"] = option("float32", "arithmetic of the network")
    output_dir: str = option("", "run directory (default: runs/MODEL-seedSEED)")
    resume: bool = option(False, "go on with the samples of an interrupted run")
    overwrite: bool = option(False, "replace an existing run directory")
    allow_partial: bool = option(False, "exit with 0 when interrupted with fewer samples than asked")
    workers: int | None = option(None, "processes for the checks (default: one a core)", at_least=1)

    def adjusted(self, sampler: Sampler) -> Sampler:
        """A model's recommended sampler with what was asked for changed; an `InputError` for what cannot be."""
        return sampler.adjusted(self.steps, self.solver, self.eta, self.exponent)


@dataclass(frozen=True)
class Asked:
    """What `--target` asks for.

    Attributes:
        inputs: name of a control input -> its value; a class is its index.
        rewards: conditions, as typed, that guidance has to meet.
        values: quantity -> the value that such a condition asks for, where it asks for one.
    """

    inputs: dict[str, float]
    rewards: list[str]
    values: dict[str, float] = field(default_factory=dict)


def read_targets(options: GenerationOptions, controls: Collection[str], find: Find) -> Asked:
    """`--target`, parted into the model's own control inputs and rewards for guidance.

    Args:
        options: with targets and guidance.
        controls: names of the model's inputs.
        find: name and argument -> quantity.

    Raises:
        InputError: a target that is neither an input of the model nor guided to, or guidance without any target.
    """
    from common.rewards.conditions import parse
    from common.rewards.goals import Category, Target

    asked = Asked({}, [])
    methods = options.guidance_methods()
    for condition in parse(options.target, find) if options.target else ():
        name, goal = condition.quantity.name, condition.goal
        if name not in controls:
            asked.rewards.append(condition.text)
            if isinstance(goal, Target):
                asked.values[name] = goal.value
        elif isinstance(goal, Target):
            asked.inputs[name] = goal.value
        elif isinstance(goal, Category) and goal.index is not None:
            asked.inputs[name] = goal.index
        else:
            labels = condition.quantity.categories
            expected = f"{name}=NAME with one of {', '.join(labels)}" if labels else f"a value such as {name}=..."
            raise InputError(f"got --target '{condition.text}', expected {expected}")
    steering = [method for method in methods if method.needs_target]
    if asked.rewards and not steering:
        own = f"its control inputs are {', '.join(controls)}" if controls else "it has no control inputs"
        raise InputError(
            f"the model cannot be asked for '{asked.rewards[0]}': {own}; --guidance smc steers any model, and finetune "
            "adds an input"
        )
    if steering and not options.target:
        raise InputError("guidance needs to know where to; give --target")
    return asked


def check_inputs(controls: Sequence[Control], inputs: Mapping[str, float]) -> None:
    """Refuse values, name of a control input -> value, that cannot be, and warn of those far from all of its data.

    Raises:
        InputError: a value that cannot be: of a positive quantity, 0 or less.
    """
    import torch

    for control in controls:
        value = inputs.get(control.name)
        if value is None or control.classes:
            continue
        if control.log and value <= 0:
            raise InputError(f"got --target {control.name}={value:g}; expected more than 0")
        if control.standardised(torch.tensor(value)).abs() <= _FAR:
            continue
        law = "mean %.3g, standard deviation %.3g" + (" of the logarithm" if control.log else "")
        logger.warning(
            f"%s = %g lies far outside of the data that the input was learnt from ({law})",
            control.name, value, control.mean, control.std,
        )  # fmt: skip


@contextmanager
def open_generation(
    options: GenerationOptions,
    model: GuidedModel,
    weights: nn.Module,
    source: Path,
    free: Collection[str] = FREE_ON_RESUME,
) -> Iterator[RunDirectory]:
    """The run directory, made or found as `--resume` needs it, with what samples are made from written.

    Args:
        options: checked.
        model: that makes them.
        weights: of it.
        source: its folder.
        free: options that may differ when the run is resumed.

    Raises:
        InputError: a directory that cannot be used.
    """
    from common.diffusion.model_file import weights_digest

    name = str(model.description.get("name", Path(options.model).name))
    with RunDirectory.begin(options.output_dir or f"runs/{name}-seed{options.seed}", "generate", options) as directory:
        directory.record(
            options, free, device=str(model.device), seed=options.seed, model=str(source),
            model_hash=weights_digest(weights), training_data=model.description.get("data"),
        )  # fmt: skip
        yield directory


def check_complete(options: GenerationOptions, result: dict[str, Any], noun: str) -> None:
    """Raise `IncompleteError` where there are fewer samples than were asked for, and that was not allowed."""
    count = result["generation"]["samples"]
    if count < options.num_samples and not options.allow_partial:
        raise IncompleteError(
            f"{count} of {options.num_samples} {noun}; the rest: the same command with --resume", result
        )


@contextmanager
def guided(
    options: GenerationOptions,
    sampler: Sampler,
    denoiser: DenoiserFunction,
    reward: AbstractContextManager[Reward] | None,
    log_weight: NoisyLogWeight | None = None,
    weaker: DenoiserFunction | None = None,
) -> Iterator[GuidedSampler | None]:
    """The sampler under guidance, for as long as its reward's workers live; None without guidance."""
    from common.cli.guidance import guided_sampler

    if not options.guidance:
        yield None
        return
    with nullcontext() if reward is None else reward as opened:
        if opened is not None:
            logger.info("reward: %s", opened)
        yield guided_sampler(options, sampler, denoiser, reward=opened, log_weight=log_weight, weaker=weaker)


class SampleSet(Protocol):
    """Samples of a domain, as this module needs them."""

    def __len__(self) -> int: ...


Samples = TypeVar("Samples", bound=SampleSet)


@dataclass(frozen=True)
class Made(Generic[Samples]):
    """What `sample_in_parts` made, now or before.

    Attributes:
        parts: in order.
        cost: of all of them under guidance.
        seconds: that sampling took, over all resumptions.
    """

    parts: list[Samples]
    cost: Cost
    seconds: float


def generation_facts(
    options: GenerationOptions, sampler: Sampler, guide: GuidedSampler | None, made: Made[Any], count: int
) -> dict[str, Any]:
    """What `metrics.json` says of how `count` samples were made; `network_evaluations` is for one sample."""
    from common.diffusion.control import evaluations_with

    facts: dict[str, Any] = {
        "samples": count,
        "seconds": round(made.seconds, 2),
        "network_evaluations": (options.steps or sampler.steps) * evaluations_with(options.strength),
    }
    everything = sum(map(len, made.parts))
    if guide is not None and everything:
        methods = options.guidance_methods()
        facts |= {
            "guidance": [str(method) for method in methods],
            # What a reward or a classifier has learnt from is not known here.
            **({} if any(method.needs_predictor for method in methods) else {"labels": 0}),
            "particles": guide.particles,
            "network_evaluations": round(made.cost.evaluations / everything, 2),
            "reward_calls": round(made.cost.reward_calls / everything, 2),
        }
    return {"generation": facts}


def kept_facts(folder: Path) -> dict[str, Any]:
    """What `generation_facts` wrote into the `metrics.json` of a folder, for who writes that file anew."""
    if not (folder / "metrics.json").exists():
        return {}
    before = RunDirectory(folder).read_json("metrics.json")
    return {"generation": before["generation"]} if "generation" in before else {}


def sample_in_parts(
    folder: Path,
    num_samples: int,
    part_size: int,
    *,
    make: Callable[[int, int, Callable[[int], None]], Samples],
    save: Callable[[Samples, Path], None],
    load: Callable[[Path], Samples],
    guide: GuidedSampler | None = None,
) -> Made[Samples]:
    """All samples as parts, each on disk as soon as it is made; fewer of them after Ctrl-C, but not none.

    Args:
        folder: part k, with the samples k * part_size, ..., lies there as `k.npz`, and what it took as `k.json`; what
            is there is not made again.
        num_samples: of all parts.
        part_size: samples a part, or particles under guidance.
        make: (start, count, progress) -> samples start, ..., start + count - 1.
        save, load: a part to and from disk; a part is used as it was loaded, so that a resumed run has the same.
        guide: what counts the cost of `make`.
    """
    from common.cost import Cost

    part_size = max(1, part_size // (guide.particles if guide is not None else 1))
    folder.mkdir(exist_ok=True)
    parts: list[Samples] = []
    cost, seconds = Cost(), 0.0
    try:
        for start in range(0, num_samples, part_size):
            count = min(part_size, num_samples - start)
            path = folder / f"{start // part_size:06d}.npz"
            record = path.with_suffix(".json")
            part = load(path) if path.exists() and record.exists() else None
            if part is not None and len(part) > part_size:
                raise InputError(
                    f"{path} holds {len(part)} samples, expected up to {part_size}: another version made it; "
                    "--overwrite starts anew"
                )
            if part is None or len(part) < count:
                before, began = guide.cost if guide is not None else Cost(), time.monotonic()
                save(make(start, count, _progress(start, num_samples)), path)
                spent = guide.cost - before if guide is not None else Cost()
                write_json(record, {**asdict(spent), "seconds": time.monotonic() - began})
                part = load(path)
            took = json.loads(record.read_text())
            seconds += took.pop("seconds")
            cost += Cost(**took)
            parts.append(part)
    except KeyboardInterrupt:
        if not parts:
            raise
        logger.info("interrupted; %d samples are kept", sum(map(len, parts)))
    return Made(parts, cost, seconds)


def _progress(start: int, total: int) -> Callable[[int], None]:
    began = time.monotonic()

    def report(done: int) -> None:
        rate = done / max(time.monotonic() - began, 1e-9)
        logger.info("%d/%d samples, %.1f a second", start + done, total, rate)

    return report
