"""What people type about named quantities: targets to condition on, rewards to maximise, filters.

    gap=4.5          gap=4.5±0.2      gap=4.5+-0.2 eV      the value, with a tolerance
    volume=2e-3±10%                                        the same, measured by ratios
    alpha<70         4<gap<5          alpha<70±2           a range; the tolerance softens its edges
    maximise qed     minimise sa_score from 1 to 6         as large or small as possible
    class=wheel                                            a label
    require gap>4    require valid    forbid substructure([N+](=O)[O-])      a filter: what fails it is no sample
    gap=4.5±0.2 weight 2                                   its weight in the sum, its exponent in the product
    gap                                                    only measured

Several are joined by commas. One parser serves `--target` and `--reward`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.errors import InputError
from common.named import nearest
from common.rewards.goals import Category, Goal, Maximise, Range, Target
from common.rewards.quantity import Quantity

logger = logging.getLogger(__name__)

# Name and argument ("similarity", "CCO"; None without parentheses) -> the quantity; an InputError if there is none.
Find = Callable[[str, "str | None"], Quantity]

# A quantity with this before its name is what a network says of it.
PREDICTED = "predicted_"

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TOLERANCE = rf"(?:\s*(?:±|\+/?-)\s*(?P<tolerance>{_NUMBER})(?P<percent>\s*%)?)?"
# A unit holds no digit at its start, so that "4.5 0.2" is no value with a unit.
_UNIT = r"(?:\s*(?P<unit>[^\W\d][^\s<>=±,]*))?"
_NAME = r"(?P<name>[^\s<>=±,()]+)(?P<argument>\(.*\))?"

_DIRECTIONS = {"maximise": 1, "maximize": 1, "minimise": -1, "minimize": -1}
_BODY = {
    "target": rf"{_NAME}\s*=\s*(?P<value>{_NUMBER}){_TOLERANCE}{_UNIT}",
    "bound": rf"{_NAME}\s*(?P<sign><|>)\s*(?P<value>{_NUMBER}){_TOLERANCE}{_UNIT}",
    "reversed bound": rf"(?P<value>{_NUMBER})\s*(?P<sign><|>)\s*{_NAME}",
    "range": rf"(?P<value>{_NUMBER})\s*(?P<sign><|>)\s*{_NAME}\s*(?P=sign)\s*(?P<other>{_NUMBER}){_TOLERANCE}{_UNIT}",
    "direction": rf"(?P<verb>{'|'.join(_DIRECTIONS)})\s+{_NAME}"
    rf"(?:\s+from\s+(?P<value>{_NUMBER})\s+to\s+(?P<other>{_NUMBER}){_UNIT})?",
    # A label may have several words, as a folder of shapes may.
    "category": rf"{_NAME}\s*=\s*[^\W\d][\w.-]*(?:\s+[\w.-]+)*",
    "bare": _NAME,
}
_PREDICTION = re.compile(rf"(?<!\w){PREDICTED}(?P<name>[^\s<>=±,()]+)(\(.*\))?", re.IGNORECASE)
_WEIGHT = re.compile(rf"^(?P<rest>.*\S)\s+weight\s*=?\s*(?P<weight>{_NUMBER})$")
_FILTER = re.compile(r"^(?P<word>require|forbid)\s+(?P<rest>.*)$")
_EXAMPLES = "gap=4.5±0.2, alpha<70, 4<gap<5, maximise qed, require valid, gap=4.5±0.2 weight 2"


@dataclass(frozen=True)
class Condition:
    """One condition on a quantity.

    Attributes:
        text: as typed.
        quantity: what it speaks of.
        goal: what is wanted; None where the quantity is only to be measured.
        weight: factor in a weighted sum, exponent in a product; positive.
        required: a filter: what does not meet the goal is no sample.
    """

    text: str
    quantity: Quantity
    goal: Goal | None = None
    weight: float = 1.0
    required: bool = False

    def __str__(self) -> str:
        """As understood, with the full name and the unit: `gap_ev = 4.5 ± 0.2 eV`."""
        name, unit = self.quantity.name, self.quantity.unit or ""
        if self.goal is None:
            return f"measure {name}" + (f" in {unit}" if unit else "")
        if isinstance(self.goal, Maximise):
            verb, _, scale = str(self.goal).partition(" ")
            text = " ".join(word for word in (verb, name, scale, f"({unit})" if unit else "") if word)
        else:
            text = f"{name} {self.goal} {unit}".rstrip()
        return ("require " if self.required else "") + text + (f", weight {self.weight:g}" if self.weight != 1 else "")


def parse(texts: str | Iterable[str], find: Find) -> tuple[Condition, ...]:
    """Conditions from what was typed, in that order.

    Args:
        texts: one or several texts, each with one or several conditions joined by commas.
        find: name and argument -> quantity.

    Raises:
        InputError: a text cannot be read, a name is unknown, a unit is another than the quantity's, a tolerance is
            missing, or two conditions contradict each other.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    conditions = tuple(_parse_one(part, find) for text in texts for part in _split(text))
    if not conditions:
        raise InputError(f"no condition was given; expected such as {_EXAMPLES}")
    _check_together(conditions)
    return conditions


def warn_outside(conditions: Sequence[Condition], ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    """Log, and return, one line for each condition that asks for values that the training data lack.

    Args:
        conditions: what is asked for.
        ranges: name of a quantity -> lowest and highest value in the training data.
    """
    lines = []
    for condition in conditions:
        quantity, goal = condition.quantity, condition.goal
        if quantity.name not in ranges or not isinstance(goal, Target | Range):
            continue
        low, high = ranges[quantity.name]
        wanted_low, wanted_high = (goal.value, goal.value) if isinstance(goal, Target) else (goal.low, goal.high)
        if (wanted_low is not None and wanted_low > high) or (wanted_high is not None and wanted_high < low):
            lines.append(
                f"{condition}: outside the training data, which range from {low:g} to {quantity.with_unit(high)}; "
                "expect poor samples"
            )
    for line in lines:
        logger.warning("%s", line)
    return lines


def _split(text: str) -> list[str]:
    """Parts at the commas that stand in no bracket: SMARTS such as `[N,O]` hold commas of their own."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts = [part.strip() for part in [*parts, text[start:]]]
    if depth != 0:
        raise InputError(f"got '{text}': a bracket is not closed")
    if len(parts) > 1 and not all(parts):
        raise InputError(f"got '{text}': nothing stands beside a comma")
    return [part for part in parts if part]


def without_predictors(texts: Iterable[str], find: Find) -> list[str]:
    """What was typed about predictions, about the quantities themselves: `gap=3±0.2` for `predicted_gap(runs/p)=3±0.2`.

    It is what an independent judge is asked. A quantity that only the predictor knows is left out.

    Args:
        texts: as `parse` reads them; conditions on anything else are left out, too.
        find: name and argument -> quantity.
    """
    found = []
    for part in (part for text in texts for part in _split(text)):
        match = _PREDICTION.search(part)
        if match is None:
            continue
        try:
            find(match["name"], None)
        except InputError:
            continue
        found.append(part[: match.start()] + match["name"] + part[match.end() :])
    return found


def _parse_one(text: str, find: Find) -> Condition:
    body = text.replace("≤", "<").replace("≥", ">").replace("<=", "<").replace(">=", ">")
    filtered = _FILTER.match(body)
    if filtered:
        body = filtered["rest"]
    weight = _WEIGHT.match(body)
    if weight:
        body = weight["rest"]
    kind, match = next(
        ((kind, found) for kind, pattern in _BODY.items() if (found := re.fullmatch(pattern, body))), ("", None)
    )
    if match is None:
        hint = "; one '=' is enough" if "==" in text else ""
        raise InputError(f"cannot read '{text}'{hint}; expected such as {_EXAMPLES}")
    argument = match["argument"]
    quantity = find(match["name"], None if argument is None else argument[1:-1])
    _check_unit(text, match, quantity)
    goal = _goal(kind, match, quantity, text)
    if filtered:
        goal = _filter_goal(filtered["word"], goal, quantity, text)
    elif goal is None and ":" in match["name"]:
        # A user's own function is a reward by contract: the larger, the better.
        goal = Maximise(1, *(quantity.bounds or ()))
    if weight and (filtered or goal is None):
        raise InputError(f"got '{text}': only a goal has a weight")
    if weight and not float(weight["weight"]) > 0:
        raise InputError(f"got '{text}': a weight is positive; to turn a goal round say minimise")
    return Condition(text, quantity, goal, float(weight["weight"]) if weight else 1.0, required=bool(filtered))


def _goal(kind: str, match: re.Match[str], quantity: Quantity, text: str) -> Goal | None:
    if kind == "bare":
        return None
    if kind == "category" or (kind == "target" and quantity.categories):
        # As typed: a label may be a number, too.
        return _category(match[0].partition("=")[2].strip(), quantity, text)
    if quantity.categories:
        raise InputError(f"got '{text}': {quantity.name} is one of {', '.join(quantity.categories)}")
    given = match.groupdict()
    value, other = (None if given.get(key) is None else float(given[key]) for key in ("value", "other"))
    if kind == "direction":
        if value is None or other is None:
            return Maximise(_DIRECTIONS[match["verb"]], *(quantity.bounds or ()))
        if value == other:
            raise InputError(f"got '{text}': both ends are {value:g}")
        # `minimise x from 6 to 1` says the same as `from 1 to 6`.
        return Maximise(_DIRECTIONS[match["verb"]], min(value, other), max(value, other))
    number = float(match["value"])
    relative = given.get("percent") is not None
    tolerance = _tolerance(given.get("tolerance"), quantity, text)
    if relative and tolerance is not None:
        least = min(edge for edge in (value, other) if edge is not None)
        if least <= 0:
            raise InputError(f"got '{text}': a share of {least:g} is no tolerance; say ± a number")
        tolerance /= 100
    if kind == "target":
        return Target(number, tolerance, relative)
    upper = (match["sign"] == "<") != (kind in ("reversed bound", "range"))
    if other is None:
        return Range(None if upper else number, number if upper else None, tolerance, relative)
    low, high = (number, other) if not upper else (other, number)
    if low >= high:
        raise InputError(f"got '{text}': no value lies between {low:g} and {high:g}")
    return Range(low, high, tolerance, relative)


def _tolerance(typed: str | None, quantity: Quantity, text: str) -> float | None:
    if typed is None:
        return quantity.tolerance
    if not float(typed) > 0:
        raise InputError(f"got '{text}': a tolerance is positive")
    return float(typed)


def _category(label: str, quantity: Quantity, text: str) -> Category:
    if not quantity.categories:
        unit = f" in {quantity.unit}" if quantity.unit else ""
        raise InputError(f"got '{text}': {quantity.name} is a number{unit}")
    if label not in quantity.categories:
        known = ", ".join(quantity.categories)
        raise InputError(
            f"got '{text}': no {quantity.name} '{label}'{nearest(label, quantity.categories)}; known: {known}"
        )
    return Category(label, quantity.categories.index(label))


def _filter_goal(word: str, goal: Goal | None, quantity: Quantity, text: str) -> Goal:
    if goal is not None and word == "require" and not isinstance(goal, Maximise):
        if isinstance(goal, Target) and goal.tolerance is None:
            raise InputError(f"'{text}' needs a tolerance: '{text}±...'")
        return goal
    if goal is None and quantity.bounds == (0.0, 1.0):
        return Range(0.5, None) if word == "require" else Range(None, 0.5)
    if word == "forbid":
        raise InputError(f"got '{text}': forbid takes a yes-or-no quantity such as substructure(...)")
    raise InputError(f"got '{text}': say what is required of {quantity.name}: '{word} {quantity.name}>...'")


def _check_unit(text: str, match: re.Match[str], quantity: Quantity) -> None:
    typed = match.groupdict().get("unit")
    if typed is None:
        return
    if quantity.unit is None:
        raise InputError(f"got '{text}': {quantity.name} states no unit, so '{typed}' cannot be checked; leave it out")
    if typed.lower() != quantity.unit.lower().replace(" ", ""):
        expected = f"in {quantity.unit}" if quantity.unit else "a pure number"
        raise InputError(f"got '{text}' in '{typed}', but {quantity.name} is {expected}; convert the number")


def _check_together(conditions: Sequence[Condition]) -> None:
    targets: dict[str, Condition] = {}
    for condition in conditions:
        name = condition.quantity.name
        # Two ranges, or a range and a target, may stand together.
        if condition.goal is None or condition.required or isinstance(condition.goal, Range):
            continue
        if targets.setdefault(name, condition) is not condition:
            raise InputError(f"got '{targets[name].text}' and '{condition.text}': one quantity, two aims; drop one")


def rewarded(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions that make up a reward: those with a goal that are no filter.

    Raises:
        InputError: there is none, or one lacks a tolerance and its quantity has no usual one.
    """
    goals = tuple(condition for condition in conditions if condition.goal is not None and not condition.required)
    if not goals:
        name = conditions[0].quantity.name if conditions else "gap"
        raise InputError(f"nothing to aim at; say 'maximise {name}', '{name}=4.5±0.2' or '{name}<5±0.1'")
    for condition in goals:
        goal = condition.goal
        if isinstance(goal, Target | Range) and goal.tolerance is None:
            raise InputError(f"'{condition.text}' needs a tolerance, the distance that matters: '{condition.text}±...'")
    return goals


def required(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions that are filters."""
    return tuple(condition for condition in conditions if condition.required)
