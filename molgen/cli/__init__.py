"""The command `molgen`."""

from __future__ import annotations

from collections.abc import Sequence

from common.cli.app import Verb, run_command


def verbs() -> list[Verb]:
    """The verbs of `molgen`, in the order of a project's life."""
    from molgen.cli import (
        benchmark,
        data,
        doctor,
        evaluate,
        extrapolate,
        finetune,
        generate,
        gradients,
        models,
        rewards,
        score,
        train,
        train_classifier,
        train_predictor,
        view,
    )

    return [
        doctor.VERB, models.VERB, data.VERB, rewards.VERB, train.VERB, train_predictor.VERB,
        train_classifier.VERB, finetune.VERB, extrapolate.VERB, gradients.VERB, generate.VERB, evaluate.VERB,
        score.VERB, view.VERB, benchmark.VERB,
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("molgen", "Generate 3D molecules with diffusion models.", verbs(), arguments)
