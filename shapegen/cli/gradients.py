"""`shapegen gradients`."""

from __future__ import annotations

from typing import Any

from common.cli.app import Verb
from common.cli.gradients import GradientOptions, run_gradients


def run(options: GradientOptions) -> dict[str, Any]:
    """How noisy the gradients of a reward of shapes are, method by method."""
    from common.cli.doctor import pick_device
    from shapegen.finetune import ShapeTask
    from shapegen.pretrained import load_pretrained

    device = pick_device(options.device)
    task = ShapeTask(
        load_pretrained(options.base, device), workers=options.workers, time_limit_s=options.time_limit
    )  # fmt: skip
    try:
        return run_gradients(options, task, device)
    finally:
        task.close()


VERB = Verb("gradients", "variance of RGDM's gradient and of policy gradient on the same states", GradientOptions, run)
