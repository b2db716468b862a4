"""What the verb `gradients` of both commands shares: how noisy the gradients of RGDM and of policy gradient are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, print_table
from common.cli.options import argument, option
from common.errors import InputError

if TYPE_CHECKING:
    from common.cli.finetune import FinetuneTask
    from common.training.task import Task

_NAMES = {
    "rgdm": "RGDM (pay-off samples)",
    "policy_gradient": "policy gradient (same candidates)",
    "policy_gradient_returns": "policy gradient (returns of chains)",
}


@dataclass(frozen=True, kw_only=True)
class GradientOptions(CommonOptions):
    """Options of `gradients` in both domains."""

    base: str = argument("model whose gradients are looked at")
    target: list[str] = option([], "the reward, may be repeated: 'gap=4.5±0.2'")
    times: list[float] = option([0.9, 0.7, 0.5, 0.3], "times of the states, 1 is noise")
    states: int = option(4, "states at each time, from chains of the base", at_least=1)
    draws: int = option(16, "independent estimates of each gradient", at_least=3)
    candidates: int = option(8, "candidate steps at each state", at_least=1)
    look_ahead: int = option(1, "network evaluations for a candidate's value")
    tau: float = option(1.0, "temperature", above=0)
    rollout_steps: int = option(30, "network evaluations of a chain", at_least=1)
    rank: int = option(4, "rank of the adapters in whose parameters the gradients are", at_least=1)
    seed: int = option(0, "seed of states and candidates", at_least=0)
    device: str = option("auto", "auto, cpu, cuda or mps")
    workers: int | None = option(None, "processes for scoring (default: one a core)", at_least=1)
    time_limit: float = option(60.0, "seconds for one sample and one kind of calculation", above=0)
    output_dir: str = option("", "run directory with gradients.json and gradients.png (default: runs/NAME-gradients)")
    overwrite: bool = option(False, "replace an existing run directory")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        if not self.target:
            raise InputError("nothing to aim at; give --target 'gap=4.5±0.2'")
        if not self.times or not all(0 < t <= 1 for t in self.times):
            raise InputError(f"got --times {self.times}, expected times above 0 and up to 1")


def run_gradients(options: GradientOptions, domain: FinetuneTask, device: str) -> dict[str, Any]:
    """Measure, print, plot."""
    from common.atomic import write_json
    from common.cli.run_directory import RunDirectory
    from common.training.finetune import Method, policies

    task: Task = domain.task
    pair = policies(task.model.denoiser, (), rank=options.rank, seed=options.seed)
    settings = {
        "candidates": options.candidates,
        "look_ahead": options.look_ahead,
        "proposal": "policy",
        "target": "kl",
    }
    method = Method("rgdm", options.tau, settings, options.rollout_steps)
    algorithm: Any = method.algorithm(pair.policy.process, task.n_channels)  # type: ignore[arg-type]
    with RunDirectory.begin(
        options.output_dir or f"runs/{Path(options.base).name}-gradients", "gradients", options
    ) as directory:
        directory.record(options, device=device, seed=options.seed, base=options.base)
        with domain.reward(options.target, directory / "scores.sqlite") as reward:
            rows = _measure(options, task, pair, algorithm, reward, device)
        write_json(directory / "gradients.json", {"target": options.target, "rows": rows})
        _plot(rows, directory / "gradients.png")
    if not options.json:
        print_table(
            "variance of a gradient over its squared mean (draws that show its direction)",
            ("time", "estimator", "relative variance", "cosine with RGDM's mean"),
            [
                (f"{row['time']:.2f}", _NAMES[row["estimator"]], _number(row["relative"]), f"{row['cosine']:.2f}")
                for row in rows
            ],
        )
        print(directory / "gradients.png")
    return {"output_dir": str(directory.path), "rows": rows}


def _measure(
    options: GradientOptions, task: Task, pair: Any, algorithm: Any, reward: Any, device: str
) -> list[dict[str, Any]]:
    import torch

    from common.algorithms.gradient_noise import compare_gradients
    from common.algorithms.rollout import rollout
    from common.diffusion import SampleNoise, sample_seeds

    sampler = algorithm.sampler
    batch = task.prompt(options.seed, 0, options.states).state(task.n_channels).to(device)
    chains = rollout(pair.reference, sampler, batch, SampleNoise(sample_seeds(options.seed, 0, options.states)))
    parameters = [p for p in pair.policy.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(options.seed)
    rows = []
    for t in options.times:
        place = int((sampler.times() - t).abs().argmin())
        found = compare_gradients(
            algorithm, pair.policy, parameters, pair.reference, reward, chains.state(place), chains.steps[:, place],
            generator, options.draws,
        )  # fmt: skip
        for name, noise in found.items():
            relative, mean = noise.relative, noise.mean
            cosine = torch.nn.functional.cosine_similarity(mean, found["rgdm"].mean, dim=0)
            rows.append(
                {
                    "time": float(sampler.times()[place]),
                    "estimator": name,
                    "relative": relative if math.isfinite(relative) else None,
                    "variance": noise.variance,
                    "squared_mean": float(mean.square().sum()),
                    "cosine": float(cosine),
                    "draws": noise.draws,
                }
            )
    return rows


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label in _NAMES.items():
        mine = [row for row in rows if row["estimator"] == name and row["relative"] is not None]
        axes.plot([row["time"] for row in mine], [row["relative"] for row in mine], "o-", label=label)
    axes.set(xlabel="time of the state (1 = noise)", ylabel="variance / squared mean of the gradient", yscale="log")
    axes.invert_xaxis()
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def _number(value: float | None) -> str:
    return "no direction found" if value is None else f"{value:.3g}"
