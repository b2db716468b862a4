"""The command line that both domains share: verbs, exit codes, one line for each error.

Results go to stdout, logs to stderr. Exit codes: 0 all delivered, 1 runtime error, 2 usage, 3 fewer than asked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.atomic import finite
from common.cli.options import (
    HelpFormatter,
    add_options,
    check_values,
    configs_first,
    explain,
    gather_repeated,
    option,
    read_options,
)
from common.errors import IncompleteError, InputError

OK, RUNTIME_ERROR, USAGE_ERROR, INCOMPLETE = 0, 1, 2, 3


@dataclass(frozen=True)
class CommonOptions:
    """What every verb understands."""

    json: bool = option(False, "print the result as JSON on stdout")
    debug: bool = option(False, "show tracebacks and debug logs")

    def check(self) -> None:
        """Raise `InputError` for what cannot be meant, before any work; called for every verb."""
        check_values(self)


@dataclass(frozen=True)
class Verb:
    """One verb of a command.

    Attributes:
        name: as typed.
        help: one line.
        options: a dataclass of options, derived from `CommonOptions`.
        run: does the work and returns what `--json` prints.
    """

    name: str
    help: str
    options: type[CommonOptions]
    run: Callable[[Any], Any]


def run_command(program: str, description: str, verbs: Sequence[Verb], arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` (default: the process's own), run the verb, and return the exit code."""
    table = {verb.name: verb for verb in verbs}
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(program, description, verbs)
    verb = next((table[word] for word in arguments if word in table), None)
    try:
        with _as_argument_error():
            if verb is not None:
                arguments = configs_first(gather_repeated(arguments, verb.options), verb.name)
            parsed = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        _say(program, "error", explain(str(error), verb.options if verb else None))
        _say(program, "hint", f"{program}{f' {verb.name}' if verb else ''} --help lists the options")
        return USAGE_ERROR
    verb = table[parsed.verb]
    options = read_options(parsed[verb.name], verb.options)
    _set_up_logging(options.debug)
    return _run(program, verb, options)


def _run(program: str, verb: Verb, options: CommonOptions) -> int:
    try:
        options.check()
        with _terminable():
            result = verb.run(options)
        _print_json(options, result)
        return OK
    except InputError as error:
        return _fail(program, options, error, USAGE_ERROR, str(error))
    except IncompleteError as error:
        if error.result is not None:
            _print_json(options, error.result)
        return _fail(program, options, error, INCOMPLETE, str(error))
    except KeyboardInterrupt as error:
        return _fail(program, options, error, RUNTIME_ERROR, "interrupted")
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is wrong here.
        sys.stderr.close()
        return OK
    except OSError as error:
        return _fail(
            program, options, error, RUNTIME_ERROR, f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        )
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return _fail(program, options, error, RUNTIME_ERROR, f"{text} (unexpected; --debug shows where)")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: what is made is kept, and what was started is stopped."""
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _print_json(options: CommonOptions, result: Any) -> None:
    if options.json:
        print(json.dumps(finite(result), indent=2, allow_nan=False))


def _fail(program: str, options: CommonOptions, error: BaseException, code: int, message: str) -> int:
    if options.debug:
        logging.getLogger(program).error("traceback:", exc_info=error)
    _say(program, "error" if code != INCOMPLETE else "incomplete", message)
    return code


def _say(program: str, kind: str, message: str) -> None:
    print(f"{program}: {kind}: {message}", file=sys.stderr)


def _parser(program: str, description: str, verbs: Sequence[Verb]) -> ArgumentParser:
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False, formatter_class=HelpFormatter)
    choices = parser.add_subcommands(required=True, dest="verb", title="verbs", metavar="VERB")
    for verb in verbs:
        subparser = ArgumentParser(description=verb.help, exit_on_error=False)
        add_options(subparser, verb.options)
        choices.add_subcommand(verb.name, subparser, help=verb.help)
    return parser


@contextlib.contextmanager
def _as_argument_error() -> Iterator[None]:
    """Every way in which parsing fails is one exception."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentError(None, str(error)) from error


def _set_up_logging(debug: bool) -> None:
    # Other packages speak up only when something is wrong.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for name in ("common", "molgen", "shapegen"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout, for people."""
    # As plain text: rich would take the brackets of `[nH]` or `[eV]` for its own markup.
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
