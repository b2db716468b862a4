"""The command `shapegen`."""

from __future__ import annotations

from collections.abc import Sequence

from common.cli.app import Verb, run_command


def verbs() -> list[Verb]:
    """The verbs of `shapegen`, in the order of a project's life."""
    from shapegen.cli import data, doctor, generate, models, train

    return [doctor.VERB, models.VERB, data.VERB, train.VERB, generate.VERB]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("shapegen", "Generate 3D shapes with diffusion models.", verbs(), arguments)
