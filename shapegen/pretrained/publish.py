"""Put a trained model into the package: weights in half precision, measured quality, and a card.

    python -m shapegen.pretrained.publish runs/procedural runs/procedural-judged procedural

The second folder is a run of `shapegen generate` with that model, judged by `shapegen evaluate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.diffusion import publishing

SHOWN = (
    "1nna_cd_percent", "1nna_cd_samples_percent", "1nna_cd_references_percent", "1nna_emd_percent", "cov_cd_percent",
    "mmd_cd", "jsd", "novelty_percent", "uniqueness_percent",
)  # fmt: skip


def publish(run: Path, judged: Path, target: Path) -> None:
    """See `common.diffusion.publishing.publish`."""
    publishing.publish(run, judged, target, "shapegen", SHOWN, model_card)


def model_card(description: dict[str, Any], rows: dict[str, Any], record: dict[str, Any]) -> str:
    """The card as Markdown."""
    classes = ", ".join(description["codec"]["class_names"])
    return f"""# {description["name"]}

A generator of point clouds of {classes}; in {description["codec"]["unit"]}, absolute size is part of a shape.

{publishing.facts(description, "shapes", "MIT, made by this project")}

## Measured

{publishing.measured(record)}

{publishing.table(rows)}

## Limits

- It knows its classes only, standing upright, and sizes as in its data.
- Points lie near a surface, not on it; `shapegen export` fits one, and says where that fails.
- Thin parts need many points: ask for 8,192 before export.
"""


if __name__ == "__main__":
    publishing.main(Path(__file__).parent, "shapegen", SHOWN, model_card, __doc__)
