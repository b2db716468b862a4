"""`molgen rewards`: what can be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.cli.app import CommonOptions, Verb
from common.cli.options import option
from common.cli.scoring import list_rewards

_AIMS = """aims:     gap=4.5±0.2 (or +-)   alpha<70   4<gap<5   maximise qed   minimise sa_score from 1 to 6
filters:  require valid   require gap>4   forbid substructure([N+](=O)[O-])
weights:  gap=4.5±0.2 weight 2        several: joined by commas, or --reward again
yours:    my_score.py:score   (list of rdkit.Chem.Mol -> list of float or None; larger is better)"""


@dataclass(frozen=True, kw_only=True)
class RewardsOptions(CommonOptions):
    """Options of `molgen rewards`."""

    measure: bool = option(False, "measure the cost of each scorer on embedded molecules")
    num_molecules: int = option(8, "molecules for --measure", at_least=1)


def run(options: RewardsOptions) -> dict[str, Any]:
    """List, measure if asked, print."""
    from molgen.rewards.table import GROUP, REWARDS

    costs, remark = None, ""
    bonds = None
    if options.measure:
        from molgen.data.gdb7_xtb import load
        from molgen.rewards.cost import measure_costs

        costs, bonds = measure_costs(load().select(range(options.num_molecules)))
        remark = f"needs bonds: {1e3 * bonds:.2f} ms a sample more, once for all of them"
    listed = list_rewards(options, REWARDS.values(), GROUP, _AIMS, costs, remark)
    return {**listed, "bond_perception_seconds_per_sample": bonds}


VERB = Verb("rewards", "what can be scored and aimed at: units, needs, costs", RewardsOptions, run)
