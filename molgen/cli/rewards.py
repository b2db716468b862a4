"""`molgen rewards`: what can be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.options import option
from common.errors import InputError

_AIMS = """aims:     gap=4.5±0.2 (or +-)   alpha<70   4<gap<5   maximise qed   minimise sa_score from 1 to 6
filters:  require valid   require gap>4   forbid substructure([N+](=O)[O-])
weights:  gap=4.5±0.2 weight 2        several: joined by commas, or --reward again
yours:    my_score.py:score   (list of rdkit.Chem.Mol -> list of float or None; larger is better)"""


@dataclass(frozen=True, kw_only=True)
class RewardsOptions(CommonOptions):
    """Options of `molgen rewards`."""

    measure: bool = option(False, "measure the cost of each scorer on embedded molecules")
    num_molecules: int = option(8, "molecules for --measure")


def run(options: RewardsOptions) -> dict[str, Any]:
    """List, measure if asked, print."""
    from common.user_function import installed_functions
    from molgen.rewards.table import GROUP, REWARDS

    costs: dict[str, float] = {}
    bonds = None
    if options.measure:
        from molgen.data.gdb7_xtb import load
        from molgen.rewards.cost import measure_costs

        if options.num_molecules < 1:
            raise InputError(f"got --num-molecules {options.num_molecules}, expected at least 1")
        costs, bonds = measure_costs(load().select(range(options.num_molecules)))
    scorers = [
        {
            "name": scorer.name,
            "takes": scorer.takes,
            "aliases": list(scorer.aliases),
            "unit": scorer.unit,
            "needs": scorer.needs,
            "differentiable": scorer.differentiable,
            "device": scorer.device,
            "tolerance": scorer.tolerance,
            "bounds": scorer.bounds,
            "description": scorer.description,
            "seconds_per_sample": costs.get(scorer.name),
        }
        for scorer in REWARDS.values()
    ]
    # Loading an installed package's function is running its code, so they are only named.
    installed = {name: point.value for name, point in installed_functions(GROUP).items()}
    if not options.json:
        _print(scorers, options.measure)
        if bonds is not None:
            print(f"needs bonds: {1e3 * bonds:.2f} ms a sample more, once for all of them")
        for name, value in installed.items():
            print(f"installed: {name} ({value})")
        print(_AIMS)
    return {"rewards": scorers, "bond_perception_seconds_per_sample": bonds, "installed": installed}


def _print(scorers: list[dict[str, Any]], measured: bool) -> None:
    rows = []
    for s in scorers:
        row = [
            s["name"] + (f"({s['takes']})" if s["takes"] else ""),
            min(s["aliases"], key=len, default=""),
            s["unit"] or "-",
            s["needs"],
            "yes" if s["differentiable"] else "no",
            s["device"],
            s["description"],
        ]
        if measured:
            row.insert(6, f"{1e3 * s['seconds_per_sample']:.3g}")
        rows.append(row)
    columns = ["name", "short", "unit", "needs", "differentiable", "device", "what"]
    if measured:
        columns.insert(6, "ms a sample")
    print_table("scorers", columns, rows)


VERB = Verb("rewards", "what can be scored and aimed at: units, needs, costs", RewardsOptions, run)
