"""`molgen finetune`."""

from __future__ import annotations

from typing import Any

from common.cli.app import Verb
from common.cli.finetune import FinetuneOptions, run_finetune


def run(options: FinetuneOptions) -> dict[str, Any]:
    """Steer a trained model of molecules by a reward, or give it control inputs."""
    from common.cli.doctor import pick_device
    from common.workers import choose_workers
    from molgen.finetune import MoleculeTask
    from molgen.predictors import DEFAULT
    from molgen.pretrained import load_pretrained

    device = pick_device(options.device)
    workers, launcher = choose_workers(options.workers)
    task = MoleculeTask(
        load_pretrained(options.base, device), data=options.data, data_folder=options.data_folder,
        half=options.half, labels=options.labels, predictor=options.predictor or DEFAULT, aggregate=options.aggregate,
        floor=options.floor, workers=workers, time_limit_s=options.time_limit, launcher=launcher,
    )  # fmt: skip
    try:
        return run_finetune(options, "molgen", task, device)
    finally:
        task.close()


VERB = Verb("finetune", "steer a model by rewards, or add control inputs to it", FinetuneOptions, run)
