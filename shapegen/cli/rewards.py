"""`shapegen rewards`: what can be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.cli.app import CommonOptions, Verb
from common.cli.options import option
from common.cli.scoring import list_rewards
from common.errors import InputError

_AIMS = """aims:     height=0.12±0.01 (or +-)   volume<2e-4   1<aspect_ratio<2   maximise stability   minimise symmetry
filters:  require components=1   require drop_stable   forbid watertight
weights:  height=0.12±0.01 weight 2     several: joined by commas, or --reward again
given:    maximise closeness(partial.ply)   (a cloud or mesh in the unit of the shapes, Z up)
learned:  predicted_volume<2e-4           (a network that ships, of procedural shapes; predicted_volume(FOLDER): yours)
yours:    my_score.py:score   (list of trimesh.PointCloud -> list of float or None; larger is better;
          score.takes = "mesh" for trimesh.Trimesh, "tensor" for one torch tensor (B, N, 3))
points:   estimated from points, with gradients; exact where the shape is a mesh. mesh: of points, a mesh is made"""


@dataclass(frozen=True, kw_only=True)
class RewardsOptions(CommonOptions):
    """Options of `shapegen rewards`."""

    measure: bool = option(False, "measure the cost of each scorer on procedural shapes")
    num_shapes: int = option(4, "shapes for --measure", at_least=1)
    points: int = option(2048, "points a shape for --measure")


def run(options: RewardsOptions) -> dict[str, Any]:
    """List, measure if asked, print."""
    from shapegen.rewards.table import GROUP, REWARDS

    costs, remark = None, ""
    reconstruction = None
    if options.measure:
        from shapegen.data.procedural import procedural
        from shapegen.rewards.cloud import MIN_POINTS
        from shapegen.rewards.cost import measure_costs

        if options.points < MIN_POINTS:
            raise InputError(f"got --points {options.points}, expected at least {MIN_POINTS}")
        shapes = procedural(-(-options.num_shapes // 13), points=options.points, workers=1, normals=False)
        costs, reconstruction = measure_costs(shapes.points[: options.num_shapes])
        remark = f"needs mesh: {1e3 * reconstruction:.0f} ms a cloud more, once for all of them"
    listed = list_rewards(options, REWARDS.values(), GROUP, _AIMS, costs, remark)
    return {**listed, "reconstruction_seconds_per_sample": reconstruction}


VERB = Verb("rewards", "what can be scored and aimed at: units, needs, costs", RewardsOptions, run)
