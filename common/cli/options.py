"""Command-line options from dataclasses: one field, one `--kebab-case` flag and one YAML key."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, Namespace

from common.errors import InputError
from common.named import nearest

Options = TypeVar("Options")


class HelpFormatter(DefaultHelpFormatter):
    """What `--help` shows, with types in words: `settings` are names with values, as JSON or as YAML."""

    def _get_type_str(self, action: argparse.Action) -> str | None:
        text = super()._get_type_str(action)
        return "settings" if text == str(dict) else text


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of an options class, with the text that `--help` shows (units included).

    The bounds are of a number, and hold for fields of the same name in derived classes; see `check_values`.
    """
    metadata = {"help": help, "at_least": at_least, "above": above, "at_most": at_most}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(help: str, several: bool = False) -> Any:
    """A field of an options class that is positional and must be given; a `list[str]` of one or more if `several`."""
    return dataclasses.field(metadata={"help": help, "positional": True, "nargs": "+" if several else None})


def add_options(parser: ArgumentParser, options: type) -> None:
    """Add a flag for each field of the dataclass `options`, and `--config` for a YAML file with the same keys."""
    parser.add_argument("--config", action="config", help="YAML file with any of the options below, as snake_case keys")
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):
        text = field.metadata["help"]
        if field.metadata.get("positional"):
            if field.metadata["nargs"]:
                parser.add_argument(field.name, type=str, nargs=field.metadata["nargs"], help=text)
            else:
                parser.add_argument(field.name, type=hints[field.name], help=text)
            continue
        default = default_of(options, field.name)
        flag = "--" + field.name.replace("_", "-")
        if hints[field.name] is bool and default:
            parser.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=True, help=text)
        elif hints[field.name] is bool:
            parser.add_argument(flag, action="store_true", default=default, help=text)
        else:
            parser.add_argument(flag, type=hints[field.name], default=default, help=text)


def default_of(options: type, name: str) -> Any:
    """The value that the option `name` has where nobody says otherwise."""
    field: dataclasses.Field[Any] = options.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]


def gather_repeated(arguments: Sequence[str], options: type) -> list[str]:
    """`arguments` with all values of a repeated flag in one: `--reward a --reward b` as `--reward '["a", "b"]'`.

    Flags whose field is a `list[str]` may be repeated; of any other the last one counts.
    """
    hints = get_type_hints(options)
    lists = {"--" + f.name.replace("_", "-") for f in dataclasses.fields(options) if hints[f.name] == list[str]}
    given: dict[str, list[str]] = {}
    rest = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in lists and (equals or (value := next(words, None)) is not None):
            given.setdefault(flag, []).append(value)
        else:
            rest.append(word)
    return rest + [word for flag, values in given.items() for word in (flag, json.dumps(values))]


def configs_first(arguments: Sequence[str], verb: str) -> list[str]:
    """`arguments` with every `--config FILE` right behind the verb: what is typed beats a file, wherever it stands."""
    position = arguments.index(verb) + 1
    configs, rest = [], []
    words = iter(arguments[position:])
    for word in words:
        if word == "--config":
            configs += [word, *islice(words, 1)]
        else:
            (configs if word.startswith("--config=") else rest).append(word)
    return [*arguments[:position], *configs, *rest]


def read_options(namespace: Namespace, options: type[Options]) -> Options:
    """The options object of a parsed namespace."""
    values = namespace.as_dict()
    return options(**{field.name: values[field.name] for field in dataclasses.fields(options)})  # type: ignore[arg-type]


def check_values(options: Any) -> None:
    """Raise `InputError` for a number out of the bounds of its option, or for a flag that is neither true nor false."""
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if hints[field.name] is bool and not isinstance(value, bool):
            # Typed flags are; those of a file may be anything.
            raise InputError(f"got {field.name}: {value!r}, expected true or false")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, above, high = (_bound(type(options), field.name, which) for which in ("at_least", "above", "at_most"))
        # As what must hold, so that NaN fails.
        sound = (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
        if not sound:
            if above is not None:
                expected = f"more than {above:g}"
            else:
                expected = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
            raise InputError(f"got --{field.name.replace('_', '-')} {value}, expected {expected}")


def _bound(options: type, name: str, which: str) -> float | None:
    """A bound of a field, or of the nearest field of that name that a parent has and that gives one."""
    for parent in options.__mro__:
        field = getattr(parent, "__dataclass_fields__", {}).get(name)
        if field is not None and field.metadata.get(which) is not None:
            return field.metadata[which]
    return None


_IN_WORDS = {"float": "a number", "int": "a whole number", "str": "a word", "NoneType": "null"}


def explain(message: str, options: type | None) -> str:
    """A parser's complaint as one line, naming the nearest option where one is unknown."""
    line = " ".join(message.split())
    line = line.replace("a <class 'dict'>", 'settings such as {"name": "..."}')
    line = re.sub(r"<class '(\w+)'>", r"\1", line)
    union = re.search(r'Parser key "(\w+)": .* Subtypes: \[(.+?)\] Errors: .* Given value: (.*)', line)
    if union:
        kinds = [_IN_WORDS.get(kind, kind) for kind in union[2].split(", ")]
        return f"got --{union[1].replace('_', '-')} {union[3]}, expected {' or '.join(kinds)}"
    key = re.search(r"does not accept option '([^']+)'", line)
    flag = re.search(r"unrecognized arguments: --([\w-]+)", line)
    if options is None or not (key or flag):
        return line
    known = [field.name for field in dataclasses.fields(options)]
    if key:
        return line + nearest(key[1], known)
    return line + nearest(flag[1], [name.replace("_", "-") for name in known])  # type: ignore[index]
