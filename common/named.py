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


# Annotated with one of these, alone or beside None, a setting can be checked before anything is made of it.
_PLAIN = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def _check_type(factory: Callable[..., Any], key: str, value: Any, what: str) -> None:
    """Raise `InputError` for a value that the annotation of a plain setting rules out."""
    annotation = inspect.signature(factory).parameters[key].annotation
    names = {name.strip() for name in str(getattr(annotation, "__name__", annotation)).split("|")}
    known = {kind.__name__: kind for kind in _PLAIN}
    wanted = [known[name] for name in sorted(names - {"None"}) if name in known]
    if (value is None and "None" in names) or not wanted or len(wanted) < len(names - {"None"}):
        return
    fits = any(
        isinstance(value, bool)
        if kind is bool
        else isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        for kind in wanted
    )
    if not fits or value != value:
        raise InputError(f"{what}: got {key} {value!r}, expected {' or '.join(_PLAIN[kind] for kind in wanted)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a known name is near, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
