"""The verb `models` of both commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb, print_table

if TYPE_CHECKING:
    from common.diffusion.model_store import ModelStore


def models_verb(store: Callable[[], ModelStore]) -> Verb:
    """The verb that lists the models of `store`, which is only asked for when the verb runs (it imports torch)."""
    return Verb("models", "the models that ship with the program", CommonOptions, lambda o: list_models(store(), o))


def list_models(store: ModelStore, options: CommonOptions) -> list[dict[str, Any]]:
    """Name, task, network, size, data, licence and measured quality of each shipped model."""
    from common.diffusion.model_file import WEIGHTS, read_description

    rows = []
    for name in store.names():
        folder = store.find(name)
        description = read_description(folder)
        rows.append(
            {
                "name": name,
                "task": description.get("task", "unconditional"),
                "network": description["network"]["name"],
                "parameters": description.get("training", {}).get("parameters"),
                "size_mb": round((folder / WEIGHTS).stat().st_size / 1e6, 1),
                "data": description.get("data"),
                "licence": description.get("licence"),
                "quality": description.get("quality", {}),
            }
        )
    if not options.json:
        table = [
            (
                row["name"], row["task"], row["network"], f"{(row['parameters'] or 0) / 1e6:.1f} M", row["size_mb"],
                row["data"], row["licence"], "\n".join(f"{k} {v}" for k, v in row["quality"].items()),
            )
            for row in rows
        ]  # fmt: skip
        print_table("models", ("name", "task", "network", "parameters", "MB", "data", "licence", "measured"), table)
    return rows
