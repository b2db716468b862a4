"""`Benchmark`: what a benchmark compares, as its YAML file says it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.named import build, nearest

# Verbs whose options a benchmark may set for all methods (`generate: {...}`) or for one (`settings: NAME: {...}`);
# `classifier` is for train-classifier.
STAGES = ("classifier", "finetune", "generate")
# What is said of log p of a control, quantity by quantity.
_WEIGHTS = ("gammas", "tolerances")
_SHARE = re.compile(r"(?!0+%)\d+(\.\d+)?%")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: of the report.
        model: the base that all methods start from: name of a shipped model, model folder, or run directory.
        description: one or two sentences for the report.
        task: kind of task; a domain has its own (`Domain.tasks`).
        targets: what is asked for, as typed behind `--target`; every method runs once for each of them and each seed.
        methods: rows, in the order of the table.
        num_samples: samples of each run.
        seeds: runs for each target, with the seeds 0, 1, ...
        data: data set name or file: the reference of the metrics, and the labels of methods that learn from some.
        data_folder: folder that holds the named data sets.
        sampling_factor: how many times the base's network evaluations a method may spend on a sample. Methods that
            choose among candidates take that many; it is the budget at which methods are compared.
        rewards: quantity -> the scorer that methods are rewarded by in its place, such as a learned predictor. Where
            there is none, they are rewarded as the task says, and the report repeats it.
        also: further targets, such as `maximise stable weight 2`, for all methods that see the reward as a number
            (choosing among candidates, fine-tuning towards a target), so that none pays for the property with them.
        gammas: quantity -> the weight of its log-likelihood where a control is learnt by reinforcement learning.
        tolerances: quantity -> how far off still counts as right there, a number or a text such as 20%; see
            `ControlTerm`.
        judges: quantity -> the scorer that judges it, where the task leaves that to the benchmark.
        second_judges: quantity -> another scorer for it, such as a predictor that no method was trained on.
        classifier, finetune, generate: options of the verbs train-classifier, finetune and generate for all methods,
            snake_case as in their own configurations.
        settings: method -> verb -> options of this method alone.
        published: names of the tables of published numbers to print below.
        shown: samples of each method to show in 3D.
    """

    name: str
    model: str
    description: str = ""
    task: str = "property"
    targets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("unconditional",)
    num_samples: int = 128
    seeds: int = 1
    data: str = ""
    data_folder: str = "data"
    sampling_factor: int = 4
    rewards: Mapping[str, str] = field(default_factory=dict)
    also: str = ""
    gammas: Mapping[str, float] = field(default_factory=dict)
    tolerances: Mapping[str, float | str] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)
    second_judges: Mapping[str, str] = field(default_factory=dict)
    classifier: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    generate: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    shown: int = 6

    def __post_init__(self) -> None:
        for name in ("targets", "methods", "published"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(word, str) for word in value):
                raise InputError(f"benchmark '{self.name}': got {name} = {value!r}, expected a list of texts")
            object.__setattr__(self, name, tuple(value))
        for name in ("rewards", *_WEIGHTS, "judges", "second_judges", *STAGES, "settings"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"benchmark '{self.name}': got {name} = {getattr(self, name)!r}, expected a mapping")
        weights = [(name, quantity, number) for name in _WEIGHTS for quantity, number in getattr(self, name).items()]
        for name, quantity, number in weights:
            share = name == "tolerances" and isinstance(number, str) and _SHARE.fullmatch(number)
            if not share and (not isinstance(number, int | float) or not number > 0):
                raise InputError(
                    f"benchmark '{self.name}': got {name}: {quantity}: {number!r}, expected a number above 0"
                )
        for name in ("num_samples", "seeds", "sampling_factor"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"benchmark '{self.name}': got {name} = {value!r}, expected a number from 1 on")
        for method, stages in self.settings.items():
            for stage in stages:
                if stage not in STAGES:
                    raise InputError(
                        f"benchmark '{self.name}': settings of '{method}' for '{stage}'{nearest(stage, STAGES)}; "
                        f"expected one of {', '.join(STAGES)}"
                    )
        for name in ("rewards", *_WEIGHTS):
            self._check_names(name)
        repeated = [word for word in {*self.methods} if self.methods.count(word) > 1]
        repeated += [word for word in {*self.targets} if self.targets.count(word) > 1]
        if repeated:
            raise InputError(f"benchmark '{self.name}': '{repeated[0]}' stands there twice")

    def _check_names(self, name: str) -> None:
        """A quantity that is written in another way in the targets would go without what is said of it here."""
        unused = [quantity for quantity in getattr(self, name) if not any(map(_words([quantity]).search, self.targets))]
        bare = [target for target in self.targets if not _words(getattr(self, name)).search(target)]
        if unused and bare:
            raise InputError(
                f"benchmark '{self.name}': {name} speaks of '{unused[0]}', which is in no target, but not of what "
                f"'{bare[0]}' asks for; write the quantity as the target does"
            )

    def options(self, stage: str, method: str) -> dict[str, Any]:
        """The options of a verb for a method: those for all, then its own."""
        return {**getattr(self, stage), **self.settings.get(method, {}).get(stage, {})}

    def completed(self, options: Mapping[str, Mapping[str, Any]]) -> Benchmark:
        """This with options, verb -> options, for all methods where it sets none itself."""
        return replace(self, **{verb: {**options[verb], **getattr(self, verb)} for verb in options})

    def rewarded(self, target: str) -> str:
        """A target in the words that methods get: quantities with a reward of their own by that reward's name."""
        # At once, so that what is put in is not searched again.
        return _words(self.rewards).sub(lambda word: self.rewards[word.group()], target) if self.rewards else target

    def with_also(self, target: str) -> str:
        """`rewarded(target)` and what is wanted beside it."""
        return ", ".join(filter(None, [self.rewarded(target), self.also]))

    def control(self, quantity: str) -> str:
        """A quantity as a control that is learnt from rewards, with its tolerance and its weight."""
        tolerance = f" tolerance {self.tolerances[quantity]}" if quantity in self.tolerances else ""
        return quantity + tolerance + (f" weight {self.gammas[quantity]}" if quantity in self.gammas else "")

    def as_yaml(self) -> str:
        """The whole benchmark as a file that `read_benchmark` reads."""
        return yaml.safe_dump(plain(asdict(self)), sort_keys=False, allow_unicode=True)


def _words(quantities: Iterable[str]) -> re.Pattern[str]:
    """Finds these names where they stand alone: not within another name, nor as a scorer with brackets, nor in them."""
    return re.compile(rf"(?<![\w(/.-])(?:{'|'.join(map(re.escape, quantities))})(?![\w(/])")


def read_benchmark(path: str | Path, **changes: Any) -> Benchmark:
    """A benchmark from its YAML file.

    Args:
        path: the file.
        changes: keys that are not as in the file.

    Raises:
        InputError: no such file, no YAML, an unknown key (the nearest is named), or a value out of range.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; expected a benchmark, such as configs/benchmarks/...-quick.yaml"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected the keys of a benchmark: name, model, ...")
    content.setdefault("name", path.stem)
    if "model" not in content:
        raise InputError(f"{path}: names no 'model' to start from")
    return build(Benchmark, {**content, **changes}, f"benchmark {path}")


def check_names(wanted: Collection[str], known: Collection[str], what: str) -> None:
    """An `InputError` for the first name that is not known; the nearest is named."""
    for name in wanted:
        if name not in known:
            raise InputError(f"got {what} '{name}'{nearest(name, known)}; expected one of {', '.join(known)}")


def plain(value: Any) -> Any:
    """`value` with tuples as lists and mappings as dicts, for YAML and JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
