"""The methods of inference-time control by name, from what was typed to a `GuidedSampler`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from common.cost import Counted, CountedReward
from common.diffusion import DenoiserFunction, Sampler
from common.errors import InputError
from common.guidance.autoguidance import Autoguidance
from common.guidance.best_of_n import BestOfN
from common.guidance.classifier import Classifier, NoisyLogWeight
from common.guidance.classifier_free import ClassifierFree, null_of
from common.guidance.guided_sampler import Guidance, GuidedSampler
from common.guidance.reconstruction import Reconstruction
from common.guidance.selection import Selector
from common.guidance.smc import Smc
from common.guidance.training_free import TrainingFree
from common.guidance.value_weighted import ValueWeighted
from common.named import build, nearest
from common.rewards import Reward

# Functions from denoiser to denoiser.
GUIDANCES: dict[str, Callable[..., Guidance]] = {
    "autoguidance": Autoguidance,
    "cfg": ClassifierFree,
    "classifier": Classifier,
    "reconstruction": Reconstruction,
    "training-free": TrainingFree,
}
# Choices among particles.
SELECTORS: dict[str, Callable[..., Selector]] = {
    "best-of-n": BestOfN,
    "value-weighted": ValueWeighted,
    "smc": Smc,
}
_ALIASES = {"svdd": "value-weighted", "dps": "reconstruction", "tfg": "training-free"}


@dataclass(frozen=True)
class Method:
    """One method with its settings.

    Attributes:
        name: a key of `GUIDANCES` or `SELECTORS`.
        settings: those that were given, by their names in the method's class; all are numbers.
    """

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Method:
        """A method as typed: `smc`, or `smc particles=16 tau=0.5`.

        Raises:
            InputError: an unknown name or setting, or what is no number.
        """
        name, *rest = text.split() or [""]
        known = {**GUIDANCES, **SELECTORS}
        name = _ALIASES.get(name.lower(), name.lower())
        if name not in known:
            near = nearest(name, [*known, *_ALIASES])
            raise InputError(f"got guidance '{name}'{near}; expected one of {', '.join(known)}")
        kinds = _numbers(known[name])
        settings = {}
        for word in rest:
            key, equals, value = word.partition("=")
            key = key.replace("-", "_")
            if key not in kinds or not equals:
                raise InputError(
                    f"got '{word}' for guidance '{name}'{nearest(key, kinds)}; expected NAME=NUMBER with one of "
                    f"{', '.join(kinds)}"
                )
            settings[key] = _number(value, kinds[key], f"{name} {key}")
        return cls(name, settings)

    @property
    def takes(self) -> tuple[str, ...]:
        """The settings that it has."""
        return tuple(_numbers({**GUIDANCES, **SELECTORS}[self.name]))

    @property
    def acts_at_zero(self) -> bool:
        """Whether scale 0 is not the model as it is."""
        return getattr(GUIDANCES.get(self.name), "acts_at_zero", False)

    @property
    def needs_gradient(self) -> bool:
        """Whether it follows the gradient of a reward."""
        return self.name in GUIDANCES and self.needs_reward

    @property
    def needs_reward(self) -> bool:
        """Whether it asks a reward of clean states."""
        return "reward" in _fields(self.name)

    @property
    def needs_target(self) -> bool:
        """Whether it steers to something that is asked for."""
        return bool(_fields(self.name) & {"reward", "log_weight", "null"})

    @property
    def needs_predictor(self) -> bool:
        """Whether it may ask something that has learnt from labels: a reward's predictor, or a classifier."""
        return bool(_fields(self.name) & {"reward", "log_weight"})

    @property
    def selects(self) -> bool:
        """Whether it is a selector."""
        return self.name in SELECTORS

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value:g}" for key, value in self.settings.items())])


def with_defaults(methods: Sequence[Method], defaults: Mapping[str, float | None]) -> list[Method]:
    """The methods, with settings that were given for all of them at once; what one was given itself stands.

    Raises:
        InputError: a setting that none of them has.
    """
    given = {key: value for key, value in defaults.items() if value is not None}
    for key in given:
        if not methods:
            raise InputError(f"got {key} {given[key]:g}, a setting of guidance, but no --guidance")
        if not any(key in method.takes for method in methods):
            names = ", ".join(method.name for method in methods)
            raise InputError(f"got {key} {given[key]:g}, but {names} has no such setting")
    return [
        replace(method, settings={**{k: v for k, v in given.items() if k in method.takes}, **method.settings})
        for method in methods
    ]


def build_guided_sampler(
    methods: Iterable[Method],
    sampler: Sampler,
    denoiser: DenoiserFunction,
    *,
    reward: Reward | None = None,
    log_weight: NoisyLogWeight | None = None,
    weaker: DenoiserFunction | None = None,
) -> GuidedSampler:
    """A sampler with these methods; one of scale 0 is left out, unless that means something to it.

    Args:
        methods: guidances, the first nearest to the denoiser, and at most one selector.
        sampler: draws the chains.
        denoiser: the model's, which knows how nothing is asked of it.
        reward: of clean states; needed by all but `cfg`, `classifier` and `autoguidance`.
        log_weight: of noisy states; needed by `classifier`.
        weaker: model of the same states; needed by `autoguidance`.

    Raises:
        InputError: something that a method needs is missing, unusable settings, or two selectors.
    """
    methods = list(methods)
    selecting = [method.name for method in methods if method.selects]
    if len(selecting) > 1:
        raise InputError(f"got {' and '.join(selecting)}, expected at most one method that chooses among particles")
    active = [method for method in methods if method.settings.get("scale", 1.0) != 0 or method.acts_at_zero]
    counted = {
        "reward": None if reward is None else CountedReward(reward),
        "log_weight": None if log_weight is None else Counted(log_weight),
    }
    others = {"weaker": None if weaker is None else Counted(weaker)}
    parts = {**counted, **others, "process": sampler.process, "null": null_of(denoiser)}
    selector = next((_build(method, parts, SELECTORS) for method in active if method.selects), None)
    guidances = [_build(method, parts, GUIDANCES) for method in active if not method.selects]
    return GuidedSampler(
        sampler, guidances, selector, [count for count in counted.values() if count is not None],
        [count for count in others.values() if count is not None],
    )  # fmt: skip


def _build(method: Method, parts: Mapping[str, Any], table: Mapping[str, Callable[..., Any]]) -> Any:
    names = [one.name for one in fields(table[method.name]) if one.init and one.name in parts]  # type: ignore[arg-type]
    needs = {
        "reward": "a reward, such as a target",
        "log_weight": "a predictor of noisy states",
        "weaker": "a weaker model of the same states",
    }
    for name in names:
        if parts[name] is None:
            raise InputError(f"guidance '{method.name}' needs {needs[name]}")
    given = {**{name: parts[name] for name in names}, **method.settings}
    return build(table[method.name], given, f"guidance '{method.name}'")


def _fields(name: str) -> set[str]:
    """What the class of a method is made of."""
    return {one.name for one in fields({**GUIDANCES, **SELECTORS}[name])}  # type: ignore[arg-type]


def _numbers(factory: Callable[..., Any]) -> dict[str, str]:
    """Setting -> `int` or `float`, of those settings of a class that are numbers."""
    kinds = {one.name: str(one.type) for one in fields(factory) if one.init}  # type: ignore[arg-type]
    return {name: kind for name, kind in kinds.items() if kind in ("int", "float")}


def _number(text: str, kind: str, what: str) -> float:
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        expected = "a whole number" if kind == "int" else "a number"
        raise InputError(f"got {what} '{text}', expected {expected}") from None
