"""What rewards cost: samples a second for each scorer on one core, and the share of a training step that scoring takes.

    python benchmarks/rewards.py [--molecules 16] [--shapes 8] [--points 512,2048] [--steps 3] [--no-training]

Processor time of one thread for the scorers, without what is loaded once; wall time for the training step, with one
worker a core. A step is one batch of chains of the shipped model, scored, and the updates that follow (policy gradient
on adapters, `finetune`'s defaults).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.diffusion import State
from common.rewards import Reward, RewardResult
from common.training.finetune import Method, finetune, policies
from common.training.fit import FitConfig
from common.training.module import Pieces
from common.training.optimiser import OptimiserConfig
from common.training.task import prompts
from molgen.data import gdb7_xtb
from molgen.finetune import MoleculeTask
from molgen.pretrained import load_pretrained as load_molecules
from molgen.rewards.cost import measure_costs as molecule_costs
from shapegen.data.procedural import procedural
from shapegen.finetune import ShapeTask
from shapegen.pretrained import load_pretrained as load_shapes
from shapegen.rewards.cost import measure_costs as shape_costs

MOLECULE_REWARDS = ("qed", "gap", "alpha", "predicted_gap", "gyration_radius")
SHAPE_REWARDS = ("height", "volume", "mesh_volume")


class TimedReward:
    """A reward that adds up the seconds that it takes.

    Attributes:
        seconds: so far.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self.seconds = 0.0

    @property
    def differentiable(self) -> bool:
        """See `Reward`."""
        return self._reward.differentiable

    def __call__(self, state: State) -> RewardResult:
        """See `Reward`."""
        started = time.perf_counter()
        result = self._reward(state)
        self.seconds += time.perf_counter() - started
        return result


def print_costs(title: str, costs: Mapping[str, float], extra: Mapping[str, float]) -> None:
    """A row for each scorer; `extra` are costs that several scorers share."""
    print(f"\n| {title} | ms | a second and core |\n|---|---|---|")
    for name, seconds in {**costs, **extra}.items():
        cells = "- | -" if math.isnan(seconds) or seconds <= 0 else f"{1e3 * seconds:.3g} | {1 / seconds:,.3g}"
        print(f"| {name} | {cells} |", flush=True)


def print_shares(task: MoleculeTask | ShapeTask, title: str, names: Sequence[str], batch: int, steps: int) -> None:
    """A row for each reward: wall seconds of a training step, and of the scoring in it."""
    print(f"\n| {title}, {batch} chains of 30 steps | a step, s | scoring, s | share |\n|---|---|---|---|")
    for name in names:
        pair = policies(task.model.denoiser, (), active_from=0.15)
        algorithm = Method("policy_gradient", active_from=0.15).algorithm(pair.policy.process, task.n_channels)  # type: ignore[arg-type]
        with task.reward([f"maximise {name}"], None) as reward, tempfile.TemporaryDirectory() as folder:
            # Workers start, networks load.
            reward(task.prompt(1, 0, 4).state(task.n_channels))
            timed = TimedReward(reward)
            started = time.perf_counter()
            result = finetune(
                pair, algorithm, timed, prompts(task, batch, 0), Path(folder),
                optimiser=OptimiserConfig(name="adamw"), pieces=Pieces(256, 256),
                fit_config=FitConfig(max_steps=steps, precision="float32", device="cpu", ema_decay=0.95),
            )  # fmt: skip
            total = time.perf_counter() - started
        share = 100 * timed.seconds / total
        cells = f"{total / result.steps:.3g} | {timed.seconds / result.steps:.3g} | {share:.0f} %"
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--molecules", type=int, default=16)
    parser.add_argument("--shapes", type=int, default=8)
    parser.add_argument("--points", default="512,2048", help="points of a shape")
    parser.add_argument("--steps", type=int, default=3, help="training steps for each reward")
    parser.add_argument("--no-training", action="store_true", help="the scorers alone")
    options = parser.parse_args()
    costs, bonds = molecule_costs(gdb7_xtb.load().select(range(options.molecules)))
    print_costs("scorers of molecules", costs, {"bonds, once for all that need them": bonds})
    for points in map(int, options.points.split(",")):
        clouds = procedural(1, points=points, workers=1, normals=False).points[: options.shapes]
        costs, meshing = shape_costs(clouds)
        print_costs(f"scorers of shapes, {points:,} points", costs, {"mesh of a cloud, once for all": meshing})
    if options.no_training:
        return
    molecules = MoleculeTask(load_molecules("gdb7-xtb"))
    print_shares(molecules, "molecules, gdb7-xtb", MOLECULE_REWARDS, 32, options.steps)
    molecules.close()
    shapes = ShapeTask(load_shapes("procedural"))
    print_shares(shapes, "shapes, procedural, 512 points", SHAPE_REWARDS, 8, options.steps)
    shapes.close()


if __name__ == "__main__":
    main()
