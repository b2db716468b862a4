"""The errors that reach a user as one line.

Anything else that is raised is a bug or the machine's failure, and the command line reports it as such.
"""

from typing import Any


class InputError(ValueError):
    """Bad input: the message says what was got, what was expected, and how to mend it, in one line."""


class IncompleteError(RuntimeError):
    """The run ended well but delivered fewer results than were asked for.

    Attributes:
        result: what it delivered, as `--json` prints it; None where that says nothing.
    """

    def __init__(self, message: str, result: Any = None):
        super().__init__(message)
        self.result = result
