"""Things that a configuration chooses by name, with their settings."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from common.errors import InputError

Built = TypeVar("Built")


def build_named(description: Mapping[str, Any], table: Mapping[str, Callable[..., Built]], what: str) -> Built:
    """The entry `description["name"]` of `table`, called with the other keys.

    Args:
        description: `name` and settings.
        table: name -> class.
        what: what is chosen, for messages.

    Raises:
        InputError: an unknown name or setting; the nearest known one is named.
    """
    settings = dict(description)
    name = settings.pop("name", None)
    if name not in table:
        raise InputError(f"got {what} {name!r}{nearest(str(name), table)}; expected one of {', '.join(table)}")
    return build(table[name], settings, f"{what} '{name}'")


def build(factory: Callable[..., Built], settings: Mapping[str, Any], what: str) -> Built:
    """`factory(**settings)`; unknown, missing and unusable settings are an `InputError`."""
    known = [key for key in inspect.signature(factory).parameters if key != "self"]
    for key in settings:
        if key not in known:
            raise InputError(f"{what} has no setting '{key}'{nearest(key, known)}; known: {', '.join(known)}")
    for key, value in settings.items():
        _check_type(factory, key, value, what)
    try:
        return factory(**settings)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: {error}") from error


# Annotation -> the types that fit, and what to say they are. Settings with any other annotation are not checked.
_PLAIN = {
    "bool": ((bool,), "true or false"),
    "float": ((int, float), "a number"),
    "int": ((int,), "a whole number"),
    "str": ((str,), "a word"),
}


def _check_type(factory: Callable[..., Any], key: str, value: Any, what: str) -> None:
    """Raise `InputError` for a value that a plain annotation, alone or beside None, rules out; NaN is no number."""
    names = str(inspect.signature(factory).parameters[key].annotation).split(" | ")
    wanted = [name for name in names if name != "None"]
    if not set(wanted) <= _PLAIN.keys() or (value is None and "None" in names):
        return
    # Python takes True for 1.
    fitting = wanted if not isinstance(value, bool) else [name for name in wanted if name == "bool"]
    if value != value or not any(isinstance(value, _PLAIN[name][0]) for name in fitting):
        raise InputError(f"{what}: got {key} {value!r}, expected {' or '.join(_PLAIN[name][1] for name in wanted)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a known name is near, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
