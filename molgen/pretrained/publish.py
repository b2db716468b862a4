"""Put a trained model into the package: weights in half precision, measured quality, and a card.

    python -m molgen.pretrained.publish runs/gdb7-transformer runs/gdb7-judged gdb7-xtb

The second folder is a run of `molgen generate` with that model: what it measured is the quality that is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.diffusion import publishing
from molgen.chemistry.elements import symbol
from molgen.data.sources import SOURCES

SHOWN = ("atom_stability", "molecule_stability", "validity", "validity_x_uniqueness", "novelty", "connectedness")


def publish(run: Path, judged: Path, target: Path) -> None:
    """See `common.diffusion.publishing.publish`."""
    publishing.publish(run, judged, target, "molgen", SHOWN, model_card)


def model_card(description: dict[str, Any], rows: dict[str, Any], record: dict[str, Any]) -> str:
    """The card as Markdown."""
    elements = ", ".join(symbol(z) for z in description["codec"]["elements"])
    sizes = description["size_law"]["sizes"]
    source = SOURCES.get(description["data"])
    licence = f"{source.licence} ({source.origin})" if source else "that of the file"
    level = source.level if source else "of any level"
    return f"""# {description["name"]}

An unconditional generator of 3D molecules: elements {elements}, {min(sizes)} to {max(sizes)} atoms with hydrogens.

{publishing.facts(description, "molecules", licence)}

## Measured

{publishing.measured(record)}

{publishing.table(rows)}

Every sample counts; invalid ones are failures.

## Limits

- It knows small molecules only, and neither charges nor radicals were in its data.
- Mirror images are the same to it, as to every E(3)-equivariant model.
- Geometries are like those of its data ({level}); relax them before any use that needs better ones.
- A generated molecule may be unstable, toxic or impossible to make. Nothing here says otherwise.
"""


if __name__ == "__main__":
    publishing.main(Path(__file__).parent, "molgen", SHOWN, model_card, __doc__)
