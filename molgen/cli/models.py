"""`molgen models`."""

from __future__ import annotations

from typing import Any

from common.cli.app import CommonOptions, Verb, print_table


def run(options: CommonOptions) -> list[dict[str, Any]]:
    """List the shipped models."""
    from common.diffusion.model_file import WEIGHTS, read_description
    from molgen import pretrained

    rows = []
    for name in pretrained.names():
        folder = pretrained.find_model(name)
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


VERB = Verb("models", "the models that ship with the program", CommonOptions, run)
