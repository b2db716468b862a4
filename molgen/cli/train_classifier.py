"""`molgen train-classifier`."""

from __future__ import annotations

from typing import Any

from common.cli.app import Verb
from common.cli.classifier import ClassifierOptions, run_classifier_training


def run(options: ClassifierOptions) -> dict[str, Any]:
    """Train a predictor of a model's noisy molecules."""
    from common.cli.doctor import pick_device
    from molgen.finetune import MoleculeTask
    from molgen.pretrained import load_pretrained

    device = pick_device(options.device)
    task = MoleculeTask(
        load_pretrained(options.base, device), data=options.data, data_folder=options.data_folder, labels=options.labels
    )
    return run_classifier_training(options, "molgen", task, device)


VERB = Verb("train-classifier", "train a predictor of noisy molecules, for --guidance classifier",
            ClassifierOptions, run)  # fmt: skip
