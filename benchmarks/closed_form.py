"""How near each algorithm comes to the tilted law in worlds where that law is known.

    python benchmarks/closed_form.py [--worlds gaussian,centred,mixture,controls] [--methods rgdm,backprop] [--seeds 3]

The worlds and the trainer are those of the tests (`tests/contracts`). `gaussian` is one point on a plane; `centred` has
two and three points of four channels, padding, and no centre of mass on three channels; `mixture` has two modes on the
line, whose weights change over. A distance is KL(samples || tilted law) per degree of freedom after the moments, of the
mixture the Wasserstein-1 distance in units of x; both of 6,000 samples. The tilted law is that of the base's own chain
of steps. Mean and range over the seeds.

`controls` has two inputs that CTRL learns from pay-off samples, each state's candidates weighed for one value or for
several (`values_each`), or in hindsight from samples of the base: mean KL to the posterior in nats a channel, over
three questions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from contracts import control_world
from contracts.tilted_cases import CASES, CENTRED, EUCLIDEAN, MIXTURE
from contracts.worlds import GaussianWorld, noise_source, train

from common.algorithms import RewardWeighted, Rgdm
from common.algorithms.rollout import rollout_sampler
from common.diffusion import State

_SAMPLES = 6000
# Of the world `controls`: chains of an iteration, and iterations.
_CHAINS = ((16, 60), (48, 60), (48, 200))
# name -> (world, iterations, how it is trained beside the defaults).
WORLDS = {
    "gaussian": (EUCLIDEAN, 80, {}),
    "centred": (CENTRED, 150, {}),
    "mixture": (MIXTURE, 120, {"count": 192, "learning_rate": 0.1}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worlds", default=",".join([*WORLDS, "controls"]))
    parser.add_argument("--methods", default="", help="names up to a comma in CASES, joined by commas; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = set(filter(None, options.methods.split(",")))
    cases = {name: case for name, case in CASES.items() if not wanted or name.split(",")[0] in wanted}
    for name in options.worlds.split(","):
        if name == "controls":
            _show_controls(options.seeds)
        else:
            _show(name, cases, options.seeds)


def _show(name: str, cases: dict, seeds: int) -> None:
    world, iterations, settings = WORLDS[name]
    distance, start = _distance(world)
    print(f"\n{name}: the base is {start:.3f} from the tilted law\n")
    print("| method | distance | iterations | evaluations | reward calls | CPU s |\n|---|---|---|---|---|---|")
    for method, (make, _, _) in cases.items():
        runs = [
            train(world, make(world.sampler), iterations=iterations, seed=seed, n_samples=_SAMPLES, **settings)
            for seed in range(seeds)
        ]
        distances = [distance(run.samples) for run in runs]
        mean, cost = sum(distances) / seeds, runs[0].cost
        print(
            f"| {method} | {mean:.4f} ({min(distances):.4f} to {max(distances):.4f}) | {iterations} | "
            f"{cost.evaluations:,} | {cost.reward_calls:,} | {sum(run.seconds for run in runs) / seeds:.1f} |",
            flush=True,
        )


def _show_controls(seeds: int) -> None:
    print("\ncontrols\n\n| chains | learnt from | KL, nats a channel | evaluations | CPU s |\n|---|---|---|---|---|")
    sampler = rollout_sampler(control_world.PROCESS, control_world.STEPS)
    payoff, hindsight = Rgdm(sampler, 1.0, look_ahead=3), RewardWeighted(sampler, 1.0, draws=8)
    ways = [(f"pay-off samples, values a state: {values}", payoff, values) for values in (1, 2, 4, 8)]
    for (chains, iterations), (name, inner, values) in product(_CHAINS, [*ways, ("hindsight", hindsight, 1)]):
        found, start = [], time.process_time()
        for seed in range(seeds):
            policy, cost = control_world.fit(
                inner, iterations, null_share=0.3, chains=chains, updates=5, values_each=values, seed=seed
            )
            divergences = control_world.divergences(policy)
            found.append(sum(divergences) / len(divergences))
        seconds = (time.process_time() - start) / seeds
        print(
            f"| {chains * iterations:,} | {name} | {sum(found) / seeds:.3f} ({min(found):.3f} to {max(found):.3f}) | "
            f"{cost.evaluations:,} | {seconds:.1f} |",
            flush=True,
        )


def _distance(world: object) -> tuple[Callable[[State], float], float]:
    """Distance of samples to the tilted law, and that of the base's own."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(world, GaussianWorld):
        mask = world.batch(_SAMPLES).mask
        base = world.sampler.sample(world.law, mask, world.n_channels, noise_source(generator))
        return lambda state: world.distance(state, world.tilted_chain), world.distance(base, world.tilted_chain)
    target = MIXTURE.tilted_chain_draws(20_000, generator)
    base = MIXTURE.chain_draws(MIXTURE.law, _SAMPLES, generator)
    return lambda state: MIXTURE.distance(state, target), MIXTURE.distance(base, target)


if __name__ == "__main__":
    main()
