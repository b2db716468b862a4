"""Put a trained predictor into the package.

python -m shapegen.predictors.publish runs/procedural-point_set procedural-point_set
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.predictors.publishing import publish
from shapegen.predictors import PREDICTORS, load_predictor

LIMITS = """
- It was shown clean shapes of its training classes, upright and facing the viewer, with little noise on the points.
- It is best at the number of points that it was trained with (`--points` above); with eight times as many, volumes and
  areas come out a few percent high.
- Its standard deviations do not know how far a shape is from those.
- A generator that is trained to please it finds its mistakes. Judge by the reconstructed mesh.
"""


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    predictor = load_predictor(options.run)
    publish(
        options.run,
        predictor,
        PREDICTORS.folder / options.name,
        f"Predicts {', '.join(predictor.names)} of a shape from its points, with a calibrated standard deviation, "
        "differentiably.",
        LIMITS,
    )


if __name__ == "__main__":
    main()
