"""`METHODS`: rows of a benchmark, each as the program's own commands that end in a folder of samples.

So the command that reproduces a row is the one that made it. A new method is a row of the table below.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.benchmark.config import Benchmark
from common.errors import InputError

Stage = Literal["training", "sampling"]


@dataclass(frozen=True)
class Step:
    """One command of a row.

    Attributes:
        stage: which account its cost goes to.
        words: the command, the program first.
        output_dir: the run directory that it makes. Steps of equal words are done once, and share it.
    """

    stage: Stage
    words: tuple[str, ...]
    output_dir: Path

    def __str__(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Trial:
    """One run of a method: for one target, with one seed.

    Attributes:
        method: its name.
        target: as typed; "" where the task has none.
        seed: of training and sampling.
        folder: the benchmark's, which holds `trials` and `shared`.
    """

    method: str
    target: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Of its directory."""
        target = f"-{slug(self.target)}" if self.target else ""
        return f"{slug(self.method)}{target}-seed{self.seed}"

    @property
    def directory(self) -> Path:
        """Where its own steps and its verdict lie."""
        return self.folder / "trials" / self.name

    @property
    def shared(self) -> Path:
        """Where steps lie that serve all targets of this method and seed."""
        return self.folder / "shared" / f"{slug(self.method)}-seed{self.seed}"


# How a method makes its samples: (program, benchmark, trial) -> steps, the last of which writes the samples.
Recipe = Callable[[str, Benchmark, Trial], Sequence[Step]]


@dataclass(frozen=True)
class Method:
    """One way to get samples.

    Attributes:
        name: as in a benchmark's `methods`.
        description: a few words for the report.
        recipe: its commands.
        group: what kind of control it is; rows of a kind share a colour family.
        uses_target: whether the samples depend on what is asked for. If not, one run serves all targets.
        learns: what it is told in training: "nothing", "reward", or "labels".
    """

    name: str
    description: str
    recipe: Recipe
    group: Literal["base", "sampling", "conditional", "fine-tuning"]
    uses_target: bool = True
    learns: Literal["nothing", "reward", "labels"] = "nothing"


def flags(options: Mapping[str, Any]) -> tuple[str, ...]:
    """`{"batch_size": 32}` as `--batch-size 32`; True as a bare flag, mappings and lists as JSON."""
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not False and value is not None:
            words += [flag, value if isinstance(value, str) else json.dumps(value)]
    return tuple(words)


def generate(
    program: str, benchmark: Benchmark, trial: Trial, model: str | Path, folder: Path, **options: Any
) -> Step:  # fmt: skip
    """The command that samples `model` into `folder`/samples: the benchmark's own options win over `options`."""
    chosen = {
        "num_samples": benchmark.num_samples,
        "seed": _sampling_seed(benchmark, trial, folder),
        **options,
        **benchmark.options("generate", trial.method),
    }
    output_dir = folder / "samples"
    words = (program, "generate", str(model), *flags(chosen), "--output-dir", str(output_dir))
    return Step("sampling", words, output_dir)


def _sampling_seed(benchmark: Benchmark, trial: Trial, folder: Path) -> int:
    """Another one than that of training, whose chains would share its noise, and another one for each target."""
    alone = folder == trial.shared or trial.target not in benchmark.targets
    return 1000 * (1 if alone else 1 + benchmark.targets.index(trial.target)) + trial.seed


def finetune(program: str, benchmark: Benchmark, trial: Trial, folder: Path, **options: Any) -> Step:
    """The command that trains the base further into `folder`/model."""
    chosen = {**options, "seed": trial.seed, **benchmark.options("finetune", trial.method)}
    words = (program, "finetune", benchmark.model, *flags(chosen), "--output-dir", str(folder / "model"))
    return Step("training", words, folder / "model")


def unconditional(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
    """The base model as it is: one set of samples for all targets."""
    return [generate(program, benchmark, trial, benchmark.model, trial.shared)]


def conditioned(**options: Any) -> Recipe:
    """`generate --target ...` of a base that takes what is asked for as an input already."""

    def recipe(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
        chosen = {"target": trial.target, **options}
        return [generate(program, benchmark, trial, benchmark.model, trial.directory, **chosen)]

    return recipe


def guided(guidance: str) -> Recipe:
    """`generate --guidance NAME`: control in sampling alone, by the gradient of the reward."""

    def recipe(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
        chosen = {"target": benchmark.rewarded(trial.target), "guidance": guidance}
        return [generate(program, benchmark, trial, benchmark.model, trial.directory, **chosen)]

    return recipe


def selected(guidance: str) -> Recipe:
    """`generate --guidance NAME --particles N`: control in sampling alone, by choosing among candidates."""

    def recipe(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
        target, particles = benchmark.with_also(trial.target), benchmark.sampling_factor
        chosen = {"target": target, "guidance": guidance, "particles": particles}
        return [generate(program, benchmark, trial, benchmark.model, trial.directory, **chosen)]

    return recipe


def classified(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
    """`train-classifier --property QUANTITY`, then `generate --guidance classifier`: one predictor for all targets."""
    name = quantity(trial.target)
    folder = trial.shared / name / "classifier"
    chosen = {"property": name, "seed": trial.seed, **benchmark.options("classifier", trial.method)}
    words = (program, "train-classifier", benchmark.model, *flags(chosen), "--output-dir", str(folder))
    guided = {"target": trial.target, "guidance": "classifier", "classifier": str(folder)}
    return [
        Step("training", words, folder),
        generate(program, benchmark, trial, benchmark.model, trial.directory, **guided),
    ]


def finetuned(method: str, **options: Any) -> Recipe:
    """`finetune --method NAME --target ...`, then plain sampling: a model for each target."""

    def recipe(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
        target = benchmark.with_also(trial.target)
        train = finetune(program, benchmark, trial, trial.directory, method=method, target=target, **options)
        return [train, generate(program, benchmark, trial, train.output_dir, trial.directory)]

    return recipe


def controlled(
    method: str, guided: Mapping[str, Any] | None = None, model_of: str | None = None, **options: Any
) -> Recipe:
    """`finetune --method NAME --control QUANTITY`, then the target as an input: one model for all targets.

    `model_of` names the method whose model this one samples in another way, so that it is trained once.
    """

    def recipe(program: str, benchmark: Benchmark, trial: Trial) -> list[Step]:
        asked = quantity(trial.target)
        control = asked if method == "likelihood" else benchmark.control(asked)
        whose = replace(trial, method=model_of or trial.method)
        train = finetune(program, benchmark, whose, whose.shared / asked, method=method, control=control, **options)
        chosen = {"target": trial.target, **(guided or {})}
        return [train, generate(program, benchmark, trial, train.output_dir, trial.directory, **chosen)]

    return recipe


def quantity(target: str) -> str:
    """What `gap=4.5±0.2` speaks of: `gap`.

    Raises:
        InputError: not one quantity with one value; a model that takes the value as an input needs one.
    """
    found = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=[^,<>]+", target)
    if found is None:
        raise InputError(f"got the target '{target}', expected NAME=VALUE: this method takes the value as an input")
    return found[1]


def slug(text: str) -> str:
    """`text` with only what a file name may hold everywhere."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", text).strip("_.") or "_"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("unconditional", "the base model, asked for nothing", unconditional, "base"),
        Method("best-of-n", "the best of several samples", selected("best-of-n"), "sampling"),
        Method("smc", "steering by resampled particles", selected("smc"), "sampling"),
        Method("value-weighted", "the best of several proposals at each step",
               selected("value-weighted"), "sampling"),
        Method("classifier", "gradient of a predictor of noisy states", classified, "sampling", learns="labels"),
        # Without a bound, gradients of a learned predictor tear samples apart where it was never trained.
        Method("reconstruction", "gradient of the predicted sample's likelihood",
               guided("reconstruction max_shift=0.5"), "sampling"),
        Method("training-free", "gradient at the predicted sample, with recurrence",
               guided("training-free max_shift=0.5"), "sampling"),
        Method("conditional", "trained on labelled data with the value as an input", controlled("likelihood"),
               "conditional", learns="labels"),
        Method("cfg", "the same, guided by the difference to the unconditional",
               controlled("likelihood", {"guidance": "cfg", "guidance_scale": 2.0}, "conditional"), "conditional",
               learns="labels"),
        Method("rgdm", "pay-off sampling (arXiv 2304.07132)", finetuned("rgdm"), "fine-tuning", learns="reward"),
        Method("ctrl", "control by reinforcement learning (arXiv 2406.12120)", controlled("ctrl"), "fine-tuning",
               learns="labels"),
        Method("ppo", "policy gradient (arXiv 2305.13301)", finetuned("policy_gradient"), "fine-tuning",
               learns="reward"),
        Method("reward-weighted", "reward-weighted likelihood", finetuned("reward_weighted"), "fine-tuning",
               learns="reward"),
        Method("backprop", "gradient of the reward through the chain (arXiv 2309.17400)", finetuned("backprop"),
               "fine-tuning", learns="reward"),
        Method("path-consistency", "detailed balance along the chain", finetuned("path_consistency"), "fine-tuning",
               learns="reward"),
        Method("adjoint-matching", "regression on the adjoint (arXiv 2409.08861)", finetuned("adjoint_matching"),
               "fine-tuning", learns="reward"),
    )
}  # fmt: skip
