"""Put a trained predictor into the package.

python -m molgen.predictors.publish runs/gdb7-egnn gdb7-xtb-egnn
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.predictors.publishing import publish
from molgen.chemistry.elements import symbol
from molgen.predictors import PREDICTORS, load_predictor

LIMITS = """
- It was shown relaxed molecules with at most {noise} Angstrom of noise: far from equilibrium its numbers mean little,
  and its standard deviations do not know how far that is.
- A generator that is trained to please it finds its mistakes. Judge with another predictor, or with xTB.
- Other elements, charges and radicals are outside its data.
"""


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    predictor = load_predictor(options.run)
    elements = ", ".join(symbol(z) for z in predictor.description["codec"]["elements"])
    publish(
        options.run,
        predictor,
        PREDICTORS.folder / options.name,
        f"Predicts {', '.join(predictor.names)} of molecules of {elements} from their 3D structure, with a calibrated "
        "standard deviation, differentiably.",
        LIMITS.format(noise=predictor.description["noise"]["coordinates"]),
    )


if __name__ == "__main__":
    main()
